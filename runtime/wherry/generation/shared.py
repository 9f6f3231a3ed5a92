"""Rows of a graph with GroupQueryAttention: new keys and values go where the past ones are read."""

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wherry.generation.batch import Given, bind
from wherry.generation.cache import Cache
from wherry.session import Session

if TYPE_CHECKING:
    from wherry.generation.decoder import Decoder

Array = np.ndarray[Any, Any]

ALONE = 32
"""Of a longer prompt the last token runs by itself, so that the logits of the others are not computed."""

PART = 128
"""Tokens of a prompt that its own graph reads at once: attention there looks in vain at those that follow, too."""

ALONE_ON_DEVICE = 2**26
"""The same on a GPU, in bytes of logits: there a run of its own takes longer than many logits."""

WIDTH = 256
"""The mask's length is a multiple of this, so that it is bound anew only now and then."""


class SharedBatch:
    """Rows of a graph with GroupQueryAttention: each as long as it is, with no padding between its tokens."""

    joins = chunks = True

    def __init__(self, decoder: "Decoder", rows: int, capacity: int) -> None:
        self.decoder, self.rows = decoder, 0
        self.cache, self.known = decoder.room(rows, capacity)
        if decoder.session.on_gpu:
            weakref.finalize(self, decoder.spare.append, (self.cache, self.known)).atexit = False
        self.offsets = np.zeros(self.cache.rows, np.int64)  # from what is counted to positions: images may take fewer
        self._last: Steps | None = None
        self._moved = False  # whether rows have changed otherwise than by a step

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array | None:
        first, (new, length) = self.rows, ids.shape
        self._fit(first + new, length)
        self.cache.lengths[first : first + new] = 0
        self.offsets[first : first + new] = 0
        self.rows += new
        if not given:
            return self._read(first, ids, logits=logits)
        if self.decoder.prefill is not None and length > 1:
            self._run(first, ids[:, :-1], _part(given, slice(None, -1)), 0)
            found = self._run(first, ids[:, -1:], _part(given, slice(-1, None)), 1)
        else:
            found = self._run(first, ids, given, 1)
        if "position_ids" in given:
            self.offsets[first : first + new] = given["position_ids"].max((0, 2)) + 1 - length
        return found[:, -1]

    def extend(self, ids: Array, *, logits: bool = True) -> Array | None:
        last = self.rows - 1
        self._fit(self.rows, int(self.cache.lengths[last]) + ids.shape[1])
        return self._read(last, ids, logits=logits)

    def step(self, tokens: Sequence[int]) -> Array:
        return self._step(tokens).logits()

    def best(self, tokens: Sequence[int], count: int) -> tuple[Array, Array] | None:
        if not self.decoder.session.on_gpu:
            return None
        return self._step(tokens).best(count)

    def logits(self) -> Array:
        assert self._last is not None
        return self._last.logits()

    def _step(self, tokens: Sequence[int]) -> "Steps":
        rows = len(tokens)
        longest = max(self.cache.lengths[:rows].tolist())
        self._fit(self.rows, longest + 1)
        lengths = self.cache.lengths
        steps = self.known.get(rows)
        if steps is None or steps.width <= longest:
            width = min(-(-(longest + 1) // WIDTH) * WIDTH, self.cache.capacity)
            if self.decoder.session.graphs:
                width = self.cache.capacity  # what is captured once is replayed to the end
            if not self.decoder.session.on_gpu:
                self.known.clear()
            steps = self.known[rows] = Steps(self.decoder, self.cache, rows, width)
        elif self._moved or steps is not self._last:
            steps.look(lengths[:rows])
        self._last, self._moved = steps, False
        steps.take(tokens, lengths[:rows], self.offsets[:rows])
        steps.run()
        return steps

    def verify(self, tokens: Array) -> Array:
        self._fit(1, int(self.cache.lengths[0]) + len(tokens))
        logits: Array = self._run(0, tokens[None], {}, len(tokens))[0]
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
            self.known.clear()

    def _read(self, first: int, ids: Array, *, logits: bool) -> Array | None:
        if not logits or ids.shape[1] > self._together(len(ids)):
            head = ids[:, :-1] if logits else ids
            size = PART if self.decoder.prefill is not None and len(ids) == 1 else head.shape[1]
            for start in range(0, head.shape[1], size):
                self._run(first, head[:, start : start + size], {}, 0)
            ids = ids[:, -1:]
        return self._run(first, ids, {}, 1)[:, 0] if logits else None

    def _together(self, rows: int) -> int:
        """How long a prompt may be that is read with its last token."""
        if self.decoder.prefill is not None:
            return 1
        if not self.decoder.session.on_gpu:
            return ALONE
        port = self.decoder.session.outputs["logits"]
        return max(1, ALONE_ON_DEVICE // (rows * _size(port.shape[-1]) * port.dtype.itemsize))

    def _run(self, first: int, ids: Array, given: Given, wanted: int) -> Array:
        """Read tokens behind what the rows hold, the same number in each; gives the logits of so many last tokens."""
        rows, count = ids.shape
        session, cache = self.decoder.session, self.cache
        if self.decoder.prefill is not None and not wanted:
            session = self.decoder.prefill
        before = int(cache.lengths[first])
        total = before + count
        binding = session.raw.io_binding()
        positions = np.arange(before, total) + self.offsets[first : first + rows, None]
        bind(binding, session, self.decoder.feeds(ids, positions, np.ones((rows, total), np.int64), given))
        cache.bind(binding, self.decoder.present, first, rows)
        if wanted:
            binding.bind_output("logits", session.memory, session.index)
        session.run_bound(binding, partly=not wanted)
        cache.lengths[first : first + rows] = total
        self._moved = True
        return self.decoder.last(binding.get_outputs()[-1], wanted) if wanted else np.empty((rows, 0, 0))


class Steps:
    """Everything of a step bound once, for so many rows and a mask so wide: a step only writes numbers into arrays."""

    def __init__(self, decoder: "Decoder", cache: Cache, rows: int, width: int) -> None:
        session, embed = decoder.session, decoder.embed
        self.decoder, self.session, self.embed, self.rows, self.width = decoder, session, embed, rows, width
        self.graph = session.new_graph()
        self.copies: list[tuple[Any, Array]] = []  # what is read in the device's memory, and where it is written
        self.ids = np.zeros((rows, 1), np.int64)
        self.positions = decoder.positions(np.zeros((rows, 1), np.int64)).copy()  # in C order, to be bound as it is
        self.mask = np.empty((rows, width), np.int64)
        self.look(cache.lengths[:rows])
        feeds = {"attention_mask": self.mask, "position_ids": self.positions, "token_type_ids": np.zeros_like(self.ids)}
        self.binding = session.raw.io_binding()
        if embed is None:
            feeds["input_ids"] = self.ids
        else:
            self.embedding = embed.raw.io_binding()
            self._bind(self.embedding, embed, {"input_ids": self.ids})
            for name, port in ((name, port) for name, port in embed.outputs.items() if name in session.inputs):
                value = embed.value(np.empty((rows, 1, *map(_size, port.shape[2:])), port.dtype))
                self.embedding.bind_ortvalue_output(name, value)
                self.binding.bind_ortvalue_input(name, value)
        self._bind(self.binding, session, feeds)
        cache.bind(self.binding, decoder.present, 0, rows)
        port = session.outputs["logits"]
        self.array = np.empty((rows, 1, _size(port.shape[-1])), port.dtype)
        self.found = self.array[:, 0]
        self.scores = session.value(self.array)
        self.binding.bind_ortvalue_output("logits", self.scores)

    def _bind(self, binding: Any, session: Session, feeds: Given) -> None:
        for name, array in feeds.items():
            if name in session.inputs:
                value = session.value(array, name)
                binding.bind_ortvalue_input(name, value)
                if session.on_gpu:
                    self.copies.append((value, array))

    def look(self, lengths: Array) -> None:
        """See how long the rows are."""
        self.mask[:] = np.arange(self.width) < lengths[:, None]

    def take(self, tokens: Sequence[int], lengths: Array, offsets: Array) -> None:
        """Write down each row's next token, which stands behind as many as the row is long, and that it is longer now.

        One number at a time: a step's weights have driven numpy's code for arrays out of the processor's caches.
        """
        for row, (token, length, offset) in enumerate(zip(tokens, lengths.tolist(), offsets.tolist(), strict=True)):
            self.ids[row, 0] = token
            self.positions[..., row, 0] = length + offset
            self.mask[row, length] = 1
            lengths[row] = length + 1
        for value, array in self.copies:
            value.update_inplace(array)

    def run(self) -> None:
        """Run the graph over what was taken."""
        if self.embed is not None:
            self.embed.run_bound(self.embedding)
        self.session.run_bound(self.binding, graph=self.graph)

    def logits(self) -> Array:
        """What the last step gave: (rows, vocabulary), overwritten by the next one."""
        return self.scores.numpy()[:, 0] if self.session.on_gpu else self.found

    def best(self, count: int) -> tuple[Array, Array]:
        """The likeliest tokens of the last step and their logits, (rows, count) each."""
        return self.decoder.best(self.scores, count)


def _part(given: Given, tokens: slice) -> Given:
    """What is given of some tokens: embeddings along the second axis, positions along the last."""
    return {name: array[..., tokens] if name == "position_ids" else array[:, tokens] for name, array in given.items()}


def _size(size: int | str) -> int:
    assert isinstance(size, int)
    return size
