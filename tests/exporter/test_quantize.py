"""Quantized graphs: what is in them, how large they are, that they compute what the float32 ones do, on every CPU."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from wherry_exporter.activations import Watch
from wherry_exporter.convert import convert
from wherry_exporter.errors import UsageError
from wherry_exporter.half import half
from wherry_exporter.integer import (
    as_int7,
    as_uint8,
    dynamic_int8,
    for_integers,
    mostly_convolutions,
    products,
    static_int8,
    worst_first,
)
from wherry_exporter.plan import Settings
from wherry_exporter.precision import ends_first
from wherry_exporter.stepwise import repeat_step
from wherry_exporter.unpack import gemms_to_matmuls, unpack_attention, whole_averages
from wherry_exporter.weight_only import WeightOnly

MICROSOFT = "com.microsoft"


def tensors(bundle, precision):
    graph = onnx.load(bundle.folder / bundle.variants[precision].graphs["model"]).graph
    return graph, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, int]:
    return {item.name: item.i for item in node.attribute}


def test_int8_weights_use_seven_bits(bundle):
    """Without VNNI two uint8 x int8 products are added in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 does not."""
    for name in ("minilm", "rampart"):
        graph, arrays = tensors(bundle(name), "int8")
        inputs = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
        assert len(inputs) >= 6
        for weight in inputs:
            assert arrays[weight].dtype == np.int8
            assert np.abs(arrays[weight].astype(int)).max() <= 64
            assert len(np.unique(arrays[weight])) > 100  # and they do use them


def test_int8_rows_are_rounded_once_for_all_that_read_them(bundle):
    graph, _ = tensors(bundle("minilm"), "int8")
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MultiHeadAttention") == 6
    assert kinds.count("MatMulIntegerToFloat") + kinds.count("MatMul") == 24 + 1  # the last one pools
    assert kinds.count("QuantizeLinear") == kinds.count("MatMulIntegerToFloat")


@pytest.mark.parametrize(("precision", "bits"), [("int8", {8}), ("int4", {4, 8})])
def test_decoders_are_weight_only(bundle, precision, bits):
    graph, arrays = tensors(bundle("smollm2-gguf"), precision)
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    found = [attributes(node) for node in nodes]
    assert len(nodes) == 30 * 5 + 1  # packed query, key and value; output; gate, up and down; and the lm_head
    assert {each["bits"] for each in found} == bits
    assert {each["block_size"] for each in found if each["bits"] == 8} == {64}
    assert {each["block_size"] for each in found if each["bits"] == 4} <= {32}
    assert not [name for name, array in arrays.items() if array.dtype == np.float32 and array.size > 10**6]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_output_weights_that_are_the_embeddings_are_stored_once(bundle, precision):
    graph, arrays = tensors(bundle("smollm2-gguf"), precision)
    head = next(node for node in graph.node if node.op_type == "MatMulNBits" and attributes(node)["N"] == 49152)
    gather = next(node for node in graph.node if node.op_type == "GatherBlockQuantized")
    flat = next(node for node in graph.node if node.output[0] == gather.input[0])
    assert (attributes(head)["bits"], attributes(head)["block_size"], attributes(gather)["block_size"]) == (8, 64, 64)
    assert head.input[1] == flat.input[0]
    assert head.input[2] == gather.input[2]
    assert arrays[head.input[1]].nbytes == 49152 * 576


def test_sizes(bundle):
    def share(name, precision):
        variants = bundle(name).variants
        return variants[precision].bytes / variants["fp32"].bytes

    assert share("smollm2-gguf", "int8") <= 0.28
    assert share("smollm2-gguf", "int4") <= 0.25
    assert share("minilm", "int8") < 0.36
    assert share("rampart", "int8") < 0.36


def test_weights_of_four_bits_are_as_small_as_that(bundle):
    """4 bits and the scale of 32 weights, of the weights that are not the embeddings; some layers may keep 8."""
    graph, arrays = tensors(bundle("smollm2-gguf"), "int4")
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits" and attributes(node)["N"] != 49152]
    held = sum(arrays[name].nbytes for node in nodes for name in node.input[1:] if name)
    assert held <= 0.2 * sum(4 * attributes(node)["K"] * attributes(node)["N"] for node in nodes)


def test_embeddings_alone_keep_the_name_of_their_output():
    ids = torch.ones(2, 3, dtype=torch.int64)
    traced = convert(torch.nn.Embedding(1024, 32), {"input": ids}, {"input": {}}, ["ids"], ["embeds"])
    graph = WeightOnly(traced, lambda: [], Settings()).graph(8)
    assert [node.op_type for node in graph.graph] == ["Reshape", "GatherBlockQuantized"]
    assert [value.name for value in graph.graph.outputs] == ["embeds"]


# ---------------------------------------------------------------------------------------------- small graphs by hand


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: dict[str, list[int | str]],
    arrays: dict[str, np.ndarray],
) -> ir.Model:
    """A graph whose inner values have types and shapes, as traced ones do."""
    for number, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{number}"
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    proto = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    return ir.serde.deserialize_model(proto)


def run(model: ir.Model, feed: dict[str, np.ndarray], *, optimized: bool = True) -> dict[str, np.ndarray]:
    options = SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    serialized = ir.serde.serialize_model(model).SerializeToString()
    session = InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


F = TensorProto.FLOAT


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biased", [True, False])
def test_gemms_become_matmuls_that_compute_the_same(transposed, biased):
    arrays = {"w": normal(5, 8) if transposed else normal(8, 5), "b": normal(5, seed=1)}
    given = ["x", "w", "b"] if biased else ["x", "w"]
    node = helper.make_node("Gemm", given, ["y"], transB=transposed)
    model = model_of([node], {"x": (F, ["n", 8])}, {"y": ["n", 5]}, {name: arrays[name] for name in given[1:]})
    feed = {"x": normal(3, 8, seed=2)}
    expected = run(model, feed)["y"]
    gemms_to_matmuls(model.graph)
    assert kinds(model) == (["MatMul", "Add"] if biased else ["MatMul"])
    np.testing.assert_allclose(run(model, feed)["y"], expected, atol=1e-5)


def test_a_weight_of_two_gemms_and_gemms_that_are_more_than_a_product():
    arrays = {"w": normal(8, 8), "b": normal(8, seed=1)}
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
        helper.make_node("Gemm", ["h", "w", "b"], ["i"], transB=1),
        helper.make_node("Gemm", ["i", "w", "b"], ["y"], alpha=0.5),
    ]
    model = model_of(nodes, {"x": (F, ["n", 8])}, {"y": ["n", 8]}, arrays)
    feed = {"x": normal(3, 8, seed=2)}
    expected = run(model, feed)["y"]
    gemms_to_matmuls(model.graph)
    assert kinds(model) == ["MatMul", "Add", "MatMul", "Add", "Gemm"]
    np.testing.assert_allclose(run(model, feed)["y"], expected, rtol=1e-4)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_unpacked_computes_the_same(masked, added, causal):
    hidden, heads = 16, 4
    arrays = {"w": normal(hidden, 3 * hidden, scale=0.5), "b": normal(3 * hidden, seed=1)}
    given = ["x", "w", "b", "mask" if masked else "", *(["", "added"] if added else [])]
    node = helper.make_node(
        "Attention", given, ["y"], domain=MICROSOFT, num_heads=heads, scale=0.3, unidirectional=causal
    )
    ports = {"x": (F, ["n", "s", hidden])}
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    feed = {"x": normal(2, 5, hidden, seed=2)}
    if masked:
        ports["mask"], feed["mask"] = (TensorProto.INT32, ["n", "s"]), mask
    if added:
        ports["added"], feed["added"] = (F, ["n", heads, "s", "s"]), normal(2, heads, 5, 5, seed=3)
    model = model_of([node], ports, {"y": ["n", "s", hidden]}, arrays)
    expected = run(model, feed)["y"]
    unpack_attention(model.graph)
    assert kinds(model) == ["MatMul", "Split", "MultiHeadAttention"]
    found = run(model, feed)["y"]
    kept = mask.astype(bool) if masked else np.ones_like(mask, bool)
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-5)


@pytest.mark.parametrize("given", ["past", "sizes", "present"])
def test_attention_that_cannot_be_unpacked_stays(given):
    arrays = {"w": normal(16, 48, scale=0.5), "b": normal(48, seed=1)}
    how = {"qkv_hidden_sizes": [16, 16, 16]} if given == "sizes" else {}
    inputs = ["x", "w", "b", *(["", "past"] if given == "past" else [])]
    outputs = ["y", *(["present"] if given == "present" else [])]
    node = helper.make_node("Attention", inputs, outputs, domain=MICROSOFT, num_heads=4, **how)
    ports = {"x": (F, ["n", "s", 16])} | ({"past": (F, [2, "n", 4, "p", 4])} if given == "past" else {})
    model = model_of([node], ports, {"y": ["n", "s", 16]}, arrays)
    unpack_attention(model.graph)
    assert kinds(model) == ["Attention"]


def test_averages_over_the_whole_map():
    whole = helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[5000, 5000], ceil_mode=1, pads=[0, 0, 0, 0])
    node = helper.make_node("GlobalAveragePool", ["x"], ["a"])
    small = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])
    feed = {"x": normal(2, 3, 6, 7)}
    ports = {"x": (F, ["n", 3, "h", "w"])}
    model = model_of([whole], ports, {"a": ["n", 3, 1, 1]}, {})
    whole_averages(model.graph)
    assert kinds(model) == ["GlobalAveragePool"]
    np.testing.assert_allclose(run(model, feed)["a"], feed["x"].mean((2, 3), keepdims=True), atol=1e-6)
    untouched = model_of([node, small], ports, {"a": ["n", 3, 1, 1], "y": ["n", 3, "i", "j"]}, {})
    whole_averages(untouched.graph)
    assert kinds(untouched) == ["GlobalAveragePool", "AveragePool"]


def network(average: str, groups: int = 1) -> ir.Model:
    """Conv, Relu, an average and a Gemm: what image classifiers are made of."""
    arrays = {
        "k": normal(16, 3, 3, 3, scale=0.3),
        "kb": normal(16, seed=1, scale=0.2),
        "k2": normal(16, 16 // groups, 3, 3, seed=2, scale=0.2),
        "k2b": normal(16, seed=3, scale=0.2),
        "w": normal(10, 16, seed=4, scale=0.5),
        "b": normal(10, seed=5),
    }
    pool = (
        helper.make_node("GlobalAveragePool", ["r2"], ["p"])
        if average == "GlobalAveragePool"
        else helper.make_node("AveragePool", ["r2"], ["p"], kernel_shape=[12, 12])
    )
    nodes = [
        helper.make_node("Conv", ["x", "k", "kb"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "k2", "k2b"], ["c2"], pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Relu", ["c2"], ["r2"]),
        pool,
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["logits"], transB=1),
    ]
    return model_of(nodes, {"x": (F, ["n", 3, 12, 12])}, {"logits": ["n", 10]}, arrays)


def images(seed: int) -> dict[str, np.ndarray]:
    return {"x": normal(4, 3, 12, 12, seed=seed)}


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("average", ["GlobalAveragePool", "AveragePool"])
def test_static_quantization_of_a_convolutional_network(average, groups):
    """On images other than the calibration's, with every optimization of onnxruntime and with none."""
    model = network(average, groups)
    quantized = static_int8(for_integers(model), [images(seed) for seed in range(10, 18)])
    assert kinds(quantized).count("QuantizeLinear") >= 4
    feed = images(99)
    expected = run(model, feed)["logits"]
    for optimized in (True, False):
        found = run(quantized, feed, optimized=optimized)["logits"]
        assert error(found, expected) < 0.06
    weights = [
        value.const_value.numpy()
        for value in quantized.graph.initializers.values()
        if value.const_value.dtype == ir.DataType.INT8 and value.const_value.size > 16
    ]
    assert len(weights) == 3
    for weight in weights:
        assert np.abs(weight.astype(int)).max() == 64


