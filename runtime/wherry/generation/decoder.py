"""A decoder's graph over a batch of sequences that join and leave: a prompt in, then one token a row and step.

Two kinds of graph: those with GroupQueryAttention write new keys and values where they read the past ones, so that a
step moves no cache; others give the whole cache anew in each step, which is handed back to them as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from wherry.errors import SessionError
from wherry.generation.cache import SharedCache
from wherry.session import Port, Session, onnxruntime

Array = np.ndarray[Any, Any]
Given = Mapping[str, Array]
"""Inputs of a graph by name, a row for each sequence."""

ALONE = 32
"""Of a longer prompt the last token runs by itself, so that the logits of the others are not computed."""

WIDTH = 64
"""The mask's length is a multiple of this, so that it is bound anew only now and then."""


class Batch(Protocol):
    """Sequences that are decoded together.

    Attributes:
        rows: how many there are.
        joins: whether rows may be added to others that have tokens of another number already.
        chunks: whether a row's tokens can be read in parts, moved in and out, and cut; those methods work only then.
    """

    rows: int
    joins: bool
    chunks: bool

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array | None:
        """Read (new, length) tokens as new rows, behind those there are; gives (new, vocabulary) logits if wanted.

        `given` is what else the graph takes of each row, such as `encoder_hidden_states`.
        """

    def extend(self, ids: Array, *, logits: bool = True) -> Array | None:
        """Read (1, length) more tokens of the last row."""

    def step(self, tokens: Array) -> Array:
        """Read a token of each of the first rows; gives (tokens, vocabulary) logits, overwritten by the next step."""

    def verify(self, tokens: Array) -> Array:
        """Read several tokens of the only row; gives (tokens, vocabulary) logits, behind each of them."""

    def cut(self, row: int, length: int) -> None:
        """Forget a row's tokens from `length` on."""

    def read(self, row: int, length: int) -> list[Array]:
        """A copy of the keys and values of a row's first tokens, (heads, length, size) each."""

    def insert(self, arrays: Sequence[Array]) -> None:
        """Add a row that begins with what `read` gave."""

    def reserve(self, capacity: int) -> None:
        """See to it that rows have room for so many tokens."""

    def keep(self, order: Array, since: int = 0) -> None:
        """Make row `order[i]` row i: drops, moves and repeats rows. All are alike before the token `since`."""


class Decoder:
    """A graph with a cache: past_key_values, or states that do not grow, such as past_conv and past_recurrent.

    Attributes:
        session: the graph.
        left: whether the graph wants padding on the left of a row.
        past: the cache's inputs.
        present: the cache's outputs, in the same order.
    """

    def __init__(self, session: Session, padding_side: str = "right") -> None:
        """Look at a graph's inputs and outputs.

        Args:
            session: the graph.
            padding_side: `right` for graphs that put new keys after a row's last real one (GroupQueryAttention),
                `left` for those that append them to the cache.

        Raises:
            SessionError: the graph has no cache.
        """
        self.session, self.left = session, padding_side == "left"
        self.past = [port for name, port in session.inputs.items() if name.startswith("past_")]
        self.present = [
            port.name.replace("past_key_values.", "present.").replace("past_", "present_") for port in self.past
        ]
        if not self.past or "logits" not in session.outputs:
            raise SessionError("the graph is no decoder with a cache: it lacks past_key_values or logits")

    def batch(self, rows: int, capacity: int) -> Batch:
        """An empty batch, with memory for so many rows of so many tokens where that is taken beforehand."""
        if self.left or self.session.device != "cpu":
            return GrowingBatch(self)
        return SharedBatch(self, rows, capacity)


