"""Maps of pixels to another size, as torch's `interpolate` does it (`align_corners=False`). Numpy alone."""

from typing import Any

import numpy as np

from wherry.vision.sizes import Size

Array = np.ndarray[Any, Any]

BLOCK = 2**22
"""Elements that are looked at together: what caches hold, and the memory of a map of many classes in full size."""


def bilinear(array: Array, size: Size) -> Array:
    """A float32 array of shape (height, width, ...) in another height and width."""
    return _along(_along(array, *_linear(array.shape[0], size[0]), 0), *_linear(array.shape[1], size[1]), 1)


def bicubic(array: Array, size: Size) -> Array:
    """The same, from four neighbours in each direction."""
    return _along(_along(array, *_cubic(array.shape[0], size[0]), 0), *_cubic(array.shape[1], size[1]), 1)


def classes(logits: Array, size: Size) -> Array:
    """The likeliest class of each pixel: logits of shape (classes, height, width) to int64 of shape `size`."""
    last = np.ascontiguousarray(logits.transpose(1, 2, 0), np.float32)
    (above, rows), columns = _linear(last.shape[0], size[0]), _linear(last.shape[1], size[1])
    found = np.empty(size, np.int64)
    step = max(1, BLOCK // (size[1] * last.shape[2]))
    for start in range(0, size[0], step):
        block = slice(start, start + step)
        found[block] = _along(_along(last, above[:, block], rows[:, block], 0), *columns, 1).argmax(-1)
    return found


def _along(array: Array, places: Array, weights: Array, axis: int) -> Array:
    """Sums of neighbours along an axis; places and weights have shape (neighbours, new size)."""
    shape = [1] * array.ndim
    shape[axis] = -1
    total = array.take(places[0], axis) * weights[0].reshape(shape)
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total += array.take(place, axis) * weight.reshape(shape)
    return np.asarray(total)


def _sources(old: int, new: int) -> Array:
    return (np.arange(new, dtype=np.float32) + np.float32(0.5)) * (np.float32(old) / np.float32(new)) - np.float32(0.5)


def _linear(old: int, new: int) -> tuple[Array, Array]:
    sources = np.maximum(_sources(old, new), 0)
    first = np.minimum(sources.astype(np.int64), old - 1)
    share = sources - first.astype(np.float32)
    return np.stack([first, np.minimum(first + 1, old - 1)]), np.stack([1 - share, share])


def _cubic(old: int, new: int) -> tuple[Array, Array]:
    sources = _sources(old, new)
    first = np.floor(sources)
    share = sources - first
    places = np.stack([first.astype(np.int64) + step for step in (-1, 0, 1, 2)])
    weights = np.stack([_far(share + 1), _near(share), _near(1 - share), _far(2 - share)])
    return places.clip(0, old - 1), weights


def _near(distance: Array) -> Array:
    return ((1.25 * distance - 2.25) * distance * distance + 1).astype(np.float32)


def _far(distance: Array) -> Array:
    return (((-0.75 * distance + 3.75) * distance - 6) * distance + 3).astype(np.float32)
