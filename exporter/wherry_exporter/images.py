"""The images of a model that sees them among its words: random ones, and the features that the model makes of them.

What the model takes is read off the signature of its `get_image_features`. Knows nothing of graphs.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from wherry.vision import tiles
from wherry_exporter.inputs import BATCH, IMAGE_AXES, parameters_of, random_inputs

WHOLE = ("image_sizes", "batch_num_images")
"""What tells of a batch of images how much of each is padding; images of one size have none."""
AXES: Mapping[str, tuple[str, ...]] = {
    "pixel_values": IMAGE_AXES,
    "image_grid_thw": ("num_images", "time_height_width"),
}
PATCHES = ("num_patches", "patch_size")
ALSO = {"grid_thw": "image_grid_thw", "pixel_position_ids": "image_position_ids"}
"""What transformers.js calls inputs, to what transformers does."""
INSTRUCTED = ("qformer_input_ids", "qformer_attention_mask")
"""What is asked of an image, where its features are made with that in view, as InstructBLIP's."""
SEVERAL = (BATCH, "num_images")
"""The first axes where there may be several images a row."""


def image_parameters(model: Any) -> list[str]:
    """The names of what a model makes images' features of, or hands on to its tower."""
    names = list(inspect.signature(model.get_image_features).parameters)
    tower = getattr(getattr(model, "model", None), "vision_tower", None)
    handed = tower is not None and "image_sizes" in parameters_of(tower) and "image_sizes" not in names
    return [*names, "image_sizes"] if handed else names


def takes_tiles(model: Any) -> bool:
    """Whether a model looks at an image as a whole and in tiles, how many being told by the image's size."""
    return hasattr(model.config, "image_grid_pinpoints") and "batch_num_images" not in image_parameters(model)