class SharedBatch:
    """Rows of a graph with GroupQueryAttention: each as long as it is, with no padding between its tokens."""

    joins = chunks = True

    def __init__(self, decoder: Decoder, rows: int, capacity: int) -> None:
        self.decoder, self.rows = decoder, 0
        self.cache = SharedCache(decoder.past, rows, capacity)
        self._steps: _Steps | None = None
        self._moved = False  # whether rows have changed otherwise than by a step

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array | None:  # noqa: ARG002
        first, (new, length) = self.rows, ids.shape
        self._fit(first + new, length)
        self.cache.lengths[first : first + new] = 0
        self.rows += new
        return self._read(first, ids, logits=logits)

    def extend(self, ids: Array, *, logits: bool = True) -> Array | None:
        last = self.rows - 1
        self._fit(self.rows, int(self.cache.lengths[last]) + ids.shape[1])
        return self._read(last, ids, logits=logits)

    def step(self, tokens: Array) -> Array:
        rows, lengths = len(tokens), self.cache.lengths
        longest = int(lengths[:rows].max())
        self._fit(self.rows, longest + 1)
        if self._steps is None or self._steps.rows != rows or self._steps.width <= longest:
            width = min(-(-(longest + 1) // WIDTH) * WIDTH, self.cache.capacity)
            self._steps = _Steps(self.decoder, self.cache, rows, width)
        elif self._moved:
            self._steps.look(lengths[:rows])
        self._moved = False
        logits = self._steps.run(tokens, lengths[:rows])
        lengths[:rows] += 1
        return logits

    def verify(self, tokens: Array) -> Array:
        self._fit(1, int(self.cache.lengths[0]) + len(tokens))
        found = self._run(0, tokens[None], logits=True)
        assert found is not None
        logits: Array = found[0]
        return logits

    def cut(self, row: int, length: int) -> None:
        self.cache.lengths[row] = length
        self._moved = True

    def read(self, row: int, length: int) -> list[Array]:
        return self.cache.read(row, length)

    def insert(self, arrays: Sequence[Array]) -> None:
        self._fit(self.rows + 1, arrays[0].shape[1])
        self.cache.write(self.rows, arrays)
        self.rows += 1

    def reserve(self, capacity: int) -> None:
        self._fit(self.rows, capacity)

    def keep(self, order: Array, since: int = 0) -> None:
        self._fit(len(order), 0)
        self.cache.reorder(order, since)
        self.rows = len(order)
        self._moved = True

    def _fit(self, rows: int, length: int) -> None:
        """Make the buffers larger where they are too small."""
        have = self.cache.capacity
        if rows > self.cache.rows or length > have:
            longer = max(length, 2 * have) if length > have else have
            self.cache.resize(max(rows, self.cache.rows), longer)
            self._steps = None

    def _read(self, first: int, ids: Array, *, logits: bool) -> Array | None:
        if not logits or ids.shape[1] > ALONE:
            self._run(first, ids[:, :-1] if logits else ids, logits=False)
            ids = ids[:, -1:]
        found = self._run(first, ids, logits=True) if logits else None
        return None if found is None else found[:, -1]

    def _run(self, first: int, ids: Array, *, logits: bool) -> Array | None:
        """Read tokens behind what the rows hold, which is the same length for all of them."""
        rows, count = ids.shape
        session, cache = self.decoder.session, self.cache
        before = int(cache.lengths[first])
        total = before + count
        binding = session.raw.io_binding()
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, total), np.int64),
            "position_ids": np.broadcast_to(np.arange(before, total), (rows, count)),
        }
        _bind(binding, session, feeds)
        for port, name, array in zip(self.decoder.past, self.decoder.present, cache.arrays, strict=True):
            value = session.value(array[first : first + rows])
            binding.bind_ortvalue_input(port.name, value)
            binding.bind_ortvalue_output(name, value)
        if logits:
            binding.bind_output("logits", "cpu")
        session.run_bound(binding, partly=not logits)
        cache.lengths[first : first + rows] = total
        self._moved = True
        found: Array | None = binding.get_outputs()[-1].numpy() if logits else None
        return found


