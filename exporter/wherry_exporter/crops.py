"""Models that mix crops into the long ones of a batch's sounds, as a trace has them: into all, of which some are kept.

So the graph holds for any sounds of a batch. Knows no architecture, but what their modules are called.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn


@contextmanager
def crops_for_all(model: nn.Module) -> Iterator[None]:
    """For the time of a trace, swap the methods of CLAP's modules that pick sounds out of a batch."""
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(getattr(module, "patch_embed", None), "mel_conv2d"):
                stack.enter_context(patch.object(module, "forward", partial(_encode, module, module.forward)))
        yield


def _encode(module: Any, forward: Any, input_features: Tensor, is_longer: Tensor, **given: Any) -> Any:
    with patch.object(module.patch_embed, "forward", partial(_embed, module.patch_embed, is_longer)):
        return forward(input_features=input_features, is_longer=is_longer, **given)


def _embed(module: Any, is_longer: Tensor, spectrograms: Tensor, _picked: Tensor) -> Tensor:
    """Patches (batch, patches, size) of spectrograms (batch, 4, height, width): a whole one and three crops of it."""
    whole = module.proj(spectrograms[:, :1])
    crops = module.mel_conv2d(spectrograms[:, 1:].flatten(0, 1)[:, None]).unflatten(0, (-1, 3))
    crops = crops.permute(0, 2, 3, 1, 4).flatten(3)  # side by side
    crops = nn.functional.pad(crops, (0, whole.shape[-1] - crops.shape[-1]))
    mixed = torch.where(is_longer[:, :, None, None], module.fusion_model(whole, crops), whole)
    patches: Tensor = module.norm(mixed.flatten(2).transpose(1, 2) if module.flatten else mixed)
    return patches
