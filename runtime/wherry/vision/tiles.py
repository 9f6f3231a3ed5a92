"""An image as a whole and in tiles, as LLaVA-NeXT looks at it, and which of the tiles' features it reads in what order.

The rules are those of transformers' image processor and model. Knows nothing of pixels and graphs.
"""

from collections.abc import Iterable, Sequence
from math import isqrt
from typing import Any

import numpy as np

from wherry.vision.sizes import Size


def best_size(size: Size, offered: Iterable[Sequence[int]]) -> Size:
    """The (height, width) of those offered that keeps most of an image and then wastes least."""
    height, width = size

    def worth(each: Sequence[int]) -> tuple[int, int]:
        scale = min(each[1] / width, each[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - each[0] * each[1]

    high, wide = max(offered, key=worth)
    return high, wide


def order(size: Size, grid: Size, features: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which features an image is read as: of the whole, then row by row of the tiles, without what pads them.

    Args:
        size: the image's height and width.
        grid: how many tiles there are below and beside each other.
        features: of a tile, a square of them; behind them comes one that ends a row.

    Returns:
        their numbers, counted through the whole and the tiles with each one's end of a row.
    """
    side = isqrt(features)
    rows, columns = np.indices((grid[0] * side, grid[1] * side))
    tiles = 1 + rows // side * grid[1] + columns // side
    places = tiles * (features + 1) + rows % side * side + columns % side
    (height, width), (high, wide) = size, places.shape
    if width / height > wide / high:
        around = (high - int(round(height * (wide / width), 7))) // 2
        places = places[around : high - around]
    else:
        around = (wide - int(round(width * (high / height), 7))) // 2
        places = places[:, around : wide - around]
    ended = np.pad(places, ((0, 0), (0, 1)), constant_values=features)
    return np.concatenate([np.arange(features), ended.ravel()])
