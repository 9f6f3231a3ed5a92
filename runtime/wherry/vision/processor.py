"""Images to pixel values, as the `preprocessor_config.json` of a model says; equal to transformers' on Pillow.

Knows nothing of graphs and tasks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wherry.errors import BundleError, InputError
from wherry.files import read_json
from wherry.vision.kinds import COMMON, KINDS
from wherry.vision.read import MAX_PIXELS
from wherry.vision.sizes import Rule, Size

Array = np.ndarray[Any, Any]
Followed = TypeVar("Followed")

SETTINGS = "preprocessor_config.json"
LEVELS = np.arange(256, dtype=np.uint8)
"""All values of a pixel; what happens to them happens once, and images look it up."""


@dataclass(frozen=True)
class Prepared:
    """One image as a graph takes it.

    Attributes:
        pixels: float32 of shape (3, height, width), or (patches, values).
        mask: int64 of shape (height, width) or (patches,), 0 where pixels or patches are padding.
        size: (height, width) of the image that it was made of.
    """

    pixels: Array
    mask: Array
    size: Size


@dataclass(frozen=True)
class ImageProcessor:
    """Resizes, crops, scales and pads images.

    Attributes:
        kind: which of transformers' processors it is, such as `ViT`; a key of `KINDS`.
        rule: (height, width) to the size that an image is resized to; None leaves it.
        resample: Pillow's resampling filter, 0 to 5.
        crop: (height, width) that is cut out of the centre; None leaves it.
        table: float32 of shape (3, 256): what each level of each channel becomes.
        multiple: edges are padded, on both sides, to a multiple of this.
        pad: (height, width) that is filled up below and on the right; None leaves it.
        ground: the colour that fills an image up to a square, evenly on both sides; None leaves it.
        channels: their order.
    """

    kind: str
    rule: Rule | None
    resample: int
    crop: Size | None
    table: Array
    multiple: int
    pad: Size | None
    channels: tuple[int, int, int]
    ground: tuple[int, ...] | None = None

    @classmethod
    def load(cls, folder: Path) -> "ImageProcessor":
        """Read a model folder's settings.

        Raises:
            BundleError: there are none, or none that can be followed.
        """
        return followed(folder, cls.of)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "ImageProcessor":
        """Follow the settings of a file.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they make no sense.
        """
        kind, told = complete(settings)
        if told["resample"] not in range(6):
            raise ValueError(f"resample is {told['resample']!r}, not a number from 0 to 5")
        for name in ("size", "crop_size", "pad_size"):
            if told.get(name) is not None:
                told[name] = _size(name, told)
        crop = told["crop_size"] if told.get("do_center_crop") else None
        if kind == "ConvNext" and told["do_resize"] and told["size"]["shortest_edge"] < 384:
            crop = dict.fromkeys(("height", "width"), told["size"]["shortest_edge"])
        pad = told.get("pad_size") if told.get("do_pad") else None
        squared = kind in ("DeepseekVL", "Janus") and told["do_pad"]
        return cls(
            kind=kind,
            rule=KINDS[kind].rule(told) if told["do_resize"] else None,
            resample=int(told["resample"]),
            crop=None if crop is None else (crop["height"], crop["width"]),
            table=_table(told),
            multiple=(told.get("size_divisor") or 1) if kind == "DPT" and told["do_pad"] else 1,
            pad=None if pad is None else (pad["height"], pad["width"]),
            channels=(2, 1, 0) if told.get("do_flip_channel_order") else (0, 1, 2),
            ground=tuple(int(mean * 255) for mean in told["image_mean"]) if squared else None,
        )

    def __call__(self, image: Any, *, name: str = "image") -> Prepared:
        """Prepare one image, a PIL.Image.Image of mode RGB.

        Raises:
            InputError: it becomes nothing, or too large.
        """
        width, height = image.size
        if self.rule is not None:
            tall, wide = self.rule(height, width)
            if not 0 < tall * wide <= MAX_PIXELS:
                raise InputError(
                    f"{name} is {width}x{height} and would be resized to {wide}x{tall}: cut it to another shape first"
                )
            image = image.resize((wide, tall), resample=self.resample)
        levels = np.asarray(image)
        if self.ground is not None:
            levels = _squared(levels, self.ground)
        if self.crop is not None:
            levels = _cropped(levels, self.crop, even=self.kind == "TimmWrapper")
        pixels = np.empty((3, *levels.shape[:2]), np.float32)
        for row, channel in enumerate(self.channels):
            pixels[row] = self.table[channel][levels[..., channel]]
        return Prepared(*self._padded(pixels, name), (height, width))

    def _padded(self, pixels: Array, name: str) -> tuple[Array, Array]:
        height, width = pixels.shape[1:]
        around = [-height % self.multiple, -width % self.multiple]
        if any(around):
            pixels = np.pad(pixels, ((0, 0), *((each // 2, each - each // 2) for each in around)))
        mask = np.ones(pixels.shape[1:], np.int64)
        if self.pad is None:
            return pixels, mask
        below, right = self.pad[0] - height, self.pad[1] - width
        if below < 0 or right < 0:
            raise InputError(
                f"{name} becomes {width}x{height}, larger than the {self.pad[1]}x{self.pad[0]} of pad_size"
            )
        return np.pad(pixels, ((0, 0), (0, below), (0, right))), np.pad(mask, ((0, below), (0, right)))


def followed(folder: Path, follow: Callable[[Mapping[str, Any]], Followed]) -> Followed:
    """What is made of a model folder's settings.

    Raises:
        BundleError: there are none, or none that can be followed.
    """
    path, found = folder / SETTINGS, {}
    if path.exists():
        found = read_json(path)
    elif (folder / "processor_config.json").exists():
        path = folder / "processor_config.json"
        found = read_json(path).get("image_processor") or {}
    if not found:
        raise BundleError(f"{folder} has no {SETTINGS}, which tells how images are prepared: copy the model's")
    try:
        return follow(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} cannot be followed: {error}") from error


def complete(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Which processor settings are of, and all that hold, told or not."""
    kind = _kind(settings)
    told = {name: value for name, value in settings.items() if value is not None}
    return kind, {**COMMON, **KINDS[kind].defaults, **told}


