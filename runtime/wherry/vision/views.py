"""An image among words: what a graph for images takes of it, whole, in parts or as patches.

Knows nothing of graphs and tasks. The rules are those of transformers' Idefics3, LLaVA-NeXT, Qwen2-VL, GLM-4V,
PaddleOCR-VL, Pixtral and Gemma 4 image processors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.files import read_json
from wherry.vision import sizes, tiles
from wherry.vision.processor import Array, ImageProcessor, complete, followed
from wherry.vision.read import pillow

SLENDER = 200
"""How often the longer edge may hold the shorter one, where an image comes as patches."""
PATCHED = ("Glm46V", "Glm4v", "PaddleOCRVL", "Qwen2VL")
"""Kinds of processors that make patches of an image, as many as it has."""


@dataclass(frozen=True)
class View:
    """One image as a graph takes it.

    Attributes:
        pixels: float32 of shape (parts, 3, height, width), the whole image last, or of one (patches, values) or
            (patches, 3, edge, edge).
        rows: of parts beside the whole, or of features where each row of them is told apart; 0 where there are none.
        columns: likewise.
        grid: int64 (1, 3), patches in time, height and width, where it comes as patches.
        size: the image's own height and width, where its features are read by them; the whole is the first part then.
        places: int64 (patches, 2), the column and row of each patch, where those are told.
    """

    pixels: Array
    rows: int = 0
    columns: int = 0
    grid: Array | None = None
    size: sizes.Size | None = None
    places: Array | None = None

    @property
    def has_parts(self) -> bool:
        """Whether the image is there as parts of the same number of features."""
        return self.grid is None and self.size is None and self.places is None


@dataclass(frozen=True)
class Viewer:
    """Makes views of images.

    Attributes:
        processor: of a whole image, or of a part.
        edge: of a part; None where the image is whole alone.
        parts: whether there are parts where an image is larger than one.
        first: what an image that is cut into parts is resized to before; one in tiles, to be seen as a whole.
        patch: (edge, how often it is repeated in time, patches an edge of a feature), where it comes as patches.
        offered: (height, width) of what an image may be cut into tiles of, each of `edge`.
        small: whether patches are small images, row by row, and not values, those of a feature together.
        side: pixels an edge of a feature, where rows of features are told apart; 0 where they are not.
        placed: whether patches, row by row, tell their places.
    """

    processor: ImageProcessor
    edge: int | None = None
    parts: bool = False
    first: sizes.Rule | None = None
    patch: tuple[int, int, int] | None = None
    offered: Sequence[Sequence[int]] = ()
    small: bool = False
    side: int = 0
    placed: bool = False

    @classmethod
    def load(cls, folder: Path) -> "Viewer":
        """Read a model folder's settings.

        Raises:
            BundleError: there are none, or none that can be followed.
        """
        whole = folder / "processor_config.json"
        told = read_json(whole) if whole.exists() else {}
        if told.get("processor_class") == "PixtralProcessor":
            return followed(folder, partial(cls.in_rows, told))
        return followed(folder, cls.of)

    @classmethod
    def in_rows(cls, whole: Mapping[str, Any], settings: Mapping[str, Any]) -> "Viewer":
        """Follow the settings of a file, and those of the processor as a whole, whose features stand in rows."""
        side = int(whole["patch_size"]) * int(whole["spatial_merge_size"])
        return replace(cls.of({**settings, "patch_size": side}), side=side)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Viewer":
        """Follow the settings of a file.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they make no sense.
        """
        kind, told = complete(settings)
        if told.get("do_pan_and_scan"):
            raise ValueError("do_pan_and_scan is not followed: set it to false")
        processor = ImageProcessor.of(settings)
        if kind in ("Idefics3", "SmolVLM"):
            edge = int(told["max_image_size"]["longest_edge"])
            if edge < 1:
                raise ValueError(f"max_image_size is {edge} pixels")
            return cls(replace(processor, rule=None), edge, bool(told["do_image_splitting"]), processor.rule)
        if kind == "LlavaNext":
            size, crop = told["size"], told["crop_size"]
            edge = int(crop["height"] if isinstance(crop, Mapping) else crop)
            whole = size if "height" in size else dict.fromkeys(("height", "width"), size["shortest_edge"])
            offered = [(int(high), int(wide)) for high, wide in told["image_grid_pinpoints"]]
            if edge < 1 or not offered or any(length < 1 or length % edge for each in offered for length in each):
                raise ValueError(f"image_grid_pinpoints are {offered}, no multiples of tiles of {edge} pixels")
            return cls(processor, edge, first=sizes.exact(whole["height"], whole["width"]), offered=offered)
        if kind in PATCHED:
            return cls(
                processor,
                patch=(int(told["patch_size"]), int(told["temporal_patch_size"]), int(told["merge_size"])),
                small=kind == "PaddleOCRVL",
            )
        if kind == "Gemma4":
            return cls(processor, patch=(int(told["patch_size"]), 1, int(told["pooling_kernel_size"])), placed=True)
        return cls(processor)

    def __call__(self, image: Any, *, name: str = "image") -> View:
        """Prepare one image, a PIL.Image.Image of mode RGB.

        Raises:
            InputError: it becomes nothing, too large, or is too slender.
        """
        if self.edge is not None and self.first is not None and self.offered:
            return self._tiled(image, self.edge, self.first, name)
        if self.edge is not None:
            return self._cut(image, self.edge, name)
        if self.patch is not None and not self.placed and max(image.size) > SLENDER * min(image.size):
            raise InputError(f"{name} is {image.width}x{image.height}, more slender than 1:{SLENDER}: cut it first")
        pixels = self.processor(image, name=name).pixels
        if self.side:
            return View(pixels[None], pixels.shape[1] // self.side, pixels.shape[2] // self.side)
        if self.patch is None:
            return View(pixels[None])
        if self.placed:
            return placed(pixels, self.patch[0])
        return row_by_row(pixels, self.patch[0]) if self.small else packed(pixels, *self.patch)

    def _cut(self, image: Any, edge: int, name: str) -> View:
        def resized(given: Any, size: sizes.Size) -> Any:
            return given.resize(size[::-1], resample=self.processor.resample)

        if self.first is not None:
            image = resized(image, self.first(image.height, image.width))
        rows = columns = 0
        found = []
        if self.parts:
            image = resized(image, sizes.tiled(edge)(image.height, image.width))
            if max(image.size) > edge:
                rows, columns = image.height // edge, image.width // edge
                corners = [(column * edge, row * edge) for row in range(rows) for column in range(columns)]
                found = [image.crop((left, top, left + edge, top + edge)) for left, top in corners]
        if image.size != (edge, edge):
            image = resized(image, (edge, edge))
        every = [self.processor(part, name=name).pixels for part in (*found, image)]
        return View(np.stack(every), rows, columns)

    def _tiled(self, image: Any, edge: int, whole: sizes.Rule, name: str) -> View:
        def resized(size: sizes.Size) -> Any:
            return image.resize(size[::-1], resample=self.processor.resample)

        size = image.height, image.width
        high, wide = tiles.best_size(size, self.offered)
        scale = min(wide / image.width, high / image.height)
        fitting = min(ceil(image.height * scale), high), min(ceil(image.width * scale), wide)
        filled = pillow().new("RGB", (wide, high))
        filled.paste(resized(fitting), ((wide - fitting[1]) // 2, (high - fitting[0]) // 2))
        corners = [(left, top) for top in range(0, high, edge) for left in range(0, wide, edge)]
        found = [filled.crop((left, top, left + edge, top + edge)) for left, top in corners]
        found.insert(0, resized(whole(*size)))
        pixels = np.stack([self.processor(part, name=name).pixels for part in found])
        return View(pixels, high // edge, wide // edge, size=size)


def packed(pixels: Array, edge: int, times: int, merge: int) -> View:
    """An image (3, height, width) as patches, those together that become one feature."""
    channels, *size = pixels.shape
    high, wide = (length // edge for length in size)
    patches = pixels.reshape(channels, high // merge, merge, edge, wide // merge, merge, edge)
    patches = patches.transpose(1, 4, 2, 5, 0, 3, 6).reshape(high * wide, channels, 1, edge, edge)
    repeated = np.broadcast_to(patches, (high * wide, channels, times, edge, edge))
    return View(repeated.reshape(high * wide, -1), grid=np.array([[1, high, wide]]))


def row_by_row(pixels: Array, edge: int) -> View:
    """An image (3, height, width) as patches that are small images, row by row."""
    channels, *size = pixels.shape
    high, wide = (length // edge for length in size)
    patches = pixels.reshape(channels, high, edge, wide, edge).transpose(1, 3, 0, 2, 4)
    return View(patches.reshape(high * wide, channels, edge, edge), grid=np.array([[1, high, wide]]))


def placed(pixels: Array, edge: int) -> View:
    """An image (3, height, width) as patches, row by row, channels last in each, with their columns and rows."""
    channels, *size = pixels.shape
    high, wide = (length // edge for length in size)
    patches = pixels.reshape(channels, high, edge, wide, edge).transpose(1, 3, 2, 4, 0).reshape(high * wide, -1)
    places = np.indices((high, wide))[::-1].reshape(2, -1).T
    return View(patches, places=places)


def positions(image: Array, grids: Sequence[Array], merge: int) -> Array:
    """Where tokens stand in time, height and width, as Qwen2-VL counts (arXiv:2409.12191, section 2.1).

    Args:
        image: bool (length,), which tokens stand for features of images.
        grids: of each image, (1, 3).
        merge: patches an edge of a feature.

    Returns:
        int64 (3, 1, length).
    """
    found, at, start = [], 0, 0
    for grid in grids:
        words = int(image[at:].argmax())
        found.append(np.tile(start + np.arange(words), (3, 1)))
        start += words
        _, high, wide = (grid[0] // (1, merge, merge)).tolist()
        places = np.indices((1, high, wide)).reshape(3, -1)
        found.append(start + places)
        start += max(high, wide)
        at += words + high * wide
    found.append(np.tile(start + np.arange(len(image) - at), (3, 1)))
    return np.concatenate(found, 1)[:, None]
