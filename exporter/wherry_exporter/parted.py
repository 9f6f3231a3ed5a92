"""Attention over cached and new keys and values without a copy that holds both.

A query's products with either part of the keys stand side by side as its products with all of them, and the values'
weighted sums add up. In a decoder's cross-attention one of the parts is always empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Attention:
    """What a layer makes of its cross-attention's keys and values.

    Attributes:
        scores: the product of the queries and the transposed keys.
        scale: what the keys are multiplied with before, if anything.
        sums: the product of the weights and the values.
        lengths: nodes that give how many keys there are, as a tensor of one element.
    """

    scores: ir.Node
    scale: ir.Value | None
    sums: ir.Node
    lengths: tuple[ir.Node, ...]


def find_attentions(graph: ir.Graph, caches: Sequence[ir.Value]) -> list[Attention] | None:
    """The attention of every layer, or None where one of them uses its keys or values in another way.

    Args:
        caches: keys and values in turn: (batch, heads, length, size).
    """
    found = [_attention(graph, key, value) for key, value in zip(caches[::2], caches[1::2], strict=True)]
    known = [attention for attention in found if attention is not None]
    return known if len(known) == len(found) else None


def _attention(graph: ir.Graph, key: ir.Value, value: ir.Value) -> Attention | None:
    sizes = [node for cache in (key, value) for node in cache.consumers() if node.op_type == "Shape"]
    lengths = tuple(node for node in sizes if _axes(node) == range(2, 3))
    if any(2 in _axes(node) and node not in lengths for node in sizes):
        return None
    turned, sums = ([node for node in cache.consumers() if node not in sizes] for cache in (key, value))
    if len(turned) != 1 or len(sums) != 1 or tuple(turned[0].attributes.get_ints("perm", ())) != (0, 1, 3, 2):
        return None
    keys, scale = turned[0].outputs[0], None
    scores = _consumer(keys)
    if scores is not None and scores.op_type == "Mul":
        scale = next((factor for factor in scores.inputs if factor is not keys), None)
        if scale is None or scale.shape is None or len(scale.shape):
            return None
        keys = scores.outputs[0]
        scores = _consumer(keys)
    for product, right in ((scores, keys), (sums[0], value)):
        if (
            product is None
            or product.op_type != "MatMul"
            or product.inputs[1] is not right
            or product.graph is not graph
        ):
            return None
    assert scores is not None
    return Attention(scores, scale, sums[0], lengths)


def part_attentions(
    graph: ir.Graph, attentions: Sequence[Attention], cached: Sequence[ir.Value], new: Sequence[ir.Value]
) -> None:
    """Let every layer attend to its cached keys and values, followed by its new ones.

    Args:
        cached: keys and values of each layer in turn: (batch, heads, length, size).
        new: the same, of another length.
    """
    start = new[0].producer()
    assert start is not None
    shape = {"start": 2, "end": 3}
    parts = [ir.node("Shape", [keys], shape, name=f"parted.{keys.name}.length") for keys in (cached[0], new[0])]
    lengths = [node.outputs[0] for node in parts]
    sizes = ir.node("Concat", lengths, {"axis": 0}, name="parted.lengths")
    length = ir.node("Add", lengths, name="parted.length")
    graph.insert_after(start, [*parts, sizes, length])
    for layer, attention in enumerate(attentions):
        name = f"parted.{layer}"
        for node in attention.lengths:
            node.outputs[0].replace_all_uses_with(length.outputs[0])
        query = attention.scores.inputs[0]
        if attention.scale is not None:
            scaled = ir.node("Mul", [query, attention.scale], name=f"{name}.query")
            graph.insert_before(attention.scores, scaled)
            query = scaled.outputs[0]
        scores = []
        for part, keys in (("cached", cached[2 * layer]), ("new", new[2 * layer])):
            turned = ir.node("Transpose", [keys], {"perm": [0, 1, 3, 2]}, name=f"{name}.{part}.keys")
            product = ir.node("MatMul", [query, turned.outputs[0]], name=f"{name}.{part}.scores")
            graph.insert_before(attention.scores, [turned, product])
            scores.append(product.outputs[0])
        _put(graph, attention.scores, ir.node("Concat", scores, {"axis": -1}, name=f"{name}.scores"))
        weights = ir.node(
            "Split",
            [attention.sums.inputs[0], sizes.outputs[0]],
            {"axis": -1},
            num_outputs=2,
            name=f"{name}.weights",
        )
        sums = [
            ir.node("MatMul", [part, values[2 * layer + 1]], name=f"{name}.{kind}.sums")
            for part, values, kind in zip(weights.outputs, (cached, new), ("cached", "new"), strict=True)
        ]
        graph.insert_before(attention.sums, [weights, *sums])
        _put(graph, attention.sums, ir.node("Add", [node.outputs[0] for node in sums], name=f"{name}.sums"))


def _put(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    graph.insert_before(old, new)
    old.outputs[0].replace_all_uses_with(new.outputs[0])
    graph.remove(old, safe=True)


def _consumer(value: ir.Value) -> ir.Node | None:
    consumers = value.consumers()
    return consumers[0] if len(consumers) == 1 else None


def _axes(node: ir.Node) -> range:
    """Those whose sizes a Shape gives, of four."""
    return range(4)[node.attributes.get_int("start", 0) : node.attributes.get_int("end", 4)]
