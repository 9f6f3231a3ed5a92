"""Images as patches, one after another, with a grid for each that tells its frames, rows and columns.

transformers loops over the grids; here the same is reckoned for all patches at once, so that a trace holds for any
number of images of any sizes. Patches attend to those of their own image, or window of it. Knows no architecture.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.vision_utils import _interpolation_axis_taps_weights

from wherry_exporter.inputs import parameters_of

NAME = "wherry_flash"  # transformers hands over packed sequences whole where the name has "flash" in it


@dataclass
class Packing:
    """The functions of `transformers.vision_utils`, by their names there, and what else grids tell.

    Attributes:
        count: how many patches there are.
    """

    count: Any = 0

    def begin(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Count the patches, which may come as small images of a batch of one."""
        self.count = inputs[0].shape[1 if inputs[0].ndim > 2 else 0]

    def _places(self, grids: Tensor, unit: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each patch, or group of `unit` patches: where its image starts, its place there, and its image's grid."""
        counts = grids.prod(1) // unit
        ends = counts.cumsum(0)
        places = torch.arange(self.count // unit)
        image = (places[:, None] >= ends).sum(1)
        starts, own = (ends - counts)[image], grids[image]
        return starts, places - starts, own[:, 1], own[:, 2]

    def _rows_and_columns(self, grids: Tensor, merge: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, places, height, width = self._places(grids)
        within, blocks = places % (height * width), width // merge
        row = within // (merge**2 * blocks) * merge + within // merge % merge
        column = within // merge**2 % blocks * merge + within % merge
        return row, column, height, width

    def in_blocks(self, grids: Tensor, merge: int) -> Tensor:
        """Where the patches of each block stand, block by block, among those that come row by row."""
        starts, places, height, width = self._places(grids)
        row, column, *_ = self._rows_and_columns(grids, merge)
        return starts + places // (height * width) * height * width + row * width + column

    def get_vision_position_ids(self, grid_thw: Tensor, spatial_merge_size: int, **_: Any) -> Tensor:
        row, column, _height, _width = self._rows_and_columns(grid_thw, spatial_merge_size)
        return torch.stack([row, column], -1)

    def get_vision_attention_seqlens(self, grid_thw: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """Not lengths, but of each patch the frame that it belongs to, which is what `attention` asks for."""
        starts, places, height, width = self._places(grid_thw)
        return starts + places // (height * width), None

    def get_vision_window_index(
        self, grid_thw: Tensor, spatial_merge_size: int, window_size: int, patch_size: int, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """The order of groups of patches by their windows, and of each patch in that order its window."""
        unit, side = spatial_merge_size**2, window_size // spatial_merge_size // patch_size
        starts, places, height, width = self._places(grid_thw, unit)
        rows, columns = height // spatial_merge_size, width // spatial_merge_size
        within = places % (rows * columns)
        windows = starts + places - within + within // columns // side * columns + within % columns // side
        order = torch.argsort(windows * (self.count // unit) + torch.arange(self.count // unit))
        return order, windows[order].repeat_interleave(unit)

    def get_max_seqlen(self, *_: Any, **__: Any) -> None:
        return None

    def get_vision_interpolation_indices_and_weights(
        self,
        grid_thw: Tensor,
        num_grid_per_side: int,
        mode: str = "bilinear",
        align_corners: bool = False,
        spatial_merge_size: int = 1,
        padding: str = "border",
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        row, column, height, width = self._rows_and_columns(grid_thw, spatial_merge_size)
        taps = partial(
            _interpolation_axis_taps_weights,
            side=num_grid_per_side,
            mode=mode,
            align_corners=align_corners,
            padding=padding,
        )
        (above, down), (beside, across) = taps(row, height), taps(column, width)
        indices = above[:, :, None] * num_grid_per_side + beside[:, None, :]
        return indices.flatten(1), (down[:, :, None] * across[:, None, :]).flatten(1)

    def attention(
        self, _module: Any, query: Tensor, key: Tensor, value: Tensor, cu_seq_lens_q: Tensor, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        """transformers' attention interface."""
        mask = cu_seq_lens_q[:, None] == cu_seq_lens_q
        if (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
        output = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
        return output.transpose(1, 2), None


def _lengths_of_images(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What GLM's positions take for the lengths of sequences, where `Packing` tells of patches instead."""
    patches, _, shapes, *places = inputs
    return (patches, shapes.prod(1), shapes, *places)


@contextmanager
def packed_images(model: Any) -> Iterator[tuple[nn.Module, Packing]]:
    """The module that takes images as patches, and what reckons with grids of any images for the time of a trace."""
    tower: Any = next(module for module in model.modules() if "grid_thw" in parameters_of(module))
    source, packing = sys.modules[type(tower).__module__], Packing()
    ALL_ATTENTION_FUNCTIONS.register(NAME, packing.attention)
    with ExitStack() as stack:
        stack.enter_context(tower.register_forward_pre_hook(packing.begin))
        stack.enter_context(patch.object(tower.config, "_attn_implementation_internal", NAME))
        for name in [name for name in vars(Packing) if name.startswith("get_") and hasattr(source, name)]:
            stack.enter_context(patch.object(source, name, getattr(packing, name)))
        for module in tower.modules():
            if parameters_of(module)[1:3] == ["lengths", "image_shapes"]:
                stack.enter_context(module.register_forward_pre_hook(_lengths_of_images))
        for module in [module for module in tower.modules() if "cu_seqlens" in parameters_of(module)]:
            # the patches for a trace put a forward for images of one size in the class
            stack.enter_context(patch.object(module, "forward", module.forward))
        yield tower, packing
