"""Keys and values that a graph writes where it reads them: one buffer a layer, a row for each sequence in a batch.

Rows keep lengths of their own; new keys go behind a row's last one. Buffers are as long as asked for at first, and the
memory behind what has been written is not touched. For graphs with GroupQueryAttention on the CPU.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from wherry.session import Port

Array = np.ndarray[Any, Any]


class SharedCache:
    """Buffers (rows, heads, capacity, size), one for each key and value of each layer.

    Attributes:
        arrays: the buffers, in the order of the graph's inputs.
        lengths: (rows,) int64, how much of each row is written.
    """

    def __init__(self, ports: Sequence[Port], rows: int, capacity: int) -> None:
        self.ports = ports
        self.arrays = [np.empty((rows, _fixed(port, 1), capacity, _fixed(port, 3)), port.dtype) for port in ports]
        self.lengths = np.zeros(rows, np.int64)

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Tokens a row has room for."""
        return int(self.arrays[0].shape[2])

    def resize(self, rows: int, capacity: int) -> None:
        """Give room for more rows or longer ones, keeping what is written."""
        length = int(self.lengths.max(initial=0))
        kept = min(rows, self.rows)
        for index, old in enumerate(self.arrays):
            new = np.empty((rows, old.shape[1], capacity, old.shape[3]), old.dtype)
            new[:kept, :, :length] = old[:kept, :, :length]
            self.arrays[index] = new
        self.lengths = np.concatenate([self.lengths[:kept], np.zeros(rows - kept, np.int64)])

    def reorder(self, order: Array, since: int = 0) -> None:
        """Put row `order[i]` in the place of row i; from the token `since` on, where all rows are alike before it.

        Args:
            order: (up to rows,) int64; a row may be there several times, or not at all.
        """
        places = np.flatnonzero(order != np.arange(len(order)))
        if not len(places):
            return
        sources = order[places]
        end = int(self.lengths[sources].max())
        for array in self.arrays:
            array[places, :, since:end] = array[sources, :, since:end]
        self.lengths[places] = self.lengths[sources]

    def read(self, row: int, length: int) -> list[Array]:
        """A copy of the first keys and values of a row, (heads, length, size) each."""
        return [array[row, :, :length].copy() for array in self.arrays]

    def write(self, row: int, parts: Sequence[Array]) -> None:
        """Put what `read` gave at the beginning of a row."""
        for array, part in zip(self.arrays, parts, strict=True):
            array[row, :, : part.shape[1]] = part
        self.lengths[row] = parts[0].shape[1]


def bytes_per_token(ports: Sequence[Port]) -> int:
    """What one token of one row takes in the caches that grow; states take the same however many tokens there are."""
    growing = [port for port in ports if any(isinstance(size, str) for size in port.shape[1:])]
    fixed = [math.prod(size for size in port.shape[1:] if isinstance(size, int)) for port in growing]
    return sum(size * port.dtype.itemsize for size, port in zip(fixed, growing, strict=True))


def _fixed(port: Port, axis: int) -> int:
    size = port.shape[axis]
    assert isinstance(size, int)
    return size
