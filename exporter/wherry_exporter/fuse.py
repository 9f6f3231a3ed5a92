"""Rewrites a traced graph into the operators that onnxruntime runs fastest; what it computes stays the same.

Each pass takes the graph and changes it in place. Nothing here knows a model, a task or a precision.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from wherry_exporter.unpack import whole_averages

MICROSOFT = "com.microsoft"
NORMS = {
    "LayerNormalization": "SkipLayerNormalization",
    "SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
}


def fuse(model: ir.Model) -> ir.Model:
    """Apply every pass, then drop what nothing uses."""
    graph = model.graph
    remove_reshapes(graph)
    whole_averages(graph)
    transpose_keys(graph)
    RemoveUnusedNodesPass()(model)
    pack_attention(graph)
    pack_grouped_attention(graph)
    fuse_skip_norms(graph)
    fuse_gelus(graph)
    model.opset_imports[MICROSOFT] = 1
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)
    graph.sort()  # a sum stands with its norm now, perhaps behind others who use it
    return model


def remove_reshapes(graph: ir.Graph) -> None:
    """Take the source of a chain of reshapes that ends in the shape it began with."""
    for node in graph:
        if node.op_type == "Reshape" and node.domain == "":
            output = node.outputs[0]
            source = node.inputs[0]
            while source is not None:
                if _same_shape(source, output) and not output.is_graph_output():
                    output.replace_all_uses_with(source)
                    break
                above = source.producer()
                source = above.inputs[0] if above is not None and above.op_type == "Reshape" else None


def transpose_keys(graph: ir.Graph) -> None:
    """Keys that are flattened to three axes, transposed and given their axes back are transposed as they are.

    onnxruntime takes a transpose of the last two axes into the product behind it, and so copies no keys.
    """
    for node in list(graph):
        if node.op_type != "Transpose" or tuple(node.attributes.get_ints("perm", ())) != (0, 2, 1):
            continue
        above = node.inputs[0].producer() if node.inputs[0] is not None else None
        below = [user for user, _ in node.outputs[0].uses()]
        if above is None or above.op_type != "Reshape" or len(below) != 1 or below[0].op_type != "Reshape":
            continue
        source, flat, whole = above.inputs[0], _joined(above.inputs[1]), _joined(below[0].inputs[1])
        if source is None or source.shape is None or len(source.shape) != 4 or len(flat) != 3 or len(whole) != 3:
            continue
        if flat[1:] != whole[:0:-1] or not all(_is_size_of(source, size) for size in flat[1:]):
            continue
        turned = ir.node("Transpose", [source], {"perm": ir.AttrInt64s("perm", [0, 1, 3, 2])})
        graph.insert_before(node, turned)
        _take_over(below[0].outputs[0], turned.outputs[0])


def _joined(shape: ir.Value | None) -> Sequence[ir.Value | None]:
    """What a shape is put together from."""
    producer = None if shape is None else shape.producer()
    return producer.inputs if producer is not None and producer.op_type == "Concat" else ()


def _is_size_of(source: ir.Value, size: ir.Value | None) -> bool:
    """Whether a size is taken from the shape of a value."""
    taken = None if size is None else size.producer()
    shape = taken.inputs[0] if taken is not None and taken.op_type == "Slice" else None
    producer = None if shape is None else shape.producer()
    return producer is not None and producer.op_type == "Shape" and producer.inputs[0] is source


def pack_attention(graph: ir.Graph) -> None:
    """MultiHeadAttention over three projections of one input becomes Attention with one packed projection."""
    for node in list(graph):
        if node.op_type != "MultiHeadAttention":
            continue
        projections = [_projection(value) for value in node.inputs[:3]]
        if any(each is None for each in projections):
            continue
        sources, weights, biases = zip(*[each for each in projections if each], strict=True)
        if len(set(sources)) > 1 or any(bias is None for bias in biases):
            continue
        weight, bias = (
            _side_by_side(graph, f"{node.outputs[0].name}.qkv.{name}", parts)
            for name, parts in (("weight", weights), ("bias", biases))
        )
        mask = node.inputs[4:5]
        _replace(graph, node, "Attention", [sources[0], weight, bias, *mask], node.attributes.values())


def pack_grouped_attention(graph: ir.Graph) -> None:
    """GroupQueryAttention takes query, key and value as one packed input: one projection instead of three."""
    for node in list(graph):
        if node.op_type != "GroupQueryAttention" or node.inputs[1] is None:
            continue
        packed = _packed_source(graph, node)
        if packed is not None:
            inputs = [packed, None, None, *node.inputs[3:]]
            _replace(graph, node, "GroupQueryAttention", inputs, node.attributes.values())


def _packed_source(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    split = node.inputs[0].producer() if node.inputs[0] is not None else None
    if split is not None and split.op_type == "Split":  # GPT-2 projects once and splits
        return split.inputs[0] if list(split.outputs) == list(node.inputs[:3]) else None
    projections = [_projection(value) for value in node.inputs[:3]]
    if any(each is None for each in projections):
        return None
    sources, weights, biases = zip(*[each for each in projections if each], strict=True)
    if len(set(sources)) > 1 or len({bias is None for bias in biases}) > 1:
        return None
    name = f"{node.outputs[0].name}.qkv"
    weight = _side_by_side(graph, f"{name}.weight", weights)
    output = _before(graph, node, "MatMul", [sources[0], weight])
    if biases[0] is not None:
        output = _before(graph, node, "Add", [output, _side_by_side(graph, f"{name}.bias", biases)])
    return output


def fuse_skip_norms(graph: ir.Graph) -> None:
    """A sum followed by its norm becomes one node, which also hands on the sum where others use it."""
    for node in list(graph):
        if node.op_type not in NORMS or node.domain != "" or len(node.outputs) > 1:
            continue
        added = node.inputs[0].producer() if node.inputs[0] is not None else None
        if added is None or added.op_type != "Add" or not _same_shape(added.inputs[0], added.inputs[1]):
            continue
        if len(added.outputs[0].shape or ()) != 3:
            continue
        first, second = added.inputs
        bias = None
        for one, other in ((first, second), (second, first)):
            split = _biased(one)
            if one is not None and split is not None and len(list(one.uses())) == 1:
                first, bias, second = split[0], split[1], other
                break
        if node.op_type == "LayerNormalization":
            beta = node.inputs[2] if len(node.inputs) > 2 else None
            inputs = [first, second, node.inputs[1], beta, bias]
        else:
            inputs = [first, second, node.inputs[1], bias]
        while inputs[-1] is None:
            inputs.pop()
        shared = [use for use in added.outputs[0].uses() if use.node is not node]
        fused = ir.node(
            NORMS[node.op_type],
            inputs,
            domain=MICROSOFT,
            attributes={"epsilon": node.attributes["epsilon"].as_float()},
            num_outputs=4 if shared or added.outputs[0].is_graph_output() else 1,
        )
        graph.insert_before(node, fused)
        _take_over(node.outputs[0], fused.outputs[0])
        if len(fused.outputs) > 1:
            fused.outputs[1].name = fused.outputs[2].name = ""  # mean and deviation, which nobody reads
            _take_over(added.outputs[0], fused.outputs[3])
        graph.remove(node, safe=True)


def fuse_gelus(graph: ir.Graph) -> None:
    """A bias followed by GELU becomes BiasGelu, or FastGelu for the tanh approximation."""
    for node in list(graph):
        if node.op_type != "Gelu":
            continue
        split = _biased(node.inputs[0])
        approximate = "approximate" in node.attributes and node.attributes["approximate"].as_string() == "tanh"
        if approximate:
            inputs = list(split) if split else [node.inputs[0]]
            _replace(graph, node, "FastGelu", inputs, ())
        elif split:
            _replace(graph, node, "BiasGelu", list(split), ())


def _side_by_side(graph: ir.Graph, name: str, parts: Sequence[ir.TensorProtocol]) -> ir.Value:
    """Constants along their last axis as one, which is put together whenever it is read, for it is as large as they."""

    def joined() -> ir.TensorProtocol:
        return ir.tensor(np.concatenate([part.numpy() for part in parts], axis=-1), name=name)

    rest, width = parts[0].shape.numpy()[:-1], sum(part.shape.numpy()[-1] for part in parts)
    value = ir.Value(name=name, type=ir.TensorType(parts[0].dtype), shape=ir.Shape((*rest, width)))
    value.const_value = ir.LazyTensor(joined, parts[0].dtype, ir.Shape((*rest, width)), name=name)
    graph.register_initializer(value)
    return value


def _projection(value: ir.Value | None) -> tuple[ir.Value, Any, Any] | None:
    """(input, weight, bias or None) of a value that is `input @ weight + bias` with constant weight and bias."""
    if value is None or len(list(value.uses())) != 1:
        return None
    split = _biased(value)
    product = split[0].producer() if split else value.producer()
    if product is None or product.op_type != "MatMul":
        return None
    source, weight = product.inputs
    if source is None or weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
        return None
    return source, weight.const_value, split[1].const_value if split else None


def _biased(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """(summand, bias) of a value that is a sum with a constant vector."""
    added = value.producer() if value is not None else None
    if added is None or added.op_type != "Add":
        return None
    for summand, bias in (added.inputs, reversed(added.inputs)):
        if summand is None or bias is None or bias.const_value is None:
            continue
        if len(bias.const_value.shape) == 1 and summand.const_value is None:
            return summand, bias
    return None


def _same_shape(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values are known to have one shape; equal symbols stand for equal sizes."""
    if one is None or other is None or one.shape is None or other.shape is None:
        return False
    names = [[str(dim) for dim in value.shape] for value in (one, other) if value.shape is not None]
    return names[0] == names[1] and "None" not in names[0] and not any(name.startswith("?") for name in names[0])


def _before(graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None]) -> ir.Value:
    added = ir.node(op_type, inputs)
    graph.insert_before(node, added)
    return added.outputs[0]


def _replace(graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Any) -> None:
    kept = {attribute.name: attribute for attribute in attributes}
    fused = ir.node(op_type, inputs, kept, domain=MICROSOFT, num_outputs=len(node.outputs))
    graph.insert_before(node, fused)
    for old, new in zip(node.outputs, fused.outputs, strict=True):
        _take_over(old, new)
    graph.remove(node, safe=True)


def _take_over(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand wherever `old` stood, under its name and type, graph outputs included."""
    new.shape, new.type, new.name = old.shape, old.type, old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