def test_convolutions_or_products_hold_most_weights():
    assert mostly_convolutions(network("GlobalAveragePool"))
    assert not mostly_convolutions(two_layers())


def two_layers(first: np.ndarray | None = None, second: np.ndarray | None = None) -> ir.Model:
    arrays = {
        "w1": normal(32, 64, scale=0.2) if first is None else first,
        "w2": normal(64, 32, seed=1, scale=0.2) if second is None else second,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    return model_of(nodes, {"x": (F, ["n", "s", 32])}, {"y": ["n", "s", 32]}, arrays)


@pytest.mark.parametrize(
    ("signed", "kind", "most"), [(True, ir.DataType.INT8, 0.02), (False, ir.DataType.UINT8, 0.015)]
)
def test_dynamic_quantization_with_signed_and_unsigned_weights(signed, kind, most):
    model = two_layers()
    quantized = dynamic_int8(for_integers(model), signed=signed)
    assert kinds(quantized).count("MatMulIntegerToFloat") == 2
    held = [value.const_value for value in quantized.graph.initializers.values() if value.const_value.size > 1000]
    assert [tensor.dtype for tensor in held] == [kind, kind]
    scales = [
        value.const_value.size for name, value in quantized.graph.initializers.items() if name.endswith(".scales")
    ]
    assert sorted(scales) == [32, 64]
    feed = {"x": normal(2, 5, 32, seed=3)}
    for optimized in (True, False):
        assert error(run(quantized, feed, optimized=optimized)["y"], run(model, feed)["y"]) < most


def test_no_row_changes_another():
    """Rows a million times as large, of zeros and of the smallest numbers, beside others and alone."""
    quantized = dynamic_int8(for_integers(two_layers()))
    states = normal(1, 6, 32, seed=3) * np.array([1, 1e6, 0, 1e-6, 1e-44, 1], np.float32)[:, None]
    together = run(quantized, {"x": states})["y"]
    for row in range(6):
        alone = run(quantized, {"x": states[:, row : row + 1]})["y"]
        np.testing.assert_array_equal(together[:, row], alone[:, 0])
    exact = run(two_layers(), {"x": states})["y"]
    assert not together[:, 2].any()
    for row in (0, 1, 3, 5):
        assert error(together[:, row], exact[:, row]) < 0.03


def test_what_is_kept_stays_float32():
    model = for_integers(two_layers())
    assert kinds(dynamic_int8(model, ["second"])).count("MatMulIntegerToFloat") == 1
    static = static_int8(model, [{"x": normal(2, 5, 32, seed=seed)} for seed in range(3)], ["first"])
    kept = next(node for node in static.graph if node.name == "first")
    assert kept.inputs[1].const_value.dtype == ir.DataType.FLOAT


def test_the_layer_whose_activations_have_an_outlier_comes_first():
    """One element of the input of the second is a thousand times as large as all others."""
    first = normal(32, 64, scale=0.2)
    feeds = [{"x": normal(2, 5, 32, seed=seed)} for seed in range(3)]
    for feed in feeds:
        feed["x"][..., 0] = 0
    feeds[1]["x"][0, 0, 0] = 1
    first[0] = 0
    first[0, 7] = 3000
    for model, worst in ((two_layers(first), "second"), (two_layers(), "first")):
        if worst == "first":
            feeds[1]["x"][0, 0, 1] = 3000
        order = worst_first(for_integers(model), feeds, static=True)
        assert order == [worst, *({"first", "second"} - {worst})]


@pytest.mark.parametrize("worst", ["first", "second"])
def test_the_layer_whose_rows_have_outliers_comes_first(worst):
    """One element of every row, which the product does not care for, is hundreds of times as large as the others."""
    first, second = normal(32, 64, scale=0.2), normal(64, 32, seed=1, scale=0.2)
    feeds = [{"x": normal(2, 5, 32, seed=seed)} for seed in range(3)]
    for feed in feeds:
        feed["x"][..., 0] = 300 if worst == "first" else 1
    first[0] = 0
    if worst == "second":
        first[0, 7] = 300
        second[7] = 0
    order = worst_first(for_integers(two_layers(first, second)), feeds, static=False)
    assert order == [worst, *({"first", "second"} - {worst})]


def test_the_convolution_whose_activations_have_an_outlier_comes_first():
    model = for_integers(network("GlobalAveragePool"))
    names = [str(node.name) for node in products(model, static=True)]
    calm = [images(seed) for seed in range(3)]
    assert sorted(worst_first(model, calm, static=True)) == sorted(names)
    calm[1]["x"][0, 0, 0, 0] = 5000
    assert worst_first(model, calm, static=True)[0] == names[0]


def test_rounding_to_eight_and_seven_bits():
    states = np.array([[0.0, 1.0, -1.0, 254.0]], np.float32)
    np.testing.assert_allclose(as_uint8(states), states, atol=1e-4)  # -1 to 254: a step is 1
    assert np.abs(as_uint8(states * 0.37, -500, 500) - states * 0.37).max() <= 1000 / 255 / 2 + 1e-4
    weight = normal(6, 9)
    left = as_int7(weight, -1)
    steps = np.abs(weight).max(0) / 64
    assert (np.abs(left - weight) <= steps / 2 + 1e-6).all()
    np.testing.assert_allclose(np.round(left / steps), left / steps, atol=1e-3)


def test_the_ends_of_a_network_come_first():
    assert ends_first(["a", "b", "c", "d", "e", "head"]) == ["head", "a", "e", "b", "d", "c"]
    assert ends_first(["head"]) == ["head"]
    assert ends_first([]) == []


# ------------------------------------------------------------------------------------------------------- weight-only


def language_model(vocabulary: int = 1024, size: int = 64, *, tied: bool = True) -> ir.Model:
    """Embeddings, one projection with a past that goes through, and output weights that may be the embeddings."""
    arrays = {"table": normal(vocabulary, size, scale=0.1), "w": normal(size, size, seed=1, scale=0.3)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["h"], name="middle"),
        helper.make_node("Concat", ["past_key_values.0.key", "h"], ["present.0.key"], axis=1),
    ]
    if tied:
        nodes.append(helper.make_node("Transpose", ["table"], ["t"], perm=[1, 0]))
    else:
        arrays["t"] = normal(size, vocabulary, seed=2, scale=0.1)
    nodes.append(helper.make_node("MatMul", ["h", "t"], ["logits"], name="head"))
    return model_of(
        nodes,
        {"input_ids": (TensorProto.INT64, ["n", "s"]), "past_key_values.0.key": (F, ["n", "p", size])},
        {"logits": ["n", "s", vocabulary], "present.0.key": ["n", "q", size]},
        arrays,
    )


