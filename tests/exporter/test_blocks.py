"""Levels and scales of weights in few bits: bounds, onnxruntime's own packing, what activations change."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession, SessionOptions

from wherry_exporter.blocks import BY_NAME, Blocks, Moments, dequantized, gptq, imatrix, on_grid, packed, rtn
from wherry_exporter.plan import ALGORITHMS

SHAPES = [(64, 24, 32), (40, 7, 16), (96, 5, 32), (33, 3, 16), (20, 9, 64)]
"""(inputs, outputs, block size): whole blocks, a part of one, an odd number of them, one input left, one block only."""

EACH = [(name, bits) for name in ALGORITHMS for bits in (4, 8) if (name, bits) != ("hqq", 8)]
"""onnxruntime's hqq has 4 bits alone; 8 are always rounded to nearest."""


def weights(inputs: int, outputs: int, seed: int = 0) -> np.ndarray:
    """Of unlike size from output to output, with a few far outliers."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(inputs, outputs)) * random.uniform(0.2, 3, outputs)
    found[random.random(found.shape) < 0.01] *= 8
    return found.astype(np.float32)


def activations(inputs: int, tokens: int, mixing_seed: int = 5, seed: int = 0) -> np.ndarray:
    """Correlated, and much larger in a few inputs: what transformers make."""
    mixing = np.random.default_rng(mixing_seed)
    spread = np.exp(mixing.normal(size=inputs))
    directions = mixing.normal(size=(inputs // 4, inputs))
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(tokens, inputs // 4)) @ directions + 0.3 * random.normal(size=(tokens, inputs))
    return (hidden * spread).astype(np.float32)


def moments(states: np.ndarray) -> Moments:
    rows = states.astype(np.float64)
    return Moments(np.square(states).mean(0), rows.T @ rows / len(rows), len(rows))


def quantize(name: str, weight: np.ndarray, bits: int, size: int, symmetric: bool) -> Blocks:
    known = moments(activations(len(weight), 200))
    return BY_NAME[name](weight, bits, size, symmetric=symmetric, moments=known)


def steps(blocks: Blocks, inputs: int) -> np.ndarray:
    """The absolute scale of each weight, (inputs, outputs)."""
    return np.abs(np.repeat(blocks.scales, blocks.levels.shape[-1], -1)[:, :inputs].T)


def product_error(weight: np.ndarray, left: np.ndarray, states: np.ndarray) -> float:
    return float(np.linalg.norm(states @ (left - weight)) / np.linalg.norm(states @ weight))


def test_every_algorithm_that_may_be_asked_for_is_there():
    assert sorted(BY_NAME) == sorted(ALGORITHMS)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("name", "bits"), EACH)
def test_shapes_and_types(name, bits, symmetric):
    for inputs, outputs, size in SHAPES:
        weight = weights(inputs, outputs)
        blocks = quantize(name, weight, bits, size, symmetric)
        count = -(-inputs // size)
        assert blocks.levels.shape == (outputs, count, size)
        assert blocks.levels.dtype == np.uint8
        assert blocks.levels.max() < 2**bits
        assert blocks.scales.shape == (outputs, count)
        assert blocks.scales.dtype == np.float32
        if name in ("rtn", "imatrix", "gptq") and symmetric:
            assert blocks.zero_points is None
        else:
            assert blocks.zero_points.shape == (outputs, count)
            assert blocks.zero_points.dtype == (np.float32 if name == "hqq" else np.uint8)
        left = dequantized(blocks, inputs, bits)
        assert left.shape == weight.shape
        similarity = (left * weight).sum() / np.linalg.norm(left) / np.linalg.norm(weight)
        assert similarity > (0.98 if bits == 4 else 0.9998)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["rtn", "imatrix"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_is_within_half_a_step_of_what_levels_reach(name, bits, shape):
    inputs, outputs, size = shape
    weight = weights(inputs, outputs)
    for symmetric in (True, False):
        blocks = quantize(name, weight, bits, size, symmetric)
        step = steps(blocks, inputs)
        errors = np.abs(dequantized(blocks, inputs, bits) - weight)
        if symmetric:
            scales = np.repeat(blocks.scales, size, -1)[:, :inputs].T
            reached = (weight / scales >= -(2 ** (bits - 1)) - 0.5) & (weight / scales <= 2 ** (bits - 1) - 0.5)
            assert reached.mean() > 0.9
        else:
            reached = np.ones_like(weight, bool)
        assert (errors <= step * 0.5001)[reached].all()
        if name == "rtn":
            assert (errors <= step * 1.0001).all()  # the one sign has a level less than the other


def test_the_largest_weight_of_a_symmetric_block_is_kept():
    weight = weights(64, 12)
    left = dequantized(rtn(weight, 4, 32, symmetric=True, moments=None), 64, 4)
    for block in range(2):
        rows = slice(32 * block, 32 * block + 32)
        place = np.abs(weight[rows]).argmax(0)
        np.testing.assert_allclose(left[rows][place, range(12)], weight[rows][place, range(12)], rtol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_zeros_stay_zeros(name):
    weight = weights(64, 6)
    weight[:, 2] = 0
    weight[32:, 3] = 0
    left = dequantized(quantize(name, weight, 4, 32, True), 64, 4)
    assert np.isfinite(left).all()
    assert np.abs(left[:, 2]).max() < 1e-6
    if name != "gptq":  # which makes good in one block what it lost in another
        assert np.abs(left[32:, 3]).max() < 1e-6


@pytest.mark.parametrize(("name", "most"), [("imatrix", 0.97), ("k-quant", 0.97), ("hqq", 0.9)])
def test_fitting_is_closer_to_the_weights_than_rounding(name, most):
    """The importance of all inputs is the same here."""
    weight = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    plain = dequantized(rtn(weight, 4, 32, symmetric=True, moments=None), 512, 4)
    alike = Moments(np.ones(512, np.float32), None, 1)
    fitted = dequantized(BY_NAME[name](weight, 4, 32, symmetric=True, moments=alike), 512, 4)
    assert np.linalg.norm(fitted - weight) < most * np.linalg.norm(plain - weight)


@pytest.mark.parametrize("symmetric", [True, False])
def test_activations_make_products_of_unseen_ones_closer(symmetric):
    """With 2000 tokens to learn from and 500 others to measure on."""
    weight, size = weights(128, 48), 32
    seen, unseen = activations(128, 2000, seed=1), activations(128, 500, seed=2)
    error = {
        name: product_error(
            weight,
            dequantized(BY_NAME[name](weight, 4, size, symmetric=symmetric, moments=moments(seen)), 128, 4),
            unseen,
        )
        for name in ("rtn", "imatrix", "gptq")
    }
    assert error["gptq"] < 0.6 * error["rtn"]
    assert error["imatrix"] < 0.95 * error["rtn"] if symmetric else error["imatrix"] == error["rtn"]


def test_a_few_tokens_are_not_learned_by_heart():
    """With an eighth as many tokens as inputs gptq is no worse than rounding on unseen ones."""
    weight = weights(128, 48)
    seen, unseen = activations(128, 16, seed=1), activations(128, 500, seed=2)
    left = dequantized(gptq(weight, 4, 32, symmetric=True, moments=moments(seen)), 128, 4)
    plain = dequantized(rtn(weight, 4, 32, symmetric=True, moments=None), 128, 4)
    assert product_error(weight, left, unseen) < product_error(weight, plain, unseen)


def test_imatrix_loses_less_where_activations_are_large():
    weight = weights(64, 200)
    important = np.arange(64) % 32 < 4
    known = Moments(np.where(important, 100, 0.01).astype(np.float32), None, 1)
    fitted = dequantized(imatrix(weight, 4, 32, symmetric=True, moments=known), 64, 4)
    plain = dequantized(rtn(weight, 4, 32, symmetric=True, moments=None), 64, 4)
    assert np.linalg.norm((fitted - weight)[important]) < 0.92 * np.linalg.norm((plain - weight)[important])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_and_packing_are_onnxruntimes_own(shape, bits):
    """Golden: onnxruntime's quantizer of MatMulNBits. What stands beyond the last input is multiplied with nothing."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    inputs, outputs, size = shape
    weight = weights(inputs, outputs)
    config = DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=True, bits=bits)
    levels, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(weight)
    blocks = rtn(weight, bits, size, symmetric=True, moments=None)
    np.testing.assert_allclose(blocks.scales, scales, rtol=1e-6)
    found = packed(blocks.levels, bits)
    assert found.shape == levels.shape
    np.testing.assert_array_equal(unpacked(found, bits)[:, :inputs], unpacked(levels, bits)[:, :inputs])


