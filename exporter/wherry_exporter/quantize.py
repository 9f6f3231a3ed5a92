"""A float32 graph to a graph of another precision. Knows no model and does not judge the result: `verify.py` does.

int8 of encoders is dynamic: activations per tensor to uint8 as they come, weights per channel to 7 of 8 bits.
Seven bits because CPUs without VNNI add pairs of uint8 x int8 products in 16 bits: 2 * 255 * 64 still fits, so the
result is the same with and without VNNI (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
int8 and int4 of decoders are weight-only (MatMulNBits), in blocks of 32 with one scale each.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime import InferenceSession

from wherry_exporter.quiet import quiet

Array = np.ndarray[Any, Any]
DYNAMIC = ("MatMul", "Attention")
BLOCK = 32


def weight_only(model: ir.Model, bits: int, keep: Sequence[str] = ()) -> ir.Model:
    """Every projection with `bits` (4 or 8) bits a weight, those named in `keep` with 8, embeddings with 8.

    Activations stay float32 between the nodes.
    """
    model = model.clone()
    _fold_transposes(model.graph)
    _quantize_embeddings(model)
    proto = _nbits(ir.to_proto(model), bits, exclude=keep)
    return ir.serde.deserialize_model(_nbits(proto, 8) if keep else proto)


def _nbits(proto: Any, bits: int, exclude: Sequence[str] = ()) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=bits)
    quantizer = MatMulNBitsQuantizer(proto, algo_config=config, nodes_to_exclude=list(exclude))
    with quiet():
        quantizer.process()
    return quantizer.model.model


def dynamic_int8(model: ir.Model, keep: Sequence[str] = ()) -> ir.Model:
    """Projections and embeddings in int8, but for the nodes named in `keep`, which stay float32."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = model.clone()
    _quantize_embeddings(model)
    with tempfile.TemporaryDirectory() as scratch, quiet():
        path = Path(scratch) / "model.onnx"
        quantize_dynamic(
            ir.to_proto(model),
            path,
            op_types_to_quantize=list(DYNAMIC),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "MatMulConstBOnly": True},
        )
        return ir.serde.deserialize_model(onnx.load(path))


def ends_first(model: ir.Model) -> list[str]:
    """Names of a decoder's projections: the output weights first, then from both ends of the network inwards.

    The first and last layers suffer most from few bits; llama.cpp's k-quant mixes and onnxruntime-genai's
    `k_quant_mixed` give them more for that reason.
    """
    names = [str(node.name) for node in model.graph if node.op_type == "MatMul"]
    middle = names[:-1]
    order = sorted(range(len(middle)), key=lambda index: min(index, len(middle) - 1 - index))
    return [*names[-1:], *(middle[index] for index in order)]


def has_products(model: ir.Model) -> bool:
    """Whether there is anything in a graph that `dynamic_int8` quantizes."""
    return any(
        node.op_type in DYNAMIC and node.inputs[1] is not None and node.inputs[1].const_value is not None
        for node in model.graph
    )


def worst_first(model: ir.Model, feeds: Mapping[str, Array]) -> list[str]:
    """Names of the nodes that `dynamic_int8` would quantize, the one that loses most first.

    Loss is the relative error of the node's product, averaged over tokens, when its real activations, taken from
    one run of the float32 graph on `feeds`, are rounded to uint8 as onnxruntime does. Averaged, because a few tokens
    with huge activations would hide what their scale costs all others.
    """
    model = model.clone()
    products = [
        (str(node.name), source, weight.const_value.numpy())
        for node in model.graph
        if node.op_type in DYNAMIC
        for source, weight in [node.inputs[:2]]
        if source is not None and weight is not None and weight.const_value is not None
    ]
    sources = list(dict.fromkeys(source for _, source, _ in products))
    model.graph.outputs[:] = sources
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        ir.save(model, path, external_data="weights")
        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        values = session.run(None, dict(feeds))
    activations = {source.name: value for source, value in zip(sources, values, strict=True)}
    mask = feeds.get("attention_mask")
    losses = {}
    for name, source, weight in products:
        states = activations[source.name]
        rounded = _as_uint8(states)
        if mask is not None and states.shape[:2] == mask.shape:
            states, rounded = states[mask.astype(bool)], rounded[mask.astype(bool)]
        exact = states @ weight
        errors = np.linalg.norm(rounded @ weight - exact, axis=-1)
        losses[name] = float(np.mean(errors / np.maximum(np.linalg.norm(exact, axis=-1), 1e-9)))
    return sorted(losses, key=lambda name: -losses[name])


def _as_uint8(states: Array) -> Array:
    """What is left of activations after dynamic quantization: one scale and zero point for all."""
    low, high = min(float(states.min()), 0.0), max(float(states.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    return np.asarray(np.round((states - low) / scale) * scale + low, dtype=np.float32)


def _fold_transposes(graph: ir.Graph) -> None:
    """Make a transposed constant (a language model's output weights tied to its embeddings) a constant of its own."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is not None and source.const_value is not None:
            axes = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
            name = f"{source.name}.transposed"
            value = ir.Value(
                name=name,
                const_value=ir.tensor(np.ascontiguousarray(source.const_value.numpy().transpose(axes)), name=name),
            )
            graph.register_initializer(value)
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)


def _quantize_embeddings(model: ir.Model) -> None:
    """Embedding tables to 8 bits in blocks along each row (GatherBlockQuantized), where rows divide into blocks."""
    graph = model.graph
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" and node.domain == "" else None
        if table is None or table.const_value is None or len(table.const_value.shape) != 2:
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        weights = table.const_value.numpy()
        if axis != 0 or weights.dtype != np.float32 or weights.shape[0] < 1024 or weights.shape[1] % BLOCK:
            continue
        blocks = weights.reshape(weights.shape[0], -1, BLOCK)
        scales = np.abs(blocks).max(-1) / np.float32(127)
        levels = np.round(blocks / np.where(scales == 0, 1, scales)[..., None]) + 128
        data = _initializer(graph, f"{table.name}.uint8", levels.astype(np.uint8).reshape(weights.shape))
        scale = _initializer(graph, f"{table.name}.scales", scales.astype(np.float32))
        gather = ir.node(
            "GatherBlockQuantized",
            [data, node.inputs[1], scale],
            {"bits": 8, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
            domain="com.microsoft",
        )
        gather.outputs[0].shape, gather.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
        graph.insert_before(node, gather)
        node.outputs[0].replace_all_uses_with(gather.outputs[0], replace_graph_outputs=True)
        gather.outputs[0].name = node.outputs[0].name
        graph.remove(node, safe=True)
        if not list(table.uses()):
            graph.initializers.pop(str(table.name))
    model.opset_imports["com.microsoft"] = 1


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
