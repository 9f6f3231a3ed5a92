"""What bundles recommend for devices."""

import onnx_ir as ir
import pytest

from wherry_exporter.recommend import recommended


def graph(operator: str, domain: str = "", **inputs: list[int | str]) -> ir.Model:
    values = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        for name, shape in inputs.items()
    ]
    node = ir.Node(domain, operator, values)
    return ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 20}), ir_version=10)


TEXT = {"input_ids": ["batch_size", "sequence_length"], "attention_mask": ["batch_size", "sequence_length"]}
SHAPES = {
    "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
    "trt_profile_opt_shapes": "input_ids:8x128,attention_mask:8x128",
    "trt_profile_max_shapes": "input_ids:64x512,attention_mask:64x512",
}


def test_tensorrt_is_told_the_sizes_that_a_graph_takes():
    assert recommended({"model": graph("Add", **TEXT)}, "fp32", 512) == {"model": {"tensorrt": SHAPES}}
    halved = recommended({"model": graph("Add", **TEXT)}, "fp16", 512)
    assert halved == {"model": {"tensorrt": SHAPES | {"trt_fp16_enable": "1"}}}
    image = recommended({"model": graph("Conv", pixel_values=["batch_size", 3, 224, 224])}, "fp32", 512)
    assert image["model"]["tensorrt"]["trt_profile_max_shapes"] == "pixel_values:64x3x224x224"
    short = recommended({"model": graph("Add", **TEXT)}, "fp32", 40)
    assert short["model"]["tensorrt"]["trt_profile_opt_shapes"] == "input_ids:8x40,attention_mask:8x40"


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (graph("MultiHeadAttention", "com.microsoft", **TEXT), "fp32"),
        (graph("Add", **TEXT), "int8"),
        (graph("Conv", pixel_values=["batch_size", 3, "height", "width"]), "fp32"),
        (graph("Add", left=[1, 2], right=[1, 2]), "fp32"),
    ],
    ids=["taken in parts", "of integers", "of sizes that nobody knows", "of one size"],
)
def test_tensorrt_is_told_nothing_where_it_would_be_wrong(model, precision):
    assert recommended({"model": model}, precision, 512) == {}


def test_steps_of_a_decoder_are_one_cuda_graph_in_16_bits():
    model = graph("GroupQueryAttention", "com.microsoft", **TEXT)
    for precision in ("fp16", "bf16", "int4f16"):
        assert recommended({"model": model}, precision, 512) == {"model": {"cuda": {"enable_cuda_graph": "1"}}}
    assert recommended({"model": model}, "fp32", 512) == {}
