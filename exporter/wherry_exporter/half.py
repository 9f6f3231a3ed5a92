"""A float32 graph to 16 bits: float16 but for what would overflow, or bfloat16. Does not judge the result."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from wherry_exporter.activations import Feed, largest
from wherry_exporter.errors import UsageError
from wherry_exporter.pooled import NAME
from wherry_exporter.quiet import quiet

LARGEST = 65504 / 4
"""Elements beyond this, seen on a few inputs, may overflow on others."""

SMALL = 256
"""Elements of a constant that the converter may look at; it copies them, and takes no graph over 2 GB."""

RECURRENT = ("GRU", "LSTM", "RNN")
"""Operators that onnxruntime's CPU has not got in float16: opening a step of them ends the process in 1.32."""

BFLOAT16 = {
    "Abs",
    "Add",
    "Attention",
    "BiasGelu",
    "Cast",
    "Concat",
    "Div",
    "Erf",
    "Exp",
    "Expand",
    "FastGelu",
    "Flatten",
    "FusedMatMul",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GroupQueryAttention",
    "Identity",
    "If",
    "LayerNormalization",
    "MatMul",
    "Mul",
    "MultiHeadAttention",
    "Neg",
    "Pow",
    "QuickGelu",
    "RMSNormalization",
    "ReduceSum",
    "Relu",
    "Reshape",
    "RotaryEmbedding",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Where",
}
"""Operators that onnxruntime has for CUDA in bfloat16 (its docs/OperatorKernels.md); none is left to the CPU."""


def half(model: ir.Model, feeds: Sequence[Feed], watched: ir.Model | None = None) -> ir.Model:
    """Weights, activations and what is kept between steps in float16; other inputs and outputs stay float32.

    Nodes that take or give an element beyond `LARGEST` on `feeds` stay float32, and so do all of a step of recurrent
    layers, which is small.

    Args:
        model: a graph with float32 activations; it is not changed.
        feeds: inputs that show how large activations become.
        watched: the float32 graph that `model` was quantized from, whose activations are looked at instead.

    Raises:
        UsageError: nodes inside a Loop or a branch have to stay float32.
    """
    if any(node.op_type in RECURRENT for node in model.graph) and any(
        "past_" in str(port.name) for port in model.graph.inputs
    ):
        return model.clone()
    sizes = largest(watched or model, feeds)
    large = {name for name, size in sizes.items() if size > LARGEST}
    return _converted(model.clone(), lambda node: bool(large & _names(node)), np.dtype(np.float16))


def bfloat(model: ir.Model) -> ir.Model:
    """The same in bfloat16, which has float32's range; operators that CUDA has not got in bfloat16 stay float32.

    So do caches that grow by joining, which goes by way of numpy, which has no bfloat16.

    Raises:
        UsageError: nodes inside a Loop or a branch have to stay float32.
    """
    model = model.clone()
    LiftConstantsToInitializersPass(lift_all_constants=True)(model)
    joined = all(node.op_type != "GroupQueryAttention" for node in model.graph)
    for value in model.graph.inputs if joined else ():
        if (
            str(value.name).startswith("past_") and value.shape is not None
        ):  # or onnxruntime takes its cast's buffer for
            value.shape = ir.Shape(_apart(size) for size in value.shape)  # what is as long when nothing is cached yet
    model = _converted(
        model, lambda node: node.op_type not in BFLOAT16, np.dtype(ml_dtypes.bfloat16), caches=not joined
    )
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen(value)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            _widen(value)
        for attribute in list(node.attributes.values()):
            if attribute.name == "to" and attribute.as_int() == ir.DataType.FLOAT16:
                node.attributes["to"] = ir.AttrInt64("to", ir.DataType.BFLOAT16)
            elif attribute.type == ir.AttributeType.TENSOR:
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, _wide(attribute.as_tensor()))
    return model


