"""`wherry quantize`: graphs that are there already, whoever made them."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from wherry import pipeline
from wherry.cli import main
from wherry_exporter import export

TEXTS = ["The sea is calm.", "A storm is coming, and the boat is far from any harbour."]


@pytest.fixture(scope="module")
def bundles(classifier, gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, source in (("classifier", classifier), ("gpt2", gpt2)):
        export(source, folder / name, precision=["fp32"])
    return folder


def product(path, op_type="MatMul"):
    """A graph of one node over a constant weight."""
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 64]) for name in ("x", "y")]
    node = helper.make_node(op_type, ["x", "w"], ["y"])
    graph = helper.make_graph([node], "product", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return weight


def test_a_bundle(bundles, tmp_path):
    source = bundles / "classifier"
    assert main(["quantize", str(source), "--precision", "int8,fp16", "-o", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out/wherry.json").read_text())
    assert list(manifest["variants"]) == ["int8", "fp16"]
    assert sorted(path.name for path in (tmp_path / "out/onnx").glob("*.onnx")) == [
        "model_fp16.onnx",
        "model_int8.onnx",
    ]
    expected = pipeline(model=source)(TEXTS)
    for precision in ("int8", "fp16"):
        found = pipeline(model=tmp_path / "out", precision=precision)(TEXTS)
        assert [each["label"] for each in found] == [each["label"] for each in expected]
        np.testing.assert_allclose([e["score"] for e in found], [e["score"] for e in expected], atol=0.02)


def test_a_decoder_whose_padding_nobody_told(bundles, tmp_path):
    """Its rows run one by one, as they do before."""
    source = tmp_path / "source"
    shutil.copytree(bundles / "gpt2", source)
    (source / "wherry.json").unlink()
    assert main(["quantize", str(source), "--precision", "int8", "-o", str(tmp_path / "out")]) == 0
    manifest = json.loads((tmp_path / "out/wherry.json").read_text())
    assert list(manifest["variants"]) == ["int8"]
    assert manifest["padding_side"] is None
    pipe = pipeline(model=tmp_path / "out")
    together = pipe(TEXTS, max_new_tokens=5, do_sample=False)
    assert together == [pipe(text, max_new_tokens=5, do_sample=False) for text in TEXTS]


def test_a_file_and_nothing_that_lies_beside_it(tmp_path):
    folder = tmp_path / "downloads"
    folder.mkdir()
    weight = product(folder / "model.onnx")
    (folder / "diary.txt").write_text("dear diary")
    (folder / "accounts.json").write_text("{}")
    assert main(["quantize", str(folder / "model.onnx"), "--precision", "int8", "-o", str(tmp_path / "out")]) == 0
    assert not {"diary.txt", "accounts.json"} & {path.name for path in (tmp_path / "out").rglob("*")}
    rows = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    found = InferenceSession(tmp_path / "out/onnx/model_int8.onnx").run(None, {"x": rows})[0]
    assert np.linalg.norm(found - rows @ weight) < 0.03 * np.linalg.norm(rows @ weight)


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_graphs_of_any_opset(opset, tmp_path):
    """Nodes without names, attention as onnxruntime's optimizer packs it."""
    random = np.random.default_rng(0)
    arrays = {
        name: (random.normal(size=shape) / 8).astype(np.float32)
        for name, shape in (("qkv", (64, 192)), ("b", (192,)), ("w1", (64, 96)), ("w2", (96, 64)))
    }
    nodes = [
        helper.make_node("Attention", ["x", "qkv", "b"], ["a"], domain="com.microsoft", num_heads=4),
        helper.make_node("MatMul", ["a", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "s", 64]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "layer", ports[:1], ports[1:], weights)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), tmp_path / "model.onnx")
    command = ["quantize", str(tmp_path / "model.onnx"), "--precision", "int8,uint8,int4,fp16"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    states = random.normal(size=(2, 7, 64)).astype(np.float32)
    expected = InferenceSession(tmp_path / "model.onnx").run(None, {"x": states})[0]
    for suffix, most, operator in (
        ("int8", 0.03, "MatMulIntegerToFloat"),
        ("uint8", 0.03, "MatMulIntegerToFloat"),
        ("q4", 0.2, "MatMulNBits"),
        ("fp16", 0.003, "MatMul"),
    ):
        path = tmp_path / f"out/onnx/model_{suffix}.onnx"
        found = InferenceSession(path).run(None, {"x": states})[0]
        assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)
        operators = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
        assert operators.count(operator) == (2 if suffix == "fp16" else 3)


def test_what_cannot_be_quantized_is_one_line(bundles, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    product(tmp_path / "unknown.onnx", "Nope")
    (tmp_path / "cut.onnx").write_bytes((bundles / "classifier/onnx/model.onnx").read_bytes()[:500])
    for source, message in (
        ("none.onnx", "no such file: "),
        ("unknown.onnx", f"{tmp_path / 'unknown.onnx'} cannot be quantized: "),
        ("cut.onnx", f"{tmp_path / 'cut.onnx'} cannot be read: "),
    ):
        capsys.readouterr()
        assert main(["quantize", str(tmp_path / source), "-o", str(tmp_path / "out/bundle")]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"wherry: {message}")
        assert error.count("\n") == 1
        assert not list((tmp_path / "out").iterdir())