class _Steps:
    """Everything of a step bound once, for so many rows and a mask so wide: a step only writes numbers into arrays."""

    def __init__(self, decoder: Decoder, cache: SharedCache, rows: int, width: int) -> None:
        session = decoder.session
        self.session, self.rows, self.width = session, rows, width
        self.columns = np.arange(rows)
        self.ids = np.zeros((rows, 1), np.int64)
        self.positions = np.zeros((rows, 1), np.int64)
        self.mask = np.empty((rows, width), np.int64)
        self.look(cache.lengths[:rows])
        vocabulary = session.outputs["logits"].shape[-1]
        assert isinstance(vocabulary, int)
        self.logits = np.empty((rows, 1, vocabulary), session.outputs["logits"].dtype)
        self.binding = session.raw.io_binding()
        _bind(
            self.binding,
            session,
            {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": self.positions},
        )
        for port, name, array in zip(decoder.past, decoder.present, cache.arrays, strict=True):
            value = session.value(array[:rows])
            self.binding.bind_ortvalue_input(port.name, value)
            self.binding.bind_ortvalue_output(name, value)
        self.binding.bind_ortvalue_output("logits", session.value(self.logits))

    def look(self, lengths: Array) -> None:
        """See how long the rows are."""
        self.mask[:] = np.arange(self.width) < lengths[:, None]

    def run(self, tokens: Array, lengths: Array) -> Array:
        self.ids[:, 0] = tokens
        self.positions[:, 0] = lengths
        self.mask[self.columns, lengths] = 1
        self.session.run_bound(self.binding)
        return self.logits[:, 0]


class GrowingBatch:
    """Rows of a graph that gives its whole cache in each step: padded to the longest, on the graph's side.

    The cross-attention keys and values of a decoder behind an encoder are computed once, and padded on the right.
    """

    chunks = False

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.rows = decoder, 0
        self.joins = "attention_mask" in decoder.session.inputs  # else nothing tells padding from tokens
        self.lengths = np.zeros(0, np.int64)
        self.width = 0
        self.given: dict[str, Array] = {}
        self.past: list[Any] = []
        self.cross = [".encoder." in port.name for port in decoder.past]

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array:  # noqa: ARG002
        new, length = ids.shape
        given = _masked(given or {})
        empty = [self._empty(port, new) for port in self.decoder.past]
        positions = np.broadcast_to(np.arange(length), ids.shape)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}
        found, past = self._run(feeds | given, empty, first=True)
        width = max(length, self.width)
        if self.rows:
            past = [
                self._value(self._joined(port, [each.numpy() for each in pair], width))
                for port, *pair in zip(self.decoder.past, self.past, past, strict=True)
            ]
            given = {name: _stacked([self.given[name], array]) for name, array in given.items()}
        self.lengths = np.concatenate([self.lengths, np.full(new, length)])
        self.rows, self.width, self.past, self.given = self.rows + new, width, past, given
        return found

    def step(self, tokens: Array) -> Array:
        positions = self.lengths[:, None]
        self.lengths, self.width = self.lengths + 1, self.width + 1
        columns = np.arange(self.width)
        starts = self.width - self.lengths[:, None] if self.decoder.left else 0
        mask = ((columns >= starts) & (columns < starts + self.lengths[:, None])).astype(np.int64)
        feeds = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": positions}
        logits, self.past = self._run(feeds | self.given, self.past, first=False)
        return logits

    def keep(self, order: Array, since: int = 0) -> None:
        alike = since > 0 and len(order) == self.rows  # what came before is the same for all, the encoder's part too
        self.rows, self.lengths = len(order), self.lengths[order]
        if not alike:
            self.given = {name: array[order] for name, array in self.given.items()}
        self.past = [
            value if cross and alike else self._value(value.numpy()[order])
            for value, cross in zip(self.past, self.cross, strict=True)
        ]

    def _run(self, feeds: Mapping[str, Array], past: Sequence[Any], *, first: bool) -> tuple[Array, list[Any]]:
        session = self.decoder.session
        binding = session.raw.io_binding()
        _bind(binding, session, {**feeds, "use_cache_branch": np.array([not first])})
        for port, value in zip(self.decoder.past, past, strict=True):
            binding.bind_ortvalue_input(port.name, value)
        binding.bind_output("logits", "cpu")
        kind = "cpu" if session.device == "cpu" else "cuda"
        wanted = [first or not cross for cross in self.cross]
        for name, own in zip(self.decoder.present, wanted, strict=True):
            if own:
                binding.bind_output(name, kind)
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


def _bind(binding: Any, session: Session, feeds: Mapping[str, Array]) -> None:
    """Bind arrays, as the graph's inputs have them, without a copy where they already are so."""
    for name, array in feeds.items():
        if name in session.inputs:
            given = np.ascontiguousarray(array, dtype=session.inputs[name].dtype)
            binding.bind_ortvalue_input(name, onnxruntime().OrtValue.ortvalue_from_numpy(given))
