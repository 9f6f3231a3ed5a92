"""A float32 graph to float16, but for what would overflow. Does not judge the result."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from wherry_exporter.activations import Feed, largest
from wherry_exporter.errors import UsageError
from wherry_exporter.quiet import quiet

LARGEST = 65504 / 4
"""Elements beyond this, seen on a few inputs, may overflow on others."""

SMALL = 256
"""Elements of a constant that the converter may look at; it copies them, and takes no graph over 2 GB."""


def half(model: ir.Model, feeds: Sequence[Feed], watched: ir.Model | None = None) -> ir.Model:
    """Weights, activations and what is kept between steps in float16; other inputs and outputs stay float32.

    Nodes that take or give an element beyond `LARGEST` on `feeds` stay float32.

    Args:
        model: a graph with float32 activations; it is not changed.
        feeds: inputs that show how large activations become.
        watched: the float32 graph that `model` was quantized from, whose activations are looked at instead.

    Raises:
        UsageError: nodes inside a Loop or a branch have to stay float32.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    inner = [node for node in model.graph.all_nodes() if node.graph is not model.graph]
    stay = sorted({node.op_type for node in inner if node.op_type in DEFAULT_OP_BLOCK_LIST and _has_float32(node)})
    if stay:  # the converter would put their casts around the Loop
        raise UsageError(
            f"float16 cannot be made: {', '.join(stay)} inside a Loop or a branch would have to stay float32; "
            "choose fp32, int8 or int4"
        )
    sizes = largest(watched or model, feeds)
    model = model.clone()
    large = {name for name, size in sizes.items() if size > LARGEST}
    for number, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"node_{number}"
    blocked = [
        str(node.name)
        for node in model.graph
        if large & {str(value.name) for value in (*node.inputs, *node.outputs) if value is not None}
    ]
    ports = [str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)]
    weights = _withhold(model.graph)
    with quiet():
        proto = convert_float_to_float16(
            ir.to_proto(model),
            keep_io_types=[name for name in ports if not name.startswith(("past_", "present"))],
            disable_shape_infer=True,
            op_block_list=DEFAULT_OP_BLOCK_LIST,
            node_block_list=blocked,
        )
    made = ir.serde.deserialize_model(proto)
    for name, weight in weights.items():
        _give_back(made.graph.initializers[name], weight)
    _join_float32(made.graph)
    return made


def _has_float32(node: ir.Node) -> bool:
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in (*node.inputs, *node.outputs))


def _withhold(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    """Put one zero in the place of each weight, and give the weights by name."""
    weights = {}
    for name, value in graph.initializers.items():
        weight = value.const_value
        if weight is not None and weight.size > SMALL:
            weights[name] = weight
            value.const_value = ir.tensor(np.zeros(1, weight.dtype.numpy()), dtype=weight.dtype, name=name)
            value.shape = ir.Shape([1])
    return weights


def _give_back(value: ir.Value, weight: ir.TensorProtocol) -> None:
    """Put a weight where it was, in float16 if that is what the converter decided."""
    converted = value.const_value
    assert converted is not None
    if converted.dtype == ir.DataType.FLOAT16:
        most = np.finfo(np.float16).max
        weight = ir.tensor(weight.numpy().clip(-most, most).astype(np.float16), name=value.name)
    value.const_value, value.dtype, value.shape = weight, weight.dtype, ir.Shape(weight.numpy().shape)


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
