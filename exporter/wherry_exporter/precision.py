"""Which way a precision is made of float32 graphs, and what can keep a higher one. Does not judge the result."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache

import onnx_ir as ir

from wherry.bundle import PREFILL
from wherry_exporter.activations import Feed
from wherry_exporter.half import bfloat, half
from wherry_exporter.integer import (
    dynamic_int8,
    for_integers,
    mostly_convolutions,
    products,
    static_int8,
    worst_first,
)
from wherry_exporter.plan import Settings
from wherry_exporter.weight_only import WeightOnly

Graphs = Mapping[str, ir.Model]
Feeds = Callable[[str], Sequence[Feed]]
SHARES = (1 / 12, 1 / 8, 1 / 4, 1 / 2)
"""Of the layers that may keep a higher precision."""


class Quantizer:
    """Makes the variants of a model's float32 graphs.

    In 8 bits graphs that keep a cache are quantized weight-only, all others dynamically; models of no such graph
    statically where most weights are those of convolutions, or where images or sounds to calibrate on are given: tokens
    differ too much for one range. 16 and 4 bits are the same for all. A graph that reads prompts alone keeps a cache
    and is quantized dynamically, for it has many rows at once.

    Attributes:
        graphs: by role.
        decoders: the roles of those that keep a cache.
        feeds: gives what shows the activations of the graph of a role.
        real: whether those were made of the user's data.
        settled: by precision, what kept a higher one in the end.
        settings: of the weight-only ones.
    """

    def __init__(self, graphs: Graphs, feeds: Feeds, settings: Settings, *, real: bool) -> None:
        self.graphs, self.feeds, self.settings, self.real = graphs, feeds, settings, real
        self.settled: dict[str, Mapping[str, Collection[str]]] = {}
        self.decoders = [
            role
            for role, graph in graphs.items()
            if role != PREFILL and any(str(value.name).startswith("past_") for value in graph.graph.inputs)
        ]
        self.generates = bool(self.decoders)
        senses = any(value.dtype == ir.DataType.FLOAT for graph in graphs.values() for value in graph.graph.inputs)
        calibrated = real and senses
        self.static = not self.generates and (calibrated or any(map(mostly_convolutions, graphs.values())))
        self._weights = cache(lambda role: WeightOnly(graphs[role], lambda: feeds(role), settings))
        self._integers = cache(lambda role: for_integers(graphs[role]))
        self._order = cache(self._find_order)
        self._half = cache(lambda role: half(graphs[role], feeds(role)))

    def recipe(self, precision: str) -> str:
        """How a precision is made, for people."""
        settings = self.settings
        if precision in ("int4", "int4f16"):
            kind = "symmetric" if settings.symmetric else "asymmetric"
            rest = ", the rest in float16" if precision == "int4f16" else ""
            kept = sum(len(self._weights(role).kept) for role in self.graphs)
            same = f"; {kept} weights in the checkpoint's own 4 bits" if kept else ""
            return f"weights in 4 bits, {settings.algorithm}, blocks of {settings.block_size}, {kind}{rest}{same}"
        if precision == "bnb4":
            return "weights in 4-bit NormalFloat, blocks of 64"
        if precision == "fp16":
            return "float16, but for what would overflow"
        if precision == "bf16":
            return "bfloat16, but for what CUDA has not got in it; measured in float32, rounded behind every node"
        if self.generates:
            kind = f"weights in 8 bits, blocks of {settings.size(8)}, symmetric"
            others = [role for role in self.graphs if role not in self.decoders and self._products(role, precision)]
            return f"{kind}; {', '.join(others)}: dynamic, int8 weights per channel" if others else kind
        if precision == "uint8":
            return "dynamic, uint8 weights per channel"
        if self.static:
            return f"static QDQ, int8 weights per channel, calibrated on {'given' if self.real else 'synthetic'} data"
        return "dynamic, int8 weights per channel"

    def changes(self, precision: str) -> bool:
        """Whether a precision would change anything."""
        if precision in ("fp16", "bf16"):
            return True
        if precision in ("int4", "int4f16", "bnb4") or self.generates:
            return any(self._weights(role).names() for role in self.graphs)
        return any(self._products(role, precision) for role in self.graphs)

    def rounds(self, precision: str) -> Iterator[Mapping[str, Collection[str]]]:
        """What keeps a higher precision, by role: first nothing, then ever more of the layers that suffer most."""
        if precision == "int4f16" and "int4" in self.settled:
            yield self.settled["int4"]
            return
        yield {}
        if precision in ("fp16", "bf16", "bnb4"):
            return
        few, static = precision in ("int4", "int4f16"), self._is_static(precision)
        roles = [role for role in self.graphs if few or role not in self.decoders]
        orders = {role: order for role in roles if (order := self._order(role, few, static))}
        last: dict[str, list[str]] = {role: [] for role in orders}
        for share in SHARES:
            kept = {role: order[: round(len(order) * share)] for role, order in orders.items()}
            if kept != last:
                yield kept
            last = kept

    def make(self, role: str, precision: str, keep: Collection[str] = ()) -> ir.Model:
        """One graph of a variant.

        Args:
            role: which graph.
            precision: a key of `wherry.bundle.SUFFIXES` other than `fp32`.
            keep: names of layers that stay in a higher precision: float32 beside 8 bits, 8 beside 4.
        """
        makers: Mapping[str, Callable[[], ir.Model]] = {
            "fp16": lambda: self._half(role),
            "bf16": lambda: bfloat(self.graphs[role]),
            "int4": lambda: self._weights(role).graph(4, keep),
            "int4f16": lambda: half(self._weights(role).graph(4, keep), self.feeds(role), self.graphs[role]),
            "bnb4": lambda: self._weights(role).bnb4(),
        }
        if precision in makers:
            return makers[precision]()
        if role in self.decoders:
            return self._weights(role).graph(8)
        static = self._is_static(precision)
        graph = self._integers(role)
        if not self._products(role, precision):
            return graph
        if static:
            return static_int8(graph, self.feeds(role), keep)
        return dynamic_int8(graph, keep, signed=precision != "uint8")

    def _products(self, role: str, precision: str) -> list[ir.Node]:
        static = self._is_static(precision)
        return products(self._integers(role), static=static)

    def _is_static(self, precision: str) -> bool:
        return self.static and precision != "uint8"

    def _find_order(self, role: str, weights: bool, static: bool) -> list[str]:
        if weights:
            return ends_first(self._weights(role).names())
        return worst_first(self._integers(role), self.feeds(role), static=static)


def ends_first(names: Sequence[str]) -> list[str]:
    """Names of a graph's projections: the output weights first, then from both ends of the network inwards.

    The first and last layers suffer most from few bits; llama.cpp's k-quant mixes and onnxruntime-genai's
    `k_quant_mixed` give them more for that reason.
    """
    middle = names[:-1]
    order = sorted(range(len(middle)), key=lambda index: min(index, len(middle) - 1 - index))
    return [*names[-1:], *(middle[index] for index in order)]