def tokens(seed: int = 0, kind: type = np.float32) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, 1024, (2, 9))
    return {"input_ids": ids, "past_key_values.0.key": np.zeros((2, 0, 64), kind)}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("bits", "most"), [(8, 0.02), (4, 0.15)])
def test_weight_only_graphs_of_a_language_model(tied, bits, most):
    model = language_model(tied=tied)
    variants = WeightOnly(model, lambda: [tokens(1), tokens(2)], Settings())
    assert variants.names() == (["middle"] if tied else ["middle", "head"])
    quantized = variants.graph(bits)
    found = {
        str(node.name): node.attributes["bits"].as_int() for node in quantized.graph if node.op_type == "MatMulNBits"
    }
    assert found == {"middle": bits, "head": 8 if tied else bits}
    expected = run(model, tokens(3))
    for name, values in run(quantized, tokens(3)).items():
        assert error(values, expected[name]) < most


def test_weights_that_keep_eight_bits_beside_four():
    variants = WeightOnly(language_model(tied=False), lambda: [tokens(1)], Settings("rtn", 16, symmetric=False))
    nodes = {str(node.name): node for node in variants.graph(4, ["head"]).graph if node.op_type == "MatMulNBits"}
    assert [nodes[name].attributes["bits"].as_int() for name in ("middle", "head")] == [4, 8]
    assert [nodes[name].attributes["block_size"].as_int() for name in ("middle", "head")] == [16, 64]
    assert [len(nodes[name].inputs) for name in ("middle", "head")] == [4, 3]  # 8 bits are symmetric always