def _kind(settings: Mapping[str, Any]) -> str:
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    kind = name.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in KINDS:
        said = f"image_processor_type is {name}" if name else "no image_processor_type"
        raise ValueError(f"{said}; known are {', '.join(KINDS)}")
    return kind


def _size(name: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """A size by the names of its edges; older files have a number or a pair."""
    size = settings[name]
    if isinstance(size, int):
        if name != "size" or settings["default_to_square"]:
            size = {"height": size, "width": size}
        elif "max_size" in settings:
            size = {"shortest_edge": size, "longest_edge": settings["max_size"]}
        else:
            size = {"shortest_edge": size}
    elif isinstance(size, list | tuple):
        size = dict(zip(("height", "width"), size, strict=True))
    found = {edge: int(value) for edge, value in size.items() if value is not None}
    if any(value < 1 for value in found.values()):
        raise ValueError(f"{name} has an edge of {min(found.values())} pixels")
    return found


def _table(settings: Mapping[str, Any]) -> Array:
    """What each level of each channel becomes: float32 of shape (3, 256), rounded where transformers rounds."""
    levels: Array = np.tile(LEVELS, (3, 1))
    if settings["do_rescale"]:
        levels = (levels * float(settings["rescale_factor"])).astype(np.float32)
    levels = levels.astype(np.float32)
    if settings.get("rescale_offset"):
        levels -= 1
    mean, std = (
        np.broadcast_to(np.asarray(settings[name], np.float32), 3)[:, None] for name in ("image_mean", "image_std")
    )
    if settings["do_normalize"]:
        levels = (levels - mean) / std
    if settings.get("include_top"):
        levels = levels / std
    return levels


def _squared(levels: Array, ground: Sequence[int]) -> Array:
    """An image (height, width, 3) in the middle of a square of a colour."""
    edge, (height, width) = max(levels.shape[:2]), levels.shape[:2]
    top, left = (edge - height) // 2, (edge - width) // 2
    square = np.full((edge, edge, 3), ground, np.uint8)
    square[top : top + height, left : left + width] = levels
    return square


def _cropped(levels: Array, size: Size, *, even: bool) -> Array:
    """The centre of an image (height, width, 3), with black around it where the image is smaller.

    Where an odd number of lines is cut off, torchvision's crop begins at an `even` place, others half a line up.
    """
    spare = [edge - wanted for edge, wanted in zip(levels.shape[:2], size, strict=True)]
    if min(spare) < 0:
        lacking = [max(0, -each) for each in spare]
        levels = np.pad(levels, (*((-(-each // 2), each // 2) for each in lacking), (0, 0)))
        spare = [max(0, each) for each in spare]
    top, left = (round(each / 2) if even else each // 2 for each in spare)
    return levels[top : top + size[0], left : left + size[1]]
