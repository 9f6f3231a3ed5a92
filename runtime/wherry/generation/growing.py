"""Rows of a graph that gives its whole cache anew in each step, as most graphs that others made do, and on GPUs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wherry.generation.batch import TOKENS, Given, bind
from wherry.session import Port

if TYPE_CHECKING:
    from wherry.generation.decoder import Decoder

Array = np.ndarray[Any, Any]


class GrowingBatch:
    """Rows of a graph that gives its whole cache in each step: padded to the longest, on the graph's side.

    The cross-attention keys and values of a decoder behind an encoder are computed once, and padded on the right.
    """

    chunks = False

    def __init__(self, decoder: "Decoder") -> None:
        self.decoder, self.rows = decoder, 0
        self.joins = decoder.joins
        self.lengths = np.zeros(0, np.int64)
        self.offsets = np.zeros(0, np.int64)  # see SharedBatch
        self.width = 0
        self.given: dict[str, Array] = {}
        self.past: list[Any] = []
        self.cross = [".encoder." in port.name for port in decoder.past]

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array:  # noqa: ARG002
        new, length = ids.shape
        given = _masked(given or {})
        empty = [self._empty(port, new) for port in self.decoder.past]
        feeds = self.decoder.feeds(ids, np.broadcast_to(np.arange(length), ids.shape), np.ones_like(ids), given)
        found, past = self._run(feeds, empty, first=True)
        offsets = given["position_ids"].max((0, 2)) + 1 - length if "position_ids" in given else np.zeros(new, np.int64)
        given = {name: array for name, array in given.items() if name not in TOKENS}
        width = max(length, self.width)
        if self.rows:
            past = [
                self._value(self._joined(port, [each.numpy() for each in pair], width))
                for port, *pair in zip(self.decoder.past, self.past, past, strict=True)
            ]
            given = {name: _stacked([self.given[name], array]) for name, array in given.items()}
        self.lengths = np.concatenate([self.lengths, np.full(new, length)])
        self.offsets = np.concatenate([self.offsets, offsets])
        self.rows, self.width, self.past, self.given = self.rows + new, width, past, given
        return found

    def step(self, tokens: Sequence[int]) -> Array:
        positions = (self.lengths + self.offsets)[:, None]
        self.lengths, self.width = self.lengths + 1, self.width + 1
        columns = np.arange(self.width)
        starts = self.width - self.lengths[:, None] if self.decoder.left else 0
        mask = ((columns >= starts) & (columns < starts + self.lengths[:, None])).astype(np.int64)
        feeds = self.decoder.feeds(np.array(tokens, np.int64)[:, None], positions, mask, self.given)
        logits, self.past = self._run(feeds, self.past, first=False)
        return logits

    def keep(self, order: Array, since: int = 0) -> None:
        alike = since > 0 and len(order) == self.rows  # what came before is the same for all, the encoder's part too
        self.rows, self.lengths, self.offsets = len(order), self.lengths[order], self.offsets[order]
        if not alike:
            self.given = {name: array[order] for name, array in self.given.items()}
        width, self.width = self.width, int(self.lengths.max(initial=0))
        kept = slice(width - self.width, None) if self.decoder.left else slice(self.width)
        self.past = [
            value if cross and alike else self._value(_narrowed(value.numpy()[order], port, kept))
            for value, port, cross in zip(self.past, self.decoder.past, self.cross, strict=True)
        ]

    def _run(self, feeds: Mapping[str, Array], past: Sequence[Any], *, first: bool) -> tuple[Array, list[Any]]:
        session = (self.decoder.first if first else None) or self.decoder.session
        binding = session.raw.io_binding()
        bind(binding, session, {**feeds, "use_cache_branch": np.array([not first])})
        for port, value in zip(self.decoder.past, past, strict=True):
            if port.name in session.inputs:
                binding.bind_ortvalue_input(port.name, value)
        binding.bind_output("logits", "cpu")
        wanted = [first or not cross for cross in self.cross]
        for name, own in zip(self.decoder.present, wanted, strict=True):
            if own:
                binding.bind_output(name, session.memory, session.index)
        session.run_bound(binding)
        logits, *given = binding.get_outputs()
        present = iter(given)
        kept = [next(present) if own else value for value, own in zip(past, wanted, strict=True)]
        return logits.numpy()[:, -1], kept

    def _joined(self, port: Port, arrays: Sequence[Array], width: int) -> Array:
        """Caches of rows together, with room for `width` tokens along the axis that grows, if it has one."""
        if ".encoder." in port.name:
            return _stacked(arrays, axis=2)
        padded = []
        for array in arrays:
            lacking = [
                (0, 0) if isinstance(size, int) else (width - have, 0)
                for size, have in zip(port.shape[1:], array.shape[1:], strict=True)
            ]
            padded.append(np.pad(array, [(0, 0), *(each if self.decoder.left else each[::-1] for each in lacking)]))
        return np.concatenate(padded)

    def best(self, tokens: Sequence[int], count: int) -> tuple[Array, Array] | None:
        """The logits are at hand."""

    def logits(self) -> Array:
        raise NotImplementedError

    def reserve(self, capacity: int) -> None:
        """Nothing to do: it grows by itself."""

    def extend(self, ids: Array, *, logits: bool = True) -> Array | None:
        raise NotImplementedError

    def verify(self, tokens: Array) -> Array:
        raise NotImplementedError

    def cut(self, row: int, length: int) -> None:
        raise NotImplementedError

    def read(self, row: int, length: int) -> list[Array]:
        raise NotImplementedError

    def insert(self, arrays: Sequence[Array]) -> None:
        raise NotImplementedError

    def _value(self, array: Array) -> Any:
        return self.decoder.session.value(np.ascontiguousarray(array))

    def _empty(self, port: Port, rows: int) -> Any:
        sizes = [size if isinstance(size, int) else 0 for size in port.shape[1:]]
        return self.decoder.session.value(np.zeros((rows, *sizes), port.dtype))


def _narrowed(array: Array, port: Port, kept: slice) -> Array:
    """Part of a cache along the axis that grows, if it has one."""
    if ".encoder." in port.name:
        return array
    return array[(slice(None), *(slice(None) if isinstance(size, int) else kept for size in port.shape[1:]))]


def together(every: Sequence[Given]) -> dict[str, Array]:
    """What several sequences are given, a row for each, with masks where lengths differ."""
    masked = [_masked(given) for given in every]
    return {name: _stacked([given[name] for given in masked]) for name in masked[0]}


def _masked(given: Given) -> dict[str, Array]:
    states = given.get("encoder_hidden_states")
    mask = {} if states is None else {"encoder_attention_mask": np.ones(states.shape[:2], np.int64)}
    return {**mask, **given}


def _stacked(arrays: Sequence[Array], axis: int = 1) -> Array:
    """Rows together, padded with zeros at the end of an axis."""
    width = max(array.shape[axis] for array in arrays)
    padded = []
    for array in arrays:
        lacking = [(0, 0)] * array.ndim
        lacking[axis] = (0, width - array.shape[axis])
        padded.append(np.pad(array, lacking))
    return np.concatenate(padded)