def image_inputs(model: Any, *, rows: int, seed: int, scale: float = 1) -> list[dict[str, Tensor]]:
    """What a model takes for the images of that many rows of text, row by row.

    Images have the size that the configuration names, or `scale` times that; where they come as patches, each has its
    own. There are two images a row where a model takes several: where it takes a mask of pixels they are padding in
    part, and all but the first row's second image are zeros, which is how such a model knows that there is none.
    """
    takes = image_parameters(model)
    if takes_tiles(model):
        return [_tiles(model, row, seed) for row in range(rows)]
    if "spatial_shapes" in takes:
        return [_filled_patches(model.config, row, round(2 * scale), seed) for row in range(rows)]
    if "image_position_ids" in takes:
        return [_placed_patches(model.config.vision_config, row, round(2 * scale), seed) for row in range(rows)]
    if "image_grid_thw" in takes:
        return [_patches(model.config.vision_config, row, round(2 * scale), seed) for row in range(rows)]
    several = 2 if {"pixel_attention_mask", "batch_num_images"} & set(takes) else 1
    images = random_inputs(model, ["pixel_values"], batch=several * rows, scale=scale, seed=seed)["pixel_values"]
    found = [{"pixel_values": images[several * row : several * (row + 1)]} for row in range(rows)]
    for row, values in enumerate(found):
        pixels = values["pixel_values"]
        if INSTRUCTED[0] in takes:
            values |= _question(model, row, seed)
        if "pixel_attention_mask" in takes:
            mask = torch.ones(1, 2, *pixels.shape[2:], dtype=torch.bool)
            mask[:, 0, :, 3 * pixels.shape[3] // 4 :] = False
            pixels[1:] *= row == 0
            values |= {"pixel_values": pixels[None], "pixel_attention_mask": mask}
        if "image_sizes" in takes:
            values["image_sizes"] = torch.tensor([list(pixels.shape[2:])] * several)
        if "batch_num_images" in takes:
            values["batch_num_images"] = torch.tensor([several])
    return found


def _patches(vision: Any, row: int, units: int, seed: int) -> dict[str, Tensor]:
    side = vision.spatial_merge_size
    grid = torch.tensor([[1, side * units, side * (units + 1 + row % 2)]])
    edge = vision.patch_size
    times = getattr(vision, "temporal_patch_size", None)
    size = (3, edge, edge) if times is None else (3 * times * edge**2,)
    random = torch.Generator().manual_seed(1000 * seed + row)
    pixels = torch.rand(int(grid.prod()), *size, generator=random) * 2 - 1
    return {"pixel_values": pixels, "image_grid_thw": grid}


def _filled_patches(config: Any, row: int, units: int, seed: int) -> dict[str, Tensor]:
    """An image as patches, filled up to as many as the widest of any row has."""
    factor, vision = config.downsample_factor, config.vision_config
    shape = torch.tensor([[factor * units, factor * (units + 1 + row % 2)]])
    count, size = factor**2 * units * (units + 2), vision.num_channels * vision.patch_size**2
    mask = (torch.arange(count)[None] < shape.prod()).to(torch.int64)
    random = torch.Generator().manual_seed(1000 * seed + row)
    pixels = (torch.rand(1, count, size, generator=random) * 2 - 1) * mask[..., None]
    return {"pixel_values": pixels, "pixel_attention_mask": mask, "spatial_shapes": shape}


def _placed_patches(vision: Any, row: int, units: int, seed: int) -> dict[str, Tensor]:
    """An image as patches that tell their column and row, filled up to as many as the widest of any row has."""
    side = vision.pooling_kernel_size
    high, wide = side * units, side * (units + 1 + row % 2)
    places = torch.arange(side**2 * units * (units + 2))
    places = torch.where((places < high * wide)[:, None], torch.stack([places % wide, places // wide], 1), -1)
    random = torch.Generator().manual_seed(1000 * seed + row)
    pixels = torch.rand(1, len(places), 3 * vision.patch_size**2, generator=random) * (places[:, :1] >= 0)
    return {"pixel_values": pixels, "image_position_ids": places[None]}


def _question(model: Any, row: int, seed: int) -> dict[str, Tensor]:
    """As many tokens a row, of which some are padding."""
    random = torch.Generator().manual_seed(1000 * seed + row)
    ids = torch.randint(2, model.config.qformer_config.vocab_size, (1, 6), generator=random)
    return dict(zip(INSTRUCTED, (ids, (torch.arange(6)[None] < 6 - row % 3).to(torch.int64)), strict=True))


def _tiles(model: Any, row: int, seed: int) -> dict[str, Tensor]:
    """An image that is wider than it is high, or the other way round."""
    edge = model.config.vision_config.image_size
    size = (edge, edge * (15 + row) // 10) if row % 2 else (edge * (17 + row) // 10, edge)
    high, wide = tiles.best_size(size, model.config.image_grid_pinpoints)
    count = 1 + high // edge * (wide // edge)
    random = torch.Generator().manual_seed(1000 * seed + row)
    pixels = torch.randn(count, 3, edge, edge, generator=random)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([size])}


@contextmanager
def tiles_as_they_are(model: Any, count: Any) -> Iterator[None]:
    """Let a model give the features of that many tiles, each with what ends a row behind them."""

    def packed(image_features: Sequence[Tensor], *_: Any, image_newline: Tensor, **__: Any) -> tuple[Any, None]:
        features = image_features[0]
        ends = image_newline.expand(features.shape[0], 1, features.shape[2])
        return [torch.cat([features, ends], 1)], None

    with ExitStack() as stack:
        if takes_tiles(model):
            source = sys.modules[type(model).__module__]
            stack.enter_context(patch.object(source, "image_size_to_num_patches", lambda *_, **__: count))
            stack.enter_context(patch.object(model.model, "pack_image_features", packed))
        yield


def features_read(model: Any, images: Mapping[str, Tensor]) -> "np.ndarray[Any, Any] | None":
    """Which of the graph's features stand in the places of image tokens, in order; None for all of them."""
    if not takes_tiles(model):
        return None
    vision, found, first = model.config.vision_config, [], 0
    features = (vision.image_size // vision.patch_size) ** 2
    for height, width in images["image_sizes"].tolist():
        high, wide = tiles.best_size((height, width), model.config.image_grid_pinpoints)
        grid = high // vision.image_size, wide // vision.image_size
        found.append(first + tiles.order((height, width), grid, features))
        first += (1 + grid[0] * grid[1]) * (features + 1)
    return np.concatenate(found)


def joined(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The images, or the sounds, of several rows as a model takes them at once."""
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def graph_images(images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As much of them as a graph takes, which takes whole images alone."""
    return {name: value for name, value in images.items() if name not in WHOLE}


def image_axes(images: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The names of the axes of what a graph takes."""
    if "spatial_shapes" in images:
        return {
            "pixel_values": (SEVERAL[1], *PATCHES),
            "pixel_attention_mask": (SEVERAL[1], PATCHES[0]),
            "spatial_shapes": (SEVERAL[1], "height_width"),
        }
    if "image_position_ids" in images:
        return {
            "pixel_values": (SEVERAL[1], *PATCHES),
            "image_position_ids": (SEVERAL[1], PATCHES[0], "point"),
        }
    if "pixel_attention_mask" in images:
        return {"pixel_values": (*SEVERAL, *IMAGE_AXES[1:]), "pixel_attention_mask": (*SEVERAL, *IMAGE_AXES[2:])}
    if "image_grid_thw" in images:
        whole = PATCHES if images["pixel_values"].ndim == 2 else (PATCHES[0], *IMAGE_AXES[1:])
        return {"pixel_values": whole, "image_grid_thw": AXES["image_grid_thw"]}
    asked = {name: (BATCH, "qformer_sequence_length") for name in INSTRUCTED if name in images}
    return {"pixel_values": IMAGE_AXES, **asked}


def takes_other_sizes(model: Any) -> bool:
    """Whether a model that is told the sizes of images runs on another than its configuration's."""
    told = {"image_sizes", "image_grid_thw", "image_position_ids", "spatial_shapes"}
    if takes_tiles(model) or not told & set(image_parameters(model)):
        return False
    try:
        with torch.no_grad():
            features_of(model, joined(image_inputs(model, rows=2, seed=0, scale=2)))
    except (ValueError, RuntimeError, IndexError, AssertionError):
        return False
    return True


def features_of(model: Any, images: Mapping[str, Tensor]) -> Tensor:
    """One vector for each image token, in order: what stands in its place, then what is added after later layers."""
    output = model.get_image_features(**images)
    layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
    return torch.cat([torch.cat([image.flatten(0, -2) for image in layer]) for layer in layers], -1)