def unpacked(levels: np.ndarray, bits: int) -> np.ndarray:
    each = levels if bits == 8 else np.stack([levels & 15, levels >> 4], -1)
    return each.reshape(len(levels), -1)


def test_packing_puts_the_first_of_two_in_the_low_half():
    np.testing.assert_array_equal(packed(np.array([[1, 2, 3]], np.uint8), 4), [[0x21, 0x03]])
    np.testing.assert_array_equal(packed(np.array([[1, 255]], np.uint8), 8), [[1, 255]])


def in_onnxruntime(blocks: Blocks, inputs: int, bits: int, states: np.ndarray) -> np.ndarray:
    """The product by MatMulNBits with float32 activations."""
    points = blocks.zero_points
    arrays = {"levels": packed(blocks.levels, bits), "scales": blocks.scales}
    if points is not None:
        arrays["points"] = packed(points, bits) if points.dtype == np.uint8 else points
    node = helper.make_node(
        "MatMulNBits",
        ["states", *arrays],
        ["product"],
        domain="com.microsoft",
        K=inputs,
        N=len(blocks.scales),
        bits=bits,
        block_size=blocks.levels.shape[-1],
        accuracy_level=0,
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [None, len(blocks.scales)])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"states": states})[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("name", "bits"), EACH)
def test_onnxruntime_multiplies_with_the_weights_that_are_left(name, bits, symmetric):
    for inputs, outputs, size in SHAPES:
        blocks = quantize(name, weights(inputs, outputs), bits, size, symmetric)
        states = activations(inputs, 6)
        expected = states @ dequantized(blocks, inputs, bits)
        found = in_onnxruntime(blocks, inputs, bits, states)
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [16, 32, 128])
@pytest.mark.parametrize(("lowest", "even"), [(8, True), (7, True), (0, False), (15, False), (None, False)])
def test_a_weight_of_few_levels_keeps_them(lowest, even, size):
    """Whatever block size it was quantized with: here one of 128, of scales in float16."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 16, (300, 70))
    points = random.integers(0, 16, (3, 70)) if lowest is None else np.full((3, 70), lowest)
    scales = (random.random((3, 70)) + 0.01).astype(np.float16).astype(np.float32)
    weight = (levels - points.repeat(128, 0)[:300]).astype(np.float32) * scales.repeat(128, 0)[:300]
    weight[:, 3] = 0
    found = on_grid(weight, 4, size)
    assert (found.zero_points is None) == even
    assert found.levels.shape == (70, -(-300 // size), size)
    np.testing.assert_allclose(dequantized(found, 300, 4), weight, rtol=2e-6, atol=0)


def test_levels_far_apart_are_steps_too():
    """Of a block with no two neighbours among its levels."""
    weight = np.float32(0.013) * np.resize(np.float32([0, 6, -6, -4, 3]), (32, 1))
    np.testing.assert_allclose(dequantized(on_grid(weight, 4, 32), 32, 4), weight, rtol=1e-6)


def test_a_weight_of_more_levels_has_none_to_keep():
    random = np.random.default_rng(0)
    assert on_grid(random.normal(size=(64, 8)).astype(np.float32), 4, 32) is None
    levels = np.float32(0.013) * random.integers(-8, 9, (64, 80)).astype(np.float32)
    assert on_grid(levels, 4, 32) is None
    one = np.float32(0.013) * random.integers(-8, 8, (64, 80)).astype(np.float32)
    one[5, 7] += 0.004
    assert on_grid(one, 4, 32) is None
