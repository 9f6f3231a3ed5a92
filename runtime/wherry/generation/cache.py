"""Keys and values that a graph writes where it reads them: one buffer a layer, a row for each sequence in a batch.

Rows keep lengths of their own; new keys go behind a row's last one. Buffers are as long as asked for at first, and the
memory behind what has been written is not touched. For graphs with GroupQueryAttention.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from wherry.nvidia import Copies
from wherry.session import Port, Session, onnxruntime

Array = np.ndarray[Any, Any]


class Cache(Protocol):
    """What both kinds of buffer do.

    Attributes:
        lengths: (rows,) int64, how much of each row is written.
    """

    lengths: Array

    @property
    def rows(self) -> int:
        """How many rows there is room for."""

    @property
    def capacity(self) -> int:
        """Tokens a row has room for."""

    def resize(self, rows: int, capacity: int) -> None:
        """Give room for more rows or longer ones, keeping what is written."""

    def reorder(self, order: Array, since: int = 0) -> None:
        """Put row `order[i]` in the place of row i; from the token `since` on, where all rows are alike before it.

        Args:
            order: (up to rows,) int64; a row may be there several times, or not at all.
        """

    def read(self, row: int, length: int) -> list[Array]:
        """A copy of the first keys and values of a row, (heads, length, size) each."""

    def write(self, row: int, parts: Sequence[Array]) -> None:
        """Put what `read` gave at the beginning of a row."""

    def bind(self, binding: Any, outputs: Sequence[str], first: int, rows: int) -> None:
        """Bind rows as a graph's inputs, and as those outputs of it."""


class SharedCache:
    """Buffers (rows, heads, capacity, size) of numpy, one for each key and value of each layer."""

    def __init__(self, session: Session, ports: Sequence[Port], rows: int, capacity: int) -> None:
        self.session, self.ports = session, ports
        self.arrays = [np.empty(_shape(port, rows, capacity), port.dtype) for port in ports]
        self.lengths = np.zeros(rows, np.int64)

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        return int(self.arrays[0].shape[2])

    def resize(self, rows: int, capacity: int) -> None:
        length = int(self.lengths.max(initial=0))
        kept = min(rows, self.rows)
        for index, old in enumerate(self.arrays):
            new = np.empty((rows, old.shape[1], capacity, old.shape[3]), old.dtype)
            new[:kept, :, :length] = old[:kept, :, :length]
            self.arrays[index] = new
        self.lengths = np.concatenate([self.lengths[:kept], np.zeros(rows - kept, np.int64)])

    def reorder(self, order: Array, since: int = 0) -> None:
        places = np.flatnonzero(order != np.arange(len(order)))
        if not len(places):
            return
        sources = order[places]
        end = int(self.lengths[sources].max())
        for array in self.arrays:
            array[places, :, since:end] = array[sources, :, since:end]
        self.lengths[places] = self.lengths[sources]

    def read(self, row: int, length: int) -> list[Array]:
        return [array[row, :, :length].copy() for array in self.arrays]

    def write(self, row: int, parts: Sequence[Array]) -> None:
        for array, part in zip(self.arrays, parts, strict=True):
            array[row, :, : part.shape[1]] = part
        self.lengths[row] = parts[0].shape[1]

    def bind(self, binding: Any, outputs: Sequence[str], first: int, rows: int) -> None:
        for port, name, array in zip(self.ports, outputs, self.arrays, strict=True):
            value = self.session.value(array[first : first + rows])
            binding.bind_ortvalue_input(port.name, value)
            binding.bind_ortvalue_output(name, value)