def test_activations_are_seen_where_a_graph_does_not_tell_their_types():
    def levels(model: ir.Model, algorithm: str = "imatrix") -> np.ndarray:
        graph = WeightOnly(model, lambda: [tokens(1), tokens(2)], Settings(algorithm)).graph(4).graph
        (head,) = (node for node in graph if node.name == "head")
        return head.inputs[1].const_value.numpy()

    told, untold = language_model(tied=False), language_model(tied=False)
    for value in [value for node in untold.graph for value in node.outputs]:
        if value not in untold.graph.outputs:
            value.type = value.shape = None
    assert np.array_equal(levels(untold), levels(told))
    assert not np.array_equal(levels(untold), levels(untold, "rtn"))


def test_squares_are_those_of_real_tokens_in_feeds_of_unlike_length():
    feeds = [tokens(1), {name: array[:1, :4] for name, array in tokens(2).items()}]
    feeds[0]["attention_mask"] = np.array([[1] * 9, [1] * 3 + [0] * 6])
    past = normal(3, 1, 64)
    feeds[0]["past_key_values.0.key"], feeds[1]["past_key_values.0.key"] = past[:2], past[2:]
    model = language_model(tied=False)
    model.graph.inputs.append(ir.val("attention_mask", dtype=ir.DataType.INT64, shape=ir.Shape(["n", "s"])))
    feeds[1]["attention_mask"] = np.ones((1, 4), np.int64)
    watch = Watch(model, feeds, ["e", "h", "past_key_values.0.key"])
    table = model.graph.initializers["table"].const_value.numpy()
    real = np.concatenate([table[feed["input_ids"][feed["attention_mask"] == 1]] for feed in feeds])
    for found in (watch.squares(), dict(watch.products())):
        assert found["e"].tokens == 9 + 3 + 4
        np.testing.assert_allclose(found["e"].squares, np.square(real).mean(0), rtol=1e-6)
        np.testing.assert_allclose(found["past_key_values.0.key"].squares, np.square(past).mean((0, 1)), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("algorithm", ["imatrix", "gptq", "k-quant", "hqq", "rtn"])
@pytest.mark.parametrize("size", [16, 128])
def test_graphs_of_every_algorithm_run(algorithm, size, symmetric):
    model = language_model()
    quantized = WeightOnly(model, lambda: [tokens(1), tokens(2)], Settings(algorithm, size, symmetric)).graph(4)
    expected = run(model, tokens(3))
    assert error(run(quantized, tokens(3))["logits"], expected["logits"]) < 0.2


@pytest.mark.parametrize("tied", [True, False])
def test_four_bit_normal_float(tied):
    model = language_model(tied=tied)
    quantized = WeightOnly(model, lambda: [], Settings()).bnb4()
    assert kinds(quantized).count("MatMulBnb4") == 2
    assert error(run(quantized, tokens(3))["logits"], run(model, tokens(3))["logits"]) < 0.15


def test_a_model_is_quantized_without_being_changed():
    model = language_model()
    before = kinds(model)
    variants = WeightOnly(model, lambda: [tokens(1)], Settings())
    variants.graph(8), variants.graph(4), variants.bnb4()
    assert kinds(model) == before


# ----------------------------------------------------------------------------------------------------------- float16


def test_float16_keeps_what_would_overflow_in_float32():
    """The square of 2000 is beyond 65504; what is made of it is not."""
    arrays = {"w": normal(32, 32, scale=0.2), "w2": normal(32, 32, seed=1, scale=0.2), "small": np.float32([1e-3])}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="safe"),
        helper.make_node("Mul", ["h", "h"], ["large"], name="square"),
        helper.make_node("Mul", ["large", "small"], ["r"], name="shrink"),
        helper.make_node("MatMul", ["r", "w2"], ["logits"], name="safe_too"),
    ]
    model = model_of(nodes, {"x": (F, ["n", 32])}, {"logits": ["n", 32]}, arrays)
    feed = {"x": normal(6, 32, seed=2, scale=600)}
    expected = run(model, feed)["logits"]
    made = half(model, [feed])
    found = run(made, feed)["logits"]
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert error(found, expected) < 5e-3
    held = {name: value.const_value.dtype for name, value in made.graph.initializers.items()}
    assert held["w2"] == ir.DataType.FLOAT16

    def inputs_of_shrink(graph: ir.Graph) -> set[ir.DataType]:
        return {value.dtype for node in graph if node.name == "shrink" for value in node.inputs}

    assert inputs_of_shrink(made.graph) == {ir.DataType.FLOAT}
    blind = half(model, [{"x": feed["x"] / 1e6}])  # it matters what is seen
    assert inputs_of_shrink(blind.graph) == {ir.DataType.FLOAT16}


