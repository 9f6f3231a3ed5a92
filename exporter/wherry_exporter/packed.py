"""Sounds whose frames stand one after another, each attending to those of its own window of its own sound.

transformers cuts them apart in a loop over sounds and windows; here a mask tells them apart, so that a trace holds for
any number of sounds of any length. Knows no architecture.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wherry_exporter.inputs import parameters_of

NAME = "wherry_flash_sounds"  # transformers hands over packed sequences whole where the name has "flash" in it


@contextmanager
def packed_sounds(model: Any) -> Iterator[None]:
    """Let sounds be told apart by a mask, where the model packs them."""
    modules = [module for module in model.modules() if "cu_seqlens" in parameters_of(module)]
    if not modules:
        yield
        return
    source: Any = sys.modules[type(modules[0]).__module__]
    lengths = source._get_feat_extract_output_lengths

    def windows(chunks: Tensor, sounds: Tensor, n_window_infer: int, n_window: int, **_: Any) -> Tensor:
        """Not boundaries, but the frames of a window and those of each sound."""
        window = lengths(chunks, n_window).max() * (n_window_infer // (2 * n_window))
        return torch.cat([window[None], lengths(sounds, n_window)])

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    with ExitStack() as stack:
        stack.enter_context(patch.object(modules[-1].config, "_attn_implementation_internal", NAME))
        stack.enter_context(patch.object(source, "get_audio_cu_seqlens", windows))
        stack.enter_context(patch.object(source, "get_max_seqlen", lambda *_, **__: None))
        for module in modules:  # the patches for a trace put a forward for sounds of one length in the class
            stack.enter_context(patch.object(module, "forward", module.forward))
        yield


def _attention(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, cu_seq_lens_q: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface."""
    window, lengths = cu_seq_lens_q[0], cu_seq_lens_q[1:]
    ends, places = lengths.cumsum(0), torch.arange(query.shape[2])
    sound = (places[:, None] >= ends).sum(1)
    first = (ends - lengths)[sound]
    part = first + (places - first) // window * window
    output = nn.functional.scaled_dot_product_attention(query, key, value, part[:, None] == part, scale=scaling)
    return output.transpose(1, 2), None
