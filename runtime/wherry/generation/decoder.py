"""A decoder's graph and what it takes, whoever made it.

Two kinds: graphs with GroupQueryAttention write new keys and values where they read the past ones, so that a step moves
no cache; others give the whole cache anew in each step, which is handed back to them as it is.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from wherry.devices import Device, create, onnxruntime
from wherry.errors import SessionError
from wherry.generation.batch import Batch, Given
from wherry.generation.cache import Cache, DeviceCache, SharedCache
from wherry.generation.growing import GrowingBatch, together
from wherry.generation.shared import SharedBatch, Steps
from wherry.nvidia import Copies
from wherry.session import Port, Session
from wherry.tiny import FLOAT, FLOAT16, INT64, graph

Array = np.ndarray[Any, Any]


ROOM = 256
"""Buffers on a GPU have room for a multiple of this many tokens, so that they fit again."""


class Decoder:
    """A graph with a cache: past_key_values, or states that do not grow, such as past_conv and past_recurrent.

    Attributes:
        session: the graph.
        first: another graph for the first step, where there are two: decoder_model and decoder_with_past_model.
        prefill: another graph that gives keys and values alone, for all tokens of a prompt but its last; only where
            keys and values are written in place.
        embed: makes embeddings of tokens, for a graph that takes those.
        shared: whether the graph can write new keys and values where the past ones are read.
        in_place: whether it does so where it runs.
        spare: buffers on a GPU that no batch uses now; see `room`.
        left: whether the graph wants padding on the left of a row.
        joins: whether rows of unlike length can run together.
        past: the cache's inputs.
        present: the cache's outputs, in the same order.
    """

    def __init__(
        self,
        session: Session,
        padding_side: str | None = None,
        *,
        first: Session | None = None,
        prefill: Session | None = None,
        embed: Session | None = None,
        head_size: int | None = None,
    ) -> None:
        """Look at a graph's inputs, outputs and operators.

        Args:
            session: the graph.
            padding_side: `right` for graphs that put new keys after a row's last real one (GroupQueryAttention),
                `left` for those that append them to the cache; by default as its operators tell.
            first, prefill, embed: see the attributes.
            head_size: of keys and values, for graphs that do not tell it, as those of onnxruntime-genai.

        Raises:
            SessionError: the graph has no cache, or the size of its heads is not known.
        """
        self.session, self.first, self.embed = session, first, embed
        self.shared = "GroupQueryAttention" in session.operators
        self.in_place = self.shared and session.native("GroupQueryAttention")
        self.prefill = prefill if self.in_place else None
        self.spare: list[tuple[Cache, dict[int, Steps]]] = []
        self._choosers: dict[int, Any] = {}
        self.left = padding_side == "left" if padding_side else not self.shared
        # Without positions of their own, rows would count what pads them.
        told = padding_side is not None or self.shared or "position_ids" in session.inputs
        self.joins = told and "attention_mask" in session.inputs
        self.past = [_sized(port, head_size) for name, port in session.inputs.items() if name.startswith("past_")]
        self.present = [
            port.name.replace("past_key_values.", "present.").replace("past_", "present_") for port in self.past
        ]
        if not self.past or "logits" not in session.outputs:
            raise SessionError("the graph is no decoder with a cache: it lacks past_key_values or logits")
        if embed is None and "inputs_embeds" in session.inputs:
            raise SessionError("the graph takes embeddings, and there is no embed_tokens that makes them")

    def batch(self, rows: int, capacity: int) -> Batch:
        """An empty batch, with memory for so many rows of so many tokens where that is taken beforehand."""
        if self.in_place:
            return SharedBatch(self, rows, capacity)
        return GrowingBatch(self)

    def room(self, rows: int, capacity: int) -> tuple[Cache, dict[int, Steps]]:
        """Buffers for keys and values that are written where they are read, and what is bound to them for steps.

        In a GPU's memory those of a batch that is no more are used again, as CUDA graphs are bound to them for good.
        """
        session = self.session
        if not session.on_gpu:
            return SharedCache(session, self.past, rows, capacity), {}
        for each in self.spare:
            cache, _ = each
            if cache.rows >= rows and cache.capacity >= capacity:
                self.spare.remove(each)
                cache.lengths[:] = 0
                return each
        self.spare.clear()
        return DeviceCache(session, self.past, rows, -(-capacity // ROOM) * ROOM, self.copies), {}

    def last(self, logits: Any, count: int) -> Array:
        """The logits of the last tokens, brought from where they are.

        Args:
            logits: an OrtValue (rows, tokens, vocabulary).
            count: how many tokens of each row.

        Returns:
            (rows, count, vocabulary).
        """
        if not self.session.on_gpu:
            every: Array = logits.numpy()
            return every[:, -count:]
        rows, tokens, size = logits.shape()
        found = np.empty((rows, count, size), self.session.outputs["logits"].dtype)
        one = size * found.itemsize
        start = logits.data_ptr() + (tokens - count) * one
        self.copies.move(found.ctypes.data, count * one, start, tokens * one, count * one, rows)
        self.copies.wait()
        return found

    @cached_property
    def copies(self) -> Copies:
        """Copies in the memory of the GPU that the session is on."""
        return Copies.on(onnxruntime(), self.session.index)

    def best(self, logits: Any, count: int) -> tuple[Array, Array]:
        """The likeliest tokens and their logits, chosen where the logits are, the likeliest first.

        Args:
            logits: an OrtValue (rows, 1, vocabulary).
            count: how many of each row.

        Returns:
            (rows, count) int64, and as many of the logits' type.
        """
        if count not in self._choosers:
            self._choosers[count] = self._chooser(count)
        chooser = self._choosers[count]
        binding = chooser.io_binding()
        binding.bind_ortvalue_input("logits", logits)
        binding.bind_output("values")
        binding.bind_output("tokens")
        chooser.run_with_iobinding(binding)
        values, tokens = (value.numpy()[:, 0] for value in binding.get_outputs())
        return tokens, values

    def _chooser(self, count: int) -> Any:
        kind = FLOAT16 if self.session.outputs["logits"].dtype == np.float16 else FLOAT
        outputs = {"values": (kind, 3), "tokens": (INT64, 3)}
        content = graph("TopK", {"logits": (kind, 3)}, outputs, initializers={"k": [count]})
        return create(content, Device(self.session.memory, self.session.index), onnxruntime().SessionOptions())

    def feeds(self, ids: Array, positions: Array, mask: Array, given: Given) -> dict[str, Array]:
        """The inputs that tell of new tokens.

        Args:
            ids: (rows, tokens) int64.
            positions: as many, where each token stands.
            mask: (rows, past and new tokens) int64, 0 where there is padding.
            given: what is known already, such as `inputs_embeds` (rows, tokens, size) with images among the words.
        """
        made = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": self.positions(positions),
            "token_type_ids": np.zeros_like(ids),
        }
        if self.embed is not None and "inputs_embeds" not in given:
            made |= self.embed.run({"input_ids": ids})
        return made | dict(given)

    def attention(self, ids: Array, given: Given, layers: Collection[int]) -> dict[int, Array]:
        """How much tokens attend to what the encoder gave, read at once.

        Args:
            ids: (rows, tokens) int64, from the first on.
            given: see `Batch.add`.
            layers: of those in `attends`.

        Returns:
            layer to (rows, heads, tokens, states).
        """
        session = self.first or self.session
        empty = {
            port.name: np.zeros(
                (len(ids), *(size if isinstance(size, int) else 0 for size in port.shape[1:])), port.dtype
            )
            for port in self.past
        }
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        feeds = self.feeds(ids, positions, np.ones_like(ids), together([given]))
        names = {f"cross_attentions.{layer}": layer for layer in layers}
        found = session.run({**feeds, **empty, "use_cache_branch": np.array([False])}, list(names))
        return {layer: found[name] for name, layer in names.items()}

    @cached_property
    def attends(self) -> frozenset[int]:
        """The layers whose cross-attention the graph gives."""
        names = [name.split(".") for name in (self.first or self.session).outputs]
        return frozenset(int(name[1]) for name in names if name[0] == "cross_attentions" and len(name) == 2)

    def positions(self, positions: Array) -> Array:
        """Positions as the graph takes them: in time, height and width, which are the same for words, or one alone."""
        port = self.session.inputs.get("position_ids")
        if port is None or len(port.shape) == 2:
            return positions
        return np.broadcast_to(positions, (3, *positions.shape))


def _sized(port: Port, head_size: int | None) -> Port:
    """A cache's port with the size of a head told."""
    if not port.name.startswith("past_key_values.") or len(port.shape) != 4 or isinstance(port.shape[3], int):
        return port
    if head_size is None:
        raise SessionError(f"neither the graph's {port.name} nor the configuration tells the size of a head")
    return replace(port, shape=(*port.shape[:3], head_size))