def test_weights_of_float32_nodes_stay_as_they_are():
    arrays = {"w": normal(32, 32), "kept": normal(32, 32, seed=1, scale=1e5)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="safe"),
        helper.make_node("MatMul", ["h", "kept"], ["large"], name="large"),
        helper.make_node("Tanh", ["large"], ["logits"], name="tanh"),
    ]
    made = half(model_of(nodes, {"x": (F, ["n", 32])}, {"logits": ["n", 32]}, arrays), [{"x": normal(6, 32, seed=2)}])
    held = {name: value.const_value.numpy() for name, value in made.graph.initializers.items()}
    np.testing.assert_array_equal(held["kept"], arrays["kept"])
    np.testing.assert_array_equal(held["w"], arrays["w"].astype(np.float16))


@pytest.mark.parametrize("make", [lambda model: half(model, [tokens(1)]), None])
def test_caches_are_float16_and_logits_are_not(make):
    model = language_model()
    if make is None:
        quantized = WeightOnly(model, lambda: [tokens(1)], Settings()).graph(4)
        made = half(quantized, [tokens(1)], model)
    else:
        made = make(model)
    types = {str(value.name): value.dtype for value in (*made.graph.inputs, *made.graph.outputs)}
    assert types == {
        "input_ids": ir.DataType.INT64,
        "past_key_values.0.key": ir.DataType.FLOAT16,
        "present.0.key": ir.DataType.FLOAT16,
        "logits": ir.DataType.FLOAT,
    }
    found = run(made, tokens(3, np.float16))
    assert found["present.0.key"].dtype == np.float16
    assert error(found["logits"], run(model, tokens(3))["logits"]) < (0.15 if make is None else 5e-3)
    assert not [
        name
        for name, value in made.graph.initializers.items()
        if value.const_value.dtype == ir.DataType.FLOAT and value.const_value.size > 1000
    ]


