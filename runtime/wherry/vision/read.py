"""Images from files, bytes, arrays and Pillow, as upright RGB. Bounded: a size is looked at before a pixel is decoded.

Knows nothing of models.
"""

import struct
import warnings
import zlib
from functools import cache
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
"""Pillow's decoders that are let at a file: what browsers show. Of a moving image the first frame counts."""

MAX_PIXELS = 2**28 // 3
"""The largest image that is decoded: 256 MiB as RGB, which is where Pillow begins to warn."""

DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow's decoders raise on a damaged file."""


@cache
def pillow() -> Any:
    """The module PIL.Image.

    Raises:
        InputError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("images need Pillow: pip install 'wherry[cpu,vision]'") from error
    return Image


def read_image(source: Any, *, name: str = "image") -> Any:
    """An image, upright as its EXIF orientation says, in RGB as transformers' pipelines convert it.

    Args:
        source: a path, the bytes of a file, a PIL.Image.Image, or a uint8 array of shape (height, width, 3).
        name: what messages call it where it is no path.

    Returns:
        a PIL.Image.Image of mode RGB.

    Raises:
        InputError: something else, a file that is no image, cut short, of no known format or too large.
    """
    image_module = pillow()
    if isinstance(source, np.ndarray):
        return image_module.fromarray(_checked(source, name))
    if isinstance(source, image_module.Image):
        return _upright(source, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _opened(BytesIO(source), name)
    if isinstance(source, str | PathLike):
        name = str(source)
        if name.startswith(("http://", "https://")):
            raise InputError(f"{name} is a web address, which is not fetched: download the image and pass its path")
        try:
            with Path(source).open("rb") as file:
                return _opened(file, name)
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}") from error
        except ValueError as error:  # a null character
            raise InputError(f"cannot read {name!r}: {error}") from error
    raise InputError(f"{name} is a {type(source).__name__}: pass a path, bytes, a PIL image or an array")


def _checked(array: Any, name: str) -> Any:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        shape = " x ".join(map(str, array.shape))
        raise InputError(f"{name} is an array of {array.dtype} {shape}: it must be uint8 of height x width x 3 (RGB)")
    if not array.size:
        raise InputError(f"{name} has no pixels: it is {array.shape[1]}x{array.shape[0]}")
    return array


def _opened(file: Any, name: str) -> Any:
    image_module = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            image = image_module.open(file, formats=FORMATS)
    except image_module.UnidentifiedImageError as error:
        raise InputError(f"{name} is no image that can be read: it must be {', '.join(FORMATS)}") from error
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as error:
        raise InputError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels: make it smaller") from error
    except DAMAGE as error:
        raise InputError(f"{name} is damaged: {_one_line(error)}") from error
    return _upright(image, name)


def _upright(image: Any, name: str) -> Any:
    from PIL import ImageOps

    width, height = image.size
    if not width or not height:
        raise InputError(f"{name} has no pixels: it is {width}x{height}")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} is {width}x{height}, more than {MAX_PIXELS // 10**6} million pixels: make it smaller first"
        )
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except DAMAGE as error:
        raise InputError(f"{name} is damaged: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