class DeviceCache:
    """Buffers (rows, heads, capacity, size) in a GPU's memory; rows are moved there, and read only when asked for."""

    def __init__(self, session: Session, ports: Sequence[Port], rows: int, capacity: int, copies: Copies) -> None:
        self.session, self.ports, self.copies = session, ports, copies
        self.lengths = np.zeros(rows, np.int64)
        self.capacity = capacity
        self.values = [self._new(port, rows, capacity) for port in ports]
        copies.wait()

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def resize(self, rows: int, capacity: int) -> None:
        length = int(self.lengths.max(initial=0))
        kept = min(rows, self.rows)
        for index, (port, old) in enumerate(zip(self.ports, self.values, strict=True)):
            new = self._new(port, rows, capacity)
            token, heads = _token(port), _fixed(port, 1)
            self.copies.move(
                new.data_ptr(), capacity * token, old.data_ptr(), self.capacity * token, length * token, kept * heads
            )
            self.copies.wait()
            self.values[index] = new
        self.capacity = capacity
        self.lengths = np.concatenate([self.lengths[:kept], np.zeros(rows - kept, np.int64)])

    def reorder(self, order: Array, since: int = 0) -> None:
        places = np.flatnonzero(order != np.arange(len(order)))
        if not len(places):
            return
        sources = order[places]
        end = int(self.lengths[sources].max())
        aside = bool(np.isin(sources, places).any())  # a row that is read after it has been written over
        for port, value in zip(self.ports, self.values, strict=True):
            token, heads = _token(port), _fixed(port, 1)
            pitch, width = self.capacity * token, (end - since) * token
            row, start = heads * pitch, value.data_ptr() + since * token
            froms = [start + int(source) * row for source in sources]
            if aside:
                room = self._new(port, len(places), self.capacity)
                for at, source in enumerate(froms):
                    self.copies.move(room.data_ptr() + at * row, pitch, source, pitch, width, heads)
                froms = [room.data_ptr() + at * row for at in range(len(places))]
            for place, source in zip(places, froms, strict=True):
                self.copies.move(start + int(place) * row, pitch, source, pitch, width, heads)
            if aside:
                self.copies.wait()  # before `room` goes
        self.copies.wait()
        self.lengths[places] = self.lengths[sources]

    def read(self, row: int, length: int) -> list[Array]:
        parts = []
        for port, value in zip(self.ports, self.values, strict=True):
            token, heads = _token(port), _fixed(port, 1)
            part = np.empty((heads, length, _fixed(port, 3)), port.dtype)
            pitch = self.capacity * token
            at = value.data_ptr() + row * heads * pitch
            self.copies.move(part.ctypes.data, length * token, at, pitch, length * token, heads)
            parts.append(part)
        self.copies.wait()
        return parts

    def write(self, row: int, parts: Sequence[Array]) -> None:
        for port, value, part in zip(self.ports, self.values, parts, strict=True):
            token, heads = _token(port), _fixed(port, 1)
            given = np.ascontiguousarray(part)
            pitch, width = self.capacity * token, given.shape[1] * token
            self.copies.move(value.data_ptr() + row * heads * pitch, pitch, given.ctypes.data, width, width, heads)
        self.copies.wait()
        self.lengths[row] = parts[0].shape[1]

    def bind(self, binding: Any, outputs: Sequence[str], first: int, rows: int) -> None:
        memory, index = self.session.memory, self.session.index
        for port, name, value in zip(self.ports, outputs, self.values, strict=True):
            shape = _shape(port, rows, self.capacity)
            at = value.data_ptr() + first * math.prod(shape[1:]) * port.dtype.itemsize
            binding.bind_input(port.name, memory, index, port.element, shape, at)
            binding.bind_output(name, memory, index, port.element, shape, at)

    def _new(self, port: Port, rows: int, capacity: int) -> Any:
        shape = _shape(port, rows, capacity)
        make = onnxruntime().OrtValue.ortvalue_from_shape_and_type
        value = make(shape, port.element, self.session.memory, self.session.index)
        self.copies.clear(value.data_ptr(), value.tensor_size_in_bytes())
        return value


def bytes_per_token(ports: Sequence[Port]) -> int:
    """What one token of one row takes in the caches that grow; states take the same however many tokens there are."""
    growing = [port for port in ports if any(isinstance(size, str) for size in port.shape[1:])]
    fixed = [math.prod(size for size in port.shape[1:] if isinstance(size, int)) for port in growing]
    return sum(size * port.dtype.itemsize for size, port in zip(fixed, growing, strict=True))


def _shape(port: Port, rows: int, capacity: int) -> list[int]:
    return [rows, _fixed(port, 1), capacity, _fixed(port, 3)]


def _token(port: Port) -> int:
    """Bytes of one head's key or value of one token."""
    return _fixed(port, 3) * port.dtype.itemsize


def _fixed(port: Port, axis: int) -> int:
    size = port.shape[axis]
    assert isinstance(size, int)
    return size
