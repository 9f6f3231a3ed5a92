"""A float32 graph to one that computes in 8 bits: dynamic or static. Knows no model and does not judge the result.

Dynamic: each row of activations to uint8 as it comes. Static: with the ranges seen on calibration data, as QDQ nodes.
Weights are int8 per channel, 7 of 8 bits, because CPUs without VNNI add pairs of uint8 x int8 products in 16 bits:
2 * 255 * 64 still fits, so the result is the same with and without VNNI
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). uint8 weights need no such care.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader

from wherry_exporter.activations import Feed, Watch
from wherry_exporter.quiet import quiet
from wherry_exporter.rowwise import by_row, compute_in_integers
from wherry_exporter.unpack import gemms_to_matmuls, unpack_attention, whole_averages
from wherry_exporter.weight_only import quantize_embeddings

Array = np.ndarray[Any, Any]
DYNAMIC = ("MatMul",)
STATIC = ("Conv", "MatMul")
FOLLOWING = ("Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool")
"""What stays in 8 bits between two of STATIC."""
ROWS = 2048
"""Of activations, evenly spaced, by which a product's loss is judged."""


def for_integers(model: ir.Model) -> ir.Model:
    """A copy of a graph with its products where they are seen."""
    model = model.clone()
    gemms_to_matmuls(model.graph)
    unpack_attention(model.graph)
    whole_averages(model.graph)
    return model


def products(model: ir.Model, *, static: bool) -> list[ir.Node]:
    """The nodes that would be quantized."""
    return [
        node
        for node in model.graph
        if node.op_type in (STATIC if static else DYNAMIC)
        and node.domain == ""
        and node.inputs[1] is not None
        and node.inputs[1].const_value is not None
        and (static or len(node.inputs[1].const_value.shape) == 2)
    ]


def mostly_convolutions(model: ir.Model) -> bool:
    """Whether convolutions hold most of the weights; dynamic quantization would leave them as they are."""
    sizes = dict.fromkeys(STATIC, 0)
    for node in products(for_integers(model), static=True):
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        sizes[node.op_type] += weight.const_value.size
    return sizes["Conv"] > sizes["MatMul"]


def dynamic_int8(model: ir.Model, keep: Collection[str] = (), *, signed: bool = True) -> ir.Model:
    """Projections and embeddings in 8 bits, but for the nodes named in `keep`, which stay float32.

    Args:
        model: a graph of `for_integers`.
        keep: names of nodes.
        signed: weights in int8, else in uint8.
    """
    model = model.clone()
    names = {str(node.name) for node in products(model, static=False)} - set(keep)
    compute_in_integers(model, names, signed=signed)
    quantize_embeddings(model)
    return model