def test_what_a_step_in_a_loop_multiplies_and_looks_up_is_quantized():
    step = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        step (int64[batch, 1] input_ids, int64[batch, total] attention_mask, float[batch, 64] past)
            => (float[batch, 1, 1100] logits, float[batch, 64] present)
        {
            embedded = Gather (embeddings, input_ids)
            axis = Constant <value_ints = [1]> ()
            token = Squeeze (embedded, axis)
            present = Add (past, token)
            given = Unsqueeze (present, axis)
            inner = Gemm <transB = 1> (present, gemm, bias)
            state = Unsqueeze (inner, axis)
            product = MatMul (state, weight)
            mixed = Add (product, given)
            turned = Transpose <perm = [1, 0]> (embeddings)
            logits = MatMul (mixed, turned)
        }
    """)
    random = np.random.default_rng(0)
    for name, shape in (("embeddings", (1100, 64)), ("gemm", (64, 64)), ("bias", (64,)), ("weight", (64, 64))):
        array = (random.normal(size=shape) / 8).astype(np.float32)
        step.graph.initializer.append(numpy_helper.from_array(array, name))
    model = ir.from_proto(step)
    for value in (value for node in model.graph for value in node.outputs):
        value.dtype = value.dtype or ir.DataType.FLOAT
    looped = repeat_step(model)
    feed = {
        "input_ids": random.integers(0, 1100, (2, 7)),
        "attention_mask": np.ones((2, 7), np.int64),
        "past": np.zeros((2, 64), np.float32),
    }
    few = WeightOnly(looped, lambda: [feed], Settings()).graph(4)
    kinds = [node.op_type for node in few.graph.all_nodes()]
    assert (kinds.count("MatMulNBits"), kinds.count("GatherBlockQuantized")) == (3, 1)
    assert not {"MatMul", "Gemm", "Transpose"} & set(kinds[:-1])
    graphs = [looped, few, half(looped, [feed])]
    sessions = [InferenceSession(ir.to_proto(each).SerializeToString()) for each in graphs]
    for session in sessions[1:]:
        typed = {
            port.name: feed[port.name].astype(np.float16) if "float16" in port.type else feed[port.name]
            for port in session.get_inputs()
        }
        for one, other in zip(sessions[0].run(None, feed), session.run(None, typed), strict=True):
            assert (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


def test_float16_is_refused_where_a_loop_has_what_must_stay_float32():
    step = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        step (int64[batch, 1] input_ids, int64[batch, total] attention_mask, float[batch, 4] past)
            => (float[batch, 1, 4] logits, float[batch, 4] present)
        {
            axis = Constant <value_ints = [1]> ()
            present = CumSum (past, axis)
            logits = Unsqueeze (present, axis)
        }
    """)
    feed = {
        "input_ids": np.ones((2, 7), np.int64),
        "attention_mask": np.ones((2, 7), np.int64),
        "past": np.zeros((2, 4), np.float32),
    }
    with pytest.raises(UsageError, match="CumSum inside a Loop or a branch would have to stay float32"):
        half(repeat_step(ir.from_proto(step)), [feed])
