"""Images whose patches a model draws from by chance, to have as many of each image; a trace keeps all of them.

Where nothing is left out but padding, that computes the same: what is padding is masked, and whoever attends does not
ask in which order patches come. It holds for any sizes, which transformers' loop over images does not.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from wherry_exporter.errors import ExportError


@contextmanager
def whole_images(model: nn.Module) -> Iterator[None]:
    """For the time of a trace, let a model that samples patches, such as ViLT, take all of them.

    Raises:
        ExportError: it leaves out patches of large images, which are not to be foretold.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "visual_embed"):
                stack.enter_context(patch.object(module, "visual_embed", partial(_embed, module)))
        yield


def _embed(module: Any, pixels: Tensor, mask: Tensor, max_image_length: int) -> tuple[Tensor, Tensor, None]:
    """Embeddings and mask of shape (batch, 1 + patches), by the names of transformers' `visual_embed`."""
    if max_image_length >= 0:
        raise ExportError(f"it draws {max_image_length} patches of a larger image by chance")
    states = module.patch_embeddings(pixels)
    height, width = states.shape[2:]
    mask = nn.functional.interpolate(mask[:, None].float(), size=(height, width))[:, 0].long()
    first, table = module.position_embeddings.split([1, module.position_embeddings.shape[1] - 1], 1)
    side = module.config.image_size // module.config.patch_size
    down, across = _taps(mask[:, :, 0].sum(1), height, side), _taps(mask[:, 0].sum(1), width, side)
    places = (down @ table.reshape(side, -1)).unflatten(-1, (side, -1))  # (batch, height, side, size)
    states = states.flatten(2).transpose(1, 2) + (across[:, None] @ places).flatten(1, 2)
    states = torch.cat([(module.cls_token + first).expand(states.shape[0], -1, -1), states], 1)
    return states, nn.functional.pad(mask.flatten(1), (1, 0), value=1), None


def _taps(sizes: Tensor, count: int, side: int) -> Tensor:
    """How a table of `side` positions is stretched over each image's own size: weights (batch, count, side)."""
    step = (side - 1) / (sizes - 1).clamp(min=1)
    sources = torch.arange(count) * step[:, None]
    return (1 - (sources[:, :, None] - torch.arange(side)).abs()).relu()