def static_int8(model: ir.Model, feeds: Sequence[Feed], keep: Collection[str] = ()) -> ir.Model:
    """Convolutions and projections between QuantizeLinear and DequantizeLinear, but for the nodes named in `keep`.

    Args:
        model: a graph of `for_integers`.
        feeds: calibration data; each activation's range is its smallest and largest value on them.
        keep: names of nodes that stay float32.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as scratch, quiet():
        source, target = _saved(model, scratch), Path(scratch) / "quantized.onnx"
        quantize_static(
            source,
            target,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*STATIC, *FOLLOWING],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            use_external_data_format=True,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
        return _loaded(target)


def worst_first(model: ir.Model, feeds: Sequence[Feed], *, static: bool) -> list[str]:
    """Names of the nodes that would be quantized, the one that loses most first.

    Loss is the relative error of the node's product, averaged over tokens or pixels, when its real activations and its
    weights are rounded as onnxruntime does. Averaged, because a few tokens with huge activations would hide what their
    scale costs all others.

    Args:
        model: a graph of `for_integers`.
        feeds: inputs that show what activations are like.
        static: which way of quantizing.
    """
    nodes = products(model, static=static)
    by_source: dict[str, list[ir.Node]] = {}
    for node in nodes:
        by_source.setdefault(str(node.inputs[0].name) if node.inputs[0] else "", []).append(node)
    watch = Watch(model, feeds, list(by_source))
    losses = {}
    for found in watch.values():
        for node in by_source[found[0]]:
            if node.op_type == "Conv":
                losses[str(node.name)] = _convolution_loss(node, found[1])
            else:
                losses[str(node.name)] = _product_loss(_array(node, 1), watch.rows(found), static=static)
    return sorted(losses, key=lambda name: -losses[name])


def _product_loss(weight: Array, states: Array, *, static: bool) -> float:
    low, high = (float(states.min()), float(states.max())) if static else (0.0, 0.0)
    states = states[:: -(-len(states) // ROWS)]
    coarse = as_uint8(states, low, high) if static else by_row(states)
    exact, rounded = states @ weight, coarse @ as_int7(weight, -1)
    errors = np.linalg.norm(rounded - exact, axis=-1)
    return float(np.mean(errors / np.maximum(np.linalg.norm(exact, axis=-1), 1e-9)))


def _convolution_loss(node: ir.Node, values: Sequence[Array]) -> float:
    """The same of a convolution; its bias, in int32, loses nothing that counts."""
    given = [_array(node, index) for index in range(1, len(node.inputs))]
    low, high = min(0.0, *(float(value.min()) for value in values)), max(0.0, *(float(value.max()) for value in values))
    session = _alone(node)
    names = [port.name for port in session.get_inputs()]
    losses = []
    for value in values:
        feeds = ([value, *given], [as_uint8(value, low, high), as_int7(given[0], 0), *given[1:]])
        exact, rounded = (session.run(None, dict(zip(names, each, strict=True)))[0] for each in feeds)
        errors = np.linalg.norm(rounded - exact, axis=1)
        losses.append(float(np.mean(errors / np.maximum(np.linalg.norm(exact, axis=1), 1e-9))))
    return float(np.mean(losses))


def _alone(node: ir.Node) -> InferenceSession:
    """A graph of one node whose inputs are all given."""
    inputs = [ir.val(f"input{number}", type=ir.TensorType(ir.DataType.FLOAT)) for number, _ in enumerate(node.inputs)]
    for given, value in zip(inputs, node.inputs, strict=True):
        given.shape = ir.Shape([None] * len(value.shape)) if value is not None and value.shape is not None else None
    single = ir.node(node.op_type, inputs, dict(node.attributes))
    single.outputs[0].name, single.outputs[0].type = "output", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(inputs, single.outputs, nodes=[single], opset_imports={"": 20}, name="alone")
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    return InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def as_uint8(states: Array, low: float = 0.0, high: float = 0.0) -> Array:
    """What is left of activations after rounding to uint8: one scale and zero point for all."""
    low, high = min(float(states.min()), low), max(float(states.max()), high)
    scale = (high - low) / 255 or 1.0
    return np.asarray(np.round((states - low) / scale) * scale + low, dtype=np.float32)


def as_int7(weight: Array, axis: int) -> Array:
    """What is left of a weight after rounding to 7 bits, with a scale for each output channel along `axis`."""
    others = tuple(each for each in range(weight.ndim) if each != axis % weight.ndim)
    scale = np.abs(weight).max(axis=others, keepdims=True) / 64
    return np.asarray(np.round(weight / np.where(scale == 0, 1, scale)) * scale, dtype=np.float32)


def _array(node: ir.Node, index: int) -> Array:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self.feeds, None)


def _saved(model: ir.Model, folder: str) -> Path:
    path = Path(folder) / "model.onnx"
    ir.save(model, path, external_data="model.onnx_data")
    return path


def _loaded(path: Path) -> ir.Model:
    """A graph and its weights in memory, the constants that nodes hold among them."""
    model: ir.Model = ir.from_proto(onnx.load(path))
    return model
