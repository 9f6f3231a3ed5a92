"""Rows of a graph with GroupQueryAttention on the CPU: new keys and values go where the past ones are read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wherry.generation.batch import Given, bind
from wherry.generation.cache import SharedCache

if TYPE_CHECKING:
    from wherry.generation.decoder import Decoder

Array = np.ndarray[Any, Any]

ALONE = 32
"""Of a longer prompt the last token runs by itself, so that the logits of the others are not computed."""

WIDTH = 64
"""The mask's length is a multiple of this, so that it is bound anew only now and then."""


class SharedBatch:
    """Rows of a graph with GroupQueryAttention: each as long as it is, with no padding between its tokens."""

    joins = chunks = True

    def __init__(self, decoder: "Decoder", rows: int, capacity: int) -> None:
        self.decoder, self.rows = decoder, 0
        self.cache = SharedCache(decoder.past, rows, capacity)
        self.offsets = np.zeros(rows, np.int64)  # from what is counted to positions: images may take fewer
        self._steps: _Steps | None = None
        self._moved = False  # whether rows have changed otherwise than by a step

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array | None:
        first, (new, length) = self.rows, ids.shape
        self._fit(first + new, length)
        self.cache.lengths[first : first + new] = 0
        self.offsets[first : first + new] = 0
        self.rows += new
        if not given:
            return self._read(first, ids, logits=logits)
        found = self._run(first, ids, given, logits=True)  # in one go: its tokens may look at later ones
        assert found is not None
        if "position_ids" in given:
            self.offsets[first : first + new] = given["position_ids"].max((0, 2)) + 1 - length
        return found[:, -1]

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
        logits = self._steps.run(tokens, lengths[:rows], self.offsets[:rows])
        lengths[:rows] += 1
        return logits

    def verify(self, tokens: Array) -> Array:
        self._fit(1, int(self.cache.lengths[0]) + len(tokens))
        found = self._run(0, tokens[None], {}, logits=True)
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
        self.offsets[self.rows] = 0
        self.rows += 1

    def reserve(self, capacity: int) -> None:
        self._fit(self.rows, capacity)

    def keep(self, order: Array, since: int = 0) -> None:
        self._fit(len(order), 0)
        self.cache.reorder(order, since)
        self.offsets[: len(order)] = self.offsets[order]
        self.rows = len(order)
        self._moved = True

    def _fit(self, rows: int, length: int) -> None:
        """Make the buffers larger where they are too small."""
        have = self.cache.capacity
        if rows > self.cache.rows or length > have:
            longer = max(length, 2 * have) if length > have else have
            self.cache.resize(max(rows, self.cache.rows), longer)
            self.offsets = np.pad(self.offsets, (0, self.cache.rows - len(self.offsets)))
            self._steps = None

    def _read(self, first: int, ids: Array, *, logits: bool) -> Array | None:
        if not logits or ids.shape[1] > ALONE:
            self._run(first, ids[:, :-1] if logits else ids, {}, logits=False)
            ids = ids[:, -1:]
        found = self._run(first, ids, {}, logits=True) if logits else None
        return None if found is None else found[:, -1]

    def _run(self, first: int, ids: Array, given: Given, *, logits: bool) -> Array | None:
        """Read tokens behind what the rows hold, which is the same length for all of them."""
        rows, count = ids.shape
        session, cache = self.decoder.session, self.cache
        before = int(cache.lengths[first])
        total = before + count
        binding = session.raw.io_binding()
        positions = np.arange(before, total) + self.offsets[first : first + rows, None]
        bind(binding, session, self.decoder.feeds(ids, positions, np.ones((rows, total), np.int64), given))
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

    def __init__(self, decoder: "Decoder", cache: SharedCache, rows: int, width: int) -> None:
        session, embed = decoder.session, decoder.embed
        self.session, self.embed, self.rows, self.width = session, embed, rows, width
        self.columns = np.arange(rows)
        self.ids = np.zeros((rows, 1), np.int64)
        self.positions = np.array(decoder.positions(np.zeros((rows, 1), np.int64)))
        self.mask = np.empty((rows, width), np.int64)
        self.look(cache.lengths[:rows])
        feeds = {"attention_mask": self.mask, "position_ids": self.positions, "token_type_ids": np.zeros_like(self.ids)}
        self.binding = session.raw.io_binding()
        if embed is None:
            feeds["input_ids"] = self.ids
        else:
            port = embed.outputs["inputs_embeds"]
            feeds["inputs_embeds"] = np.empty((rows, 1, _size(port.shape[-1])), port.dtype)
            self.embedding = embed.raw.io_binding()
            bind(self.embedding, embed, {"input_ids": self.ids})
            self.embedding.bind_ortvalue_output("inputs_embeds", embed.value(feeds["inputs_embeds"]))
        bind(self.binding, session, feeds)
        port = session.outputs["logits"]
        self.logits = np.empty((rows, 1, _size(port.shape[-1])), port.dtype)
        for past, name, array in zip(decoder.past, decoder.present, cache.arrays, strict=True):
            value = session.value(array[:rows])
            self.binding.bind_ortvalue_input(past.name, value)
            self.binding.bind_ortvalue_output(name, value)
        self.binding.bind_ortvalue_output("logits", session.value(self.logits))

    def look(self, lengths: Array) -> None:
        """See how long the rows are."""
        self.mask[:] = np.arange(self.width) < lengths[:, None]

    def run(self, tokens: Array, lengths: Array, offsets: Array) -> Array:
        self.ids[:, 0] = tokens
        self.positions[..., 0] = lengths + offsets
        self.mask[self.columns, lengths] = 1
        if self.embed is not None:
            self.embed.run_bound(self.embedding)
        self.session.run_bound(self.binding)
        return self.logits[:, 0]


def _size(size: int | str) -> int:
    assert isinstance(size, int)
    return size