def _apart(size: int | ir.SymbolicDim) -> int | str:
    return size if isinstance(size, int) else f"cached_{size.value}"


def _widen(value: ir.Value) -> None:
    """From float16 to bfloat16, its constant too."""
    if value.dtype == ir.DataType.FLOAT16:
        value.dtype = ir.DataType.BFLOAT16
        if value.const_value is not None:
            value.const_value = _wide(value.const_value)


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype != ir.DataType.FLOAT16:
        return tensor
    return ir.tensor(tensor.numpy().astype(ml_dtypes.bfloat16), name=tensor.name)


def _converted(
    model: ir.Model, stays: Callable[[ir.Node], bool], kind: np.dtype[Any], *, caches: bool = True
) -> ir.Model:
    """Float16 but for some nodes, with the weights in `kind`, which may be another type of 16 bits."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    for number, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"node_{number}"
    blocked = [
        node
        for node in model.graph.all_nodes()
        if node.op_type in DEFAULT_OP_BLOCK_LIST
        or stays(node)
        or str(node.name).startswith(NAME)
        or node.attributes.get_string("reduction", "none") != "none"  # onnxruntime adds up no scattered float16
    ]
    inner = sorted({node.op_type for node in blocked if node.graph is not model.graph and _has_float32(node)})
    if inner:  # the converter would put their casts around the Loop
        raise UsageError(
            f"16 bits cannot be made: {', '.join(inner)} inside a Loop or a branch would have to stay float32; "
            "choose fp32, int8 or int4"
        )
    ports = [str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)]
    weights = _withhold(model.graph, SMALL if kind == np.float16 else 0)
    with quiet():
        proto = convert_float_to_float16(
            ir.to_proto(model),
            keep_io_types=[name for name in ports if not (caches and name.startswith(("past_", "present")))],
            disable_shape_infer=True,
            op_block_list=DEFAULT_OP_BLOCK_LIST,
            node_block_list=[node.name for node in blocked],
        )
    made = ir.serde.deserialize_model(proto)
    for name, weight in weights.items():
        _give_back(made.graph.initializers[name], weight, kind)
    _join_float32(made.graph)
    return made


def _names(node: ir.Node) -> set[str]:
    return {str(value.name) for value in (*node.inputs, *node.outputs) if value is not None}


def _has_float32(node: ir.Node) -> bool:
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs))


def _withhold(graph: ir.Graph, small: int) -> dict[str, ir.TensorProtocol]:
    """Put one zero in the place of each weight of more elements than `small`, and give the weights by name."""
    weights = {}
    for name, value in graph.initializers.items():
        weight = value.const_value
        if weight is not None and weight.size > small:
            weights[name] = weight
            value.const_value = ir.tensor(np.zeros(1, weight.dtype.numpy()), dtype=weight.dtype, name=name)
            value.shape = ir.Shape([1])
    return weights


def _give_back(value: ir.Value, weight: ir.TensorProtocol, kind: np.dtype[Any]) -> None:
    """Put a weight where it was, in 16 bits if that is what the converter decided."""
    converted = value.const_value
    assert converted is not None
    if converted.dtype == ir.DataType.FLOAT16:
        most = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]
        weight = ir.tensor(weight.numpy().clip(-most, most).astype(kind), name=value.name)
    value.const_value, value.dtype, value.shape = weight, weight.dtype, ir.Shape(weight.numpy().shape)
    for node in value.consumers():
        if node.op_type == "Cast":  # of which the converter has the shape of what stood there
            node.outputs[0].shape = value.shape


def _join_float32(graph: ir.Graph) -> None:
    """Let float32 go from one float32 node to the next as it is: the converter leads it through float16."""
    for node in list(graph):
        if node.op_type != "Cast" or node.attributes["to"].as_int() != ir.DataType.FLOAT:
            continue
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        source = before.inputs[0] if before is not None and before.op_type == "Cast" else None
        if source is not None and source.dtype == ir.DataType.FLOAT and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
