"""Products of float32 rows with constant matrices, computed in 8 bits: each row of activations has a scale of its own.

So no row changes another, whatever runs with it, and a row of small numbers beside one of large ones keeps its bits.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from wherry_exporter.unpack import graph_of, initializer, once

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
MIDDLE = 128
"""The level of zero."""


def compute_in_integers(model: ir.Model, names: Collection[str], *, signed: bool = True) -> None:
    """Make products such of uint8 rows and int8 columns, each with its scale.

    Args:
        model: is changed.
        names: of the nodes, MatMul with a constant matrix each, those in branches included.
        signed: weights in int8, 7 of 8 bits, else in uint8.
    """
    rows: dict[tuple[ir.Graph, ir.Value], tuple[ir.Value, ir.Value]] = {}
    for node in list(model.graph.all_nodes()):
        if node.name in names:
            source = node.inputs[0]
            assert source is not None
            place = graph_of(node), source
            if place not in rows:
                rows[place] = _rounded(model.graph, node, source)
            _to_integers(model.graph, node, *rows[place], signed=signed)
    model.opset_imports[MICROSOFT] = 1


def by_row(states: Array) -> Array:
    """What is left of rows after rounding, float32."""
    largest = np.abs(states).max(-1, keepdims=True)
    scale = np.where(largest == 0, 1, largest) / np.float32(MIDDLE - 1)
    return np.asarray(np.round(states / scale) * scale, np.float32)


def _rounded(graph: ir.Graph, before: ir.Node, source: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Levels of rows, uint8, and the largest absolute element of each, (..., 1), computed before a node."""
    size = ir.node("Abs", [source])
    if graph.opset_imports[""] < 18:  # when axes became an input
        largest = ir.node("ReduceMax", size.outputs, {"keepdims": 1, "axes": [-1]})
    else:
        axes = once(graph, "rows.axes", np.array([-1]))
        largest = ir.node("ReduceMax", [size.outputs[0], axes], {"keepdims": 1})
    # a row of zeros is divided by zero: whatever its levels are then, they are multiplied with zero in the end
    unit = ir.node("Div", [source, largest.outputs[0]])
    scale = once(graph, "rows.scale", np.array(1 / (MIDDLE - 1), np.float32))
    levels = ir.node("QuantizeLinear", [unit.outputs[0], scale, _middle(graph)])
    for node, suffix in ((size, "abs"), (largest, "largest"), (unit, "unit"), (levels, "levels")):
        node.outputs[0].name = f"{before.outputs[0].name}.{suffix}"
        node.outputs[0].dtype = ir.DataType.UINT8 if node is levels else ir.DataType.FLOAT
    graph_of(before).insert_before(before, [size, largest, unit, levels])
    return levels.outputs[0], largest.outputs[0]


def _to_integers(graph: ir.Graph, node: ir.Node, levels: ir.Value, largest: ir.Value, *, signed: bool) -> None:
    weight, output = node.inputs[1], node.outputs[0]
    assert weight is not None
    assert weight.const_value is not None
    kind = "int8" if signed else "uint8"
    name = f"{weight.name}.{kind}"
    if name not in graph.initializers:
        columns, scales = _columns(weight.const_value.numpy(), signed=signed)
        initializer(graph, name, columns)
        initializer(graph, f"{name}.scales", scales / np.float32(MIDDLE - 1))
    one = once(graph, "rows.one", np.array(1, np.float32))
    inputs = [levels, graph.initializers[name], one, graph.initializers[f"{name}.scales"], _middle(graph)]
    if not signed:
        inputs.append(_middle(graph))
    product = ir.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT, name=node.name)
    scaled = ir.node("Mul", [product.outputs[0], largest], name=f"{node.name}.scaled")
    product.outputs[0].name, product.outputs[0].dtype = f"{output.name}.product", ir.DataType.FLOAT
    graph_of(node).insert_before(node, [product, scaled])
    scaled.outputs[0].shape, scaled.outputs[0].type, scaled.outputs[0].name = output.shape, output.type, output.name
    output.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)
    if not weight.uses():
        graph.initializers.pop(str(weight.name), None)


def _columns(weight: Array, *, signed: bool) -> tuple[Array, Array]:
    """Levels of a matrix, (inputs, outputs), and the scale of each output, float32 (outputs,)."""
    most = 64 if signed else MIDDLE - 1
    largest = np.abs(weight).max(0)
    scales = (np.where(largest == 0, 1, largest) / np.float32(most)).astype(np.float32)
    levels = np.round(weight / scales)
    return (levels.astype(np.int8) if signed else (levels + MIDDLE).astype(np.uint8)), scales


def _middle(graph: ir.Graph) -> ir.Value:
    return once(graph, "rows.middle", np.array(MIDDLE, np.uint8))
