"""Undoes what quantization does not see through: Gemm becomes MatMul, packed Attention a product and the rest of it."""

from typing import Any

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
WHOLE = 1024


def gemms_to_matmuls(graph: ir.Graph) -> None:
    """Gemm over a constant weight becomes MatMul and Add. (onnxruntime 1.32's QGemm errs on transposed weights.)"""
    for node in list(graph.all_nodes()):
        if node.op_type != "Gemm" or node.domain != "":
            continue
        source, weight = node.inputs[:2]
        settings = {name: attribute.value for name, attribute in node.attributes.items()}
        scaled = settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1 or settings.get("transA", 0)
        if source is None or weight is None or weight.const_value is None or scaled:
            continue
        matrix, before = weight.const_value.numpy(), weight
        if settings.get("transB", 0):
            name = f"{before.name}.matmul"  # two products may share one weight
            weight = once(graph, name, np.ascontiguousarray(matrix.T))
        product = ir.node("MatMul", [source, weight], name=f"{node.name}.matmul")
        last, inside = product, graph_of(node)
        product.outputs[0].name = f"{node.outputs[0].name}.product"
        inside.insert_before(node, product)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            product.outputs[0].dtype = ir.DataType.FLOAT
            product.outputs[0].shape = node.outputs[0].shape
            last = ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{node.name}.add")
            inside.insert_before(node, last)
        _take_over(inside, node, last)
        if not list(before.uses()):
            graph.initializers.pop(str(before.name), None)


def whole_averages(graph: ir.Graph) -> None:
    """AveragePool over a window that no feature map fills, as EfficientNet has it, becomes GlobalAveragePool.

    onnxruntime's average of float32 stops at the edge of the map; its average of 8-bit integers divides by the window,
    and OpenVINO refuses a window larger than the map.
    """
    for node in list(graph):
        if node.op_type == "AveragePool" and min(node.attributes["kernel_shape"].as_ints()) >= WHOLE:
            average = ir.node("GlobalAveragePool", [node.inputs[0]], name=node.name)
            graph.insert_before(node, average)
            _take_over(graph, node, average)


def unpack_attention(graph: ir.Graph) -> None:
    """Attention over a packed projection becomes the projection, its three parts, and MultiHeadAttention."""
    for node in list(graph):
        if node.op_type != "Attention" or node.domain != MICROSOFT or len(node.inputs) > 6:
            continue
        source, weight, bias, mask, past, added = [*node.inputs, None, None, None, None][:6]
        plain = past is None and len(node.outputs) == 1 and not {"qkv_hidden_sizes", "do_rotary"} & set(node.attributes)
        if weight is None or weight.const_value is None or not plain:
            continue
        product = ir.node("MatMul", [source, weight], name=f"{node.name}.qkv")
        how = {"axis": -1} | ({"num_outputs": 3} if graph.opset_imports[""] >= 18 else {})
        parts = ir.node("Split", product.outputs, how, num_outputs=3, name=f"{node.name}.split")
        kept = {
            name: node.attributes[name]
            for name in ("num_heads", "scale", "mask_filter_value", "unidirectional")
            if name in node.attributes
        }
        inputs = [*parts.outputs, bias, mask, added]
        attention = ir.node("MultiHeadAttention", inputs, kept, domain=MICROSOFT, name=f"{node.name}.attention")
        for value in (*product.outputs, *parts.outputs):
            value.dtype = ir.DataType.FLOAT
        graph.insert_before(node, [product, parts, attention])
        _take_over(graph, node, attention)


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph, branch or body that a node is in."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _take_over(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    before, after = old.outputs[0], new.outputs[0]
    after.shape, after.type, after.name = before.shape, before.type, before.name
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A constant of its own in a graph."""
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def once(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """The constant of that name; what several nodes read is there once."""
    return graph.initializers.get(name) or initializer(graph, name, array)
