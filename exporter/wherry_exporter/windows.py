"""Attention of Longformer's and CANINE's kind, within windows, as a trace has it: whole, with a mask.

Such modules cut a sequence into overlapping pieces, so many that a trace fixes its length. The mask says the same of
any length, and costs what attention over all of it does. Knows no architecture, but what their modules are called.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn


@contextmanager
def windows_as_masks(model: nn.Module) -> Iterator[None]:
    """For the time of a trace, swap the methods of Longformer's, LED's and CANINE's modules."""
    everywhere: list[Any] = []  # holds something as soon as a model says which tokens attend to all
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "one_sided_attn_window_size"):
                stack.enter_context(patch.object(module, "forward", partial(_attend, module, everywhere)))
            if hasattr(module, "_pad_to_window_size"):
                merge = partial(_merged, everywhere, module._merge_to_attention_mask)
                stack.enter_context(patch.object(module, "_pad_to_window_size", _as_it_is))
                stack.enter_context(patch.object(module, "_merge_to_attention_mask", merge))
            if getattr(module, "local", False) and hasattr(module, "attend_to_chunk_width"):
                stack.enter_context(patch.object(module, "forward", partial(_attend_within, module)))
        source = sys.modules[type(model).__module__]
        if hasattr(source, "_get_question_end_index"):
            stack.enter_context(patch.object(source, "_get_question_end_index", _first))
        yield


def _as_it_is(pad_token_id: int, **given: Any) -> tuple[Any, ...]:  # noqa: ARG001
    """No padding, and what would be padded."""
    return 0, *given.values()


def _first(ids: Tensor, token: int) -> Tensor:
    """Where each row has that token first, (batch,); the model counts them too."""
    return (ids == token).int().argmax(1)


def _merged(everywhere: list[Any], merge: Any, attention_mask: Tensor, global_attention_mask: Tensor) -> Any:
    everywhere.append(global_attention_mask)
    return merge(attention_mask, global_attention_mask)


def _attend(
    module: Any,
    everywhere: list[Any],
    hidden_states: Tensor,
    attention_mask: Any = None,  # noqa: ARG001
    is_index_masked: Any = None,
    is_index_global_attn: Any = None,
    is_global_attn: Any = None,  # noqa: ARG001
    output_attentions: bool = False,  # noqa: ARG001
) -> tuple[Tensor]:
    """Each token attends to its window and to the tokens that are everywhere; those, with weights of their own, to all.

    Args:
        hidden_states: (batch, tokens, size).
        is_index_masked: (batch, tokens), what is padding.
        is_index_global_attn: (batch, tokens), what is everywhere.
    """
    places = torch.arange(hidden_states.shape[1])
    near = (places[:, None] - places).abs() <= module.one_sided_attn_window_size
    real = ~is_index_masked[:, None, None, :]
    seen = near & real
    if everywhere:
        seen = seen | is_index_global_attn[:, None, None, :]
    found = _mixed(module, hidden_states, seen, "")
    if everywhere:
        whole = _mixed(module, hidden_states, real, "_global")
        found = torch.where(is_index_global_attn[:, None, :, None], whole, found)
    found = torch.where(is_index_masked[:, None, :, None], torch.zeros_like(found), found)
    return (found.transpose(1, 2).flatten(2),)


def _mixed(module: Any, states: Tensor, seen: Tensor, kind: str) -> Tensor:
    """Attention (batch, heads, tokens, size of a head) to what is seen."""
    query, key, value = (
        getattr(module, name + kind)(states).unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(2, 3) / math.sqrt(module.head_dim)
    chances = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    mixed: Tensor = chances @ value
    return mixed


def _attend_within(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,  # noqa: ARG001
) -> tuple[Tensor]:
    """Each token attends to its piece of the sequence, and among it to padding only where there is nothing else.

    Args:
        hidden_states: (batch, tokens, size).
        attention_mask: (batch, tokens, tokens), 1 for what is to be seen.
    """
    piece = torch.arange(hidden_states.shape[1]) // module.attend_to_chunk_stride
    padding = (1 - attention_mask) * torch.finfo(hidden_states.dtype).min
    mask = padding.masked_fill(piece[:, None] != piece, -torch.inf)[:, None]
    mixed = module.self(hidden_states, hidden_states, mask)[0]
    return (module.output(mixed, hidden_states),)
