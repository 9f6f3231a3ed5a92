"""When each token was said: the path through a decoder's cross-attention that tokens and frames take together.

As transformers' generate for Whisper. Knows no model and no text.
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray[Any, Any]

_BOTH, _TOKEN, _FRAME = 0, 1, 2
"""What a step of the path goes on by."""


def first_frames(attention: Array, width: int) -> Array:
    """The frame where each token begins.

    Args:
        attention: float32 (heads, tokens, frames), of heads that follow the sound.
        width: an odd number of frames whose median smooths each.

    Returns:
        (tokens,) int64, never falling.
    """
    mean = np.zeros(attention.shape[1:], np.float32)
    for head in attention:
        spread = head.std(0)
        mean += _smooth((head - head.mean(0)) / np.where(spread == 0, 1, spread), width)
    return _path(-mean.astype(np.float64) / len(attention))


def _smooth(rows: Array, width: int) -> Array:
    """The median of so many frames around each."""
    side = width // 2
    if rows.shape[1] <= side:
        return rows
    windows = sliding_window_view(np.pad(rows, ((0, 0), (side, side)), mode="reflect"), width, axis=1)
    return np.asarray(np.partition(windows, side)[..., side])


def _path(cost: Array) -> Array:
    """Where each row begins on the cheapest way from corner to corner of (rows, columns): dynamic time warping.

    Costs add up along one antidiagonal after another, of which each needs the two before it alone.
    """
    rows, columns = cost.shape
    steps = np.empty((rows + 1, columns + 1), np.int8)
    before, last = np.full((2, rows + 1), np.inf, np.float32)
    before[0] = 0
    for diagonal in range(2, rows + columns + 1):
        row = np.arange(max(1, diagonal - columns), min(rows, diagonal - 1) + 1)
        column = diagonal - row
        both, token, frame = before[row - 1], last[row - 1], last[row]
        step = np.where((token < both) & (token < frame), _TOKEN, _FRAME)
        step[(both < token) & (both < frame)] = _BOTH
        steps[row, column] = step
        before, last = last, np.full(rows + 1, np.inf, np.float32)
        last[row] = cost[row - 1, column - 1] + np.choose(step, (both, token, frame))
    begins = np.zeros(rows, np.int64)
    row, column = rows, columns
    while row and column:
        begins[row - 1] = column - 1
        step = steps[row, column]
        row -= step != _FRAME
        column -= step != _TOKEN
    return begins
