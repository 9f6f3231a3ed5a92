"""Weights that graphs of one variant have in common are stored once, and every reader finds them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import transformers
from onnxruntime import InferenceSession

import tiny_images
from wherry.bundle import Bundle
from wherry_exporter import export, storage
from wherry_exporter.quantize import quantize

ROLES = ("model", "text_model", "vision_model")


def product(weight, name):
    """A graph of one product."""
    source, constant = (
        ir.val("x", ir.DataType.FLOAT, ["rows", len(weight)]),
        ir.val(name, const_value=ir.tensor(weight)),
    )
    constant.const_value.name = name
    node = ir.node("MatMul", [source, constant])
    node.outputs[0].name, node.outputs[0].dtype = "y", ir.DataType.FLOAT
    node.outputs[0].shape = ir.Shape(["rows", weight.shape[1]])
    graph = ir.Graph([source], node.outputs, nodes=[node], initializers=[constant], opset_imports={"": 20}, name=name)
    return ir.Model(graph, ir_version=10)


def locations(path):
    """The files that a graph's weights are in."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


@pytest.mark.parametrize(("columns", "shared"), [(999, False), (1000, True)])
def test_what_is_shared_is_written_once_where_it_pays(tmp_path, columns, shared):
    random = np.random.default_rng(0)
    weights = [random.normal(size=(1000, columns)).astype(np.float32) for _ in range(2)]
    paths = [tmp_path / f"{name}.onnx" for name in ("first", "again", "other")]
    graphs = [product(weights[0], "w"), product(weights[0].copy(), "v"), product(weights[1], "w")]
    storage.save(graphs, paths)
    assert locations(paths[1]) == {"first.onnx_data" if shared else "again.onnx_data"}
    assert (tmp_path / "again.onnx_data").exists() != shared
    assert locations(paths[2]) == {"other.onnx_data"}
    rows = random.normal(size=(3, 1000)).astype(np.float32)
    for path, weight in zip(paths, (weights[0], weights[0], weights[1]), strict=True):
        found = InferenceSession(path).run(None, {"x": rows})[0]
        np.testing.assert_allclose(found, rows @ weight, rtol=1e-3, atol=1e-3)
    assert isinstance(graphs[1].graph.initializers["v"].const_value, ir.Tensor)  # the graphs are as they were


@pytest.mark.parametrize("laid", [lambda array: array.T, lambda array: array[::-1], lambda array: array[:, ::2]])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64])
def test_weights_in_another_order_in_memory_are_written_in_theirs(tmp_path, laid, kind):
    weight = laid((100 * np.random.default_rng(0).normal(size=(40, 30))).astype(kind))
    assert not weight.flags.c_contiguous
    storage.save([product(weight, "w")], [tmp_path / "one.onnx"])
    (tensor,) = onnx.load(tmp_path / "one.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), weight)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP and its bundle, small as it is with shared weights."""
    folder = tmp_path_factory.mktemp("clip")
    tiny_images.make("clip", folder / "model")  # for its tokenizer and its processor
    torch.manual_seed(0)
    config = transformers.CLIPConfig.from_pretrained(folder / "model")
    config.text_config.vocab_size = 120
    model = transformers.CLIPModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    model.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(storage, "WORTH", 1000)
        export(folder / "model", folder / "bundle", precision=["fp32", "int8"])
    return folder


def test_towers_read_the_weights_of_the_whole_model(clip):
    bundle = Bundle.load(clip / "bundle")
    bundle.check()
    for suffix in ("", "_int8"):
        assert sorted(path.name for path in (bundle.folder / "onnx").glob(f"*model{suffix}.onnx_data")) == [
            f"model{suffix}.onnx_data"
        ]
    model = transformers.CLIPModel.from_pretrained(clip / "model").eval()
    ids = torch.arange(5, 25).reshape(2, 10)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=images)
    given = {"input_ids": ids.numpy(), "attention_mask": np.ones((2, 10), np.int64), "pixel_values": images.numpy()}
    found = {}
    for role in ROLES:
        session = InferenceSession(bundle.folder / bundle.variants["fp32"].graphs[role])
        names = [port.name for port in session.get_outputs()]
        feed = {port.name: given[port.name] for port in session.get_inputs()}
        found |= {(role, name): value for name, value in zip(names, session.run(names, feed), strict=True)}
    np.testing.assert_allclose(found["model", "logits_per_text"], expected.logits_per_text, atol=1e-4)
    for role, name in (("text_model", "text_embeds"), ("vision_model", "image_embeds")):
        array = found[role, name]
        np.testing.assert_allclose(array / np.linalg.norm(array, axis=-1, keepdims=True), expected[name], atol=1e-4)


def test_such_a_bundle_is_quantized(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WORTH", 1000)
    made = quantize(clip / "bundle", tmp_path / "out", precision=["fp16"])
    assert set(made.variants["fp16"].graphs) == set(ROLES)
    for role in ROLES:
        assert locations(made.folder / made.variants["fp16"].graphs[role]) == {"model_fp16.onnx_data"}
