"""Models that stretch a table of positions over each image's own size, in a loop over images, as a trace has them.

For the time of a trace the same is reckoned for all images at once, so that it holds for any sizes and any batch. Knows
no architecture, but what their methods are called.
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
def stretched(model: nn.Module) -> Iterator[None]:
    """Swap the methods of a model's modules that stretch positions, ViLT's and SigLIP 2's, and put them back.

    Raises:
        ExportError: patches of large images are left out by chance.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if hasattr(module, "visual_embed"):
                stack.enter_context(patch.object(module, "visual_embed", partial(_embed, module)))
            if hasattr(module, "resize_positional_embeddings"):
                stack.enter_context(patch.object(module, "resize_positional_embeddings", _positions))
        yield


def _embed(module: Any, pixels: Tensor, mask: Tensor, max_image_length: int) -> tuple[Tensor, Tensor, None]:
    """ViLT's embeddings of images of unlike sizes, (batch, 1 + patches, size), and their mask.

    It draws patches, padding's among them, to have as many of each image. Here all are kept, which computes the same:
    padding is masked, and what attends does not ask in which order patches come.
    """
    if max_image_length >= 0:
        raise ExportError(f"it draws {max_image_length} patches of a larger image by chance")
    states = module.patch_embeddings(pixels)
    height, width = states.shape[2:]
    mask = nn.functional.interpolate(mask[:, None].float(), size=(height, width))[:, 0].long()
    first, table = module.position_embeddings.split([1, module.position_embeddings.shape[1] - 1], 1)
    side = module.config.image_size // module.config.patch_size
    rows, columns = mask[:, :, 0].sum(1, keepdim=True), mask[:, 0].sum(1, keepdim=True)
    down, across = (  # corners lie on corners
        _taps(torch.arange(count) * ((side - 1) / (sizes - 1).clamp(min=1)), side)
        for count, sizes in ((height, rows), (width, columns))
    )
    places = (down @ table.reshape(side, -1)).unflatten(-1, (side, -1))  # (batch, height, side, size)
    states = states.flatten(2).transpose(1, 2) + (across[:, None] @ places).flatten(1, 2)
    states = torch.cat([(module.cls_token + first).expand(states.shape[0], -1, -1), states], 1)
    return states, nn.functional.pad(mask.flatten(1), (1, 0), value=1), None


def _positions(table: Tensor, spatial_shapes: Tensor, max_length: int) -> Tensor:
    """SigLIP 2's, (batch, max_length, size), of a table (side, side, size) for a height and width an image."""
    side, (height, width) = table.shape[0], spatial_shapes[:, :, None].unbind(1)
    places = torch.arange(max_length)
    places = torch.where(places < height * width, places, 0)
    down, across = (
        _taps((at + 0.5) * (side / size) - 0.5, side, (side / size).clamp(min=1)[:, :, None])
        for at, size in ((places // width, height), (places % width, width))
    )
    return (down[:, :, :, None] * across[:, :, None, :]).flatten(2) @ table.flatten(0, 1)


def _taps(sources: Tensor, side: int, support: Tensor | float = 1.0) -> Tensor:
    """How much of each of `side` positions is had at places among them, (..., side), smoothed over `support`."""
    taps = (1 - (sources[..., None] - torch.arange(side)).abs() / support).relu()
    return taps / taps.sum(-1, keepdim=True).clamp(min=1e-6)
