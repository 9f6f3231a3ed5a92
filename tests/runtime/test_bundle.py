"""What a model folder holds, with a manifest and without, and how each kind of damage is named."""

import json

import pytest

from wherry.bundle import Bundle
from wherry.errors import BundleError, DamagedBundleError


def refused(folder, error=BundleError):
    with pytest.raises(error) as caught:
        Bundle.load(folder)
    text = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in text
    return text


def written(folder, *names, config='{"model_type": "bert", "architectures": ["BertModel"]}'):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"bytes")
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder


def test_the_manifest_tells_task_variants_and_sizes(bundle):
    minilm = bundle("minilm")
    assert minilm.task == "sentence-embeddings"
    assert minilm.config["model_type"] == "bert"
    assert list(minilm.variants) == ["fp32", "int8"]
    assert minilm.variant() is minilm.variants["fp32"]
    for precision, name in (("fp32", "model"), ("int8", "model_int8")):
        variant = minilm.variant(precision)
        assert variant.graphs == {"model": f"onnx/{name}.onnx"}
        on_disk = [path for path in (minilm.folder / "onnx").iterdir() if path.name.startswith(f"{name}.onnx")]
        assert {minilm.folder / file for file in variant.files} == set(on_disk)
        assert variant.bytes == sum(path.stat().st_size for path in on_disk)


def test_rampart_is_for_token_classification(bundle):
    assert bundle("rampart").task == "token-classification"


def test_every_file_but_the_manifest_is_checked(bundle):
    minilm = bundle("minilm")
    files = [path for path in minilm.folder.rglob("*") if path.is_file() and path.name != "wherry.json"]
    assert minilm.check() == len(files)
    other = [path for path in files if path.name.startswith("model_int8")]
    assert minilm.check(minilm.variant("fp32")) == len(files) - len(other)


def test_a_folder_of_transformers_js(tmp_path):
    written(tmp_path, "onnx/model_quantized.onnx")
    found = Bundle.load(tmp_path)
    assert list(found.variants) == ["quantized"]
    assert found.variant().graphs == {"model": "onnx/model_quantized.onnx"}
    assert found.variant("q8") is found.variant("quantized")
    assert found.task == "feature-extraction"
    assert found.variant().bytes is None
    assert found.check() == 0


def test_a_graph_at_the_root(tmp_path):
    written(tmp_path, "model.onnx", "model.onnx_data")
    found = Bundle.load(tmp_path)
    assert found.variant("fp32").graphs == {"model": "model.onnx"}
    assert set(found.variant("fp32").files) == {"model.onnx", "model.onnx_data"}


def test_external_data_goes_with_its_graph(tmp_path):
    written(
        tmp_path,
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model.onnx_data_1",
        "onnx/model_fp16.onnx",
        "onnx/model_fp16.onnx.data",
    )
    found = Bundle.load(tmp_path)
    assert set(found.variant("fp32").files) == {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"}
    assert set(found.variant("fp16").files) == {"onnx/model_fp16.onnx", "onnx/model_fp16.onnx.data"}


def test_names_of_precisions(tmp_path):
    written(tmp_path, *(f"onnx/model{suffix}.onnx" for suffix in ("", "_fp16", "_quantized", "_int8", "_q4", "_q4f16")))
    found = Bundle.load(tmp_path)
    for name, file in (
        ("fp32", "model"),
        ("float32", "model"),
        ("fp16", "model_fp16"),
        ("float16", "model_fp16"),
        ("q8", "model_quantized"),
        ("quantized", "model_quantized"),
        ("int8", "model_int8"),
        ("q4", "model_q4"),
        ("int4", "model_q4"),
        ("q4f16", "model_q4f16"),
    ):
        assert found.variant(name).graphs == {"model": f"onnx/{file}.onnx"}
    assert found.variant() is found.variant("fp32")


PAIR = ["encoder_model", "decoder_model", "decoder_with_past_model"]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (PAIR, {"encoder_model", "decoder_model", "decoder_with_past_model"}),
        ([*PAIR, "decoder_model_merged"], {"encoder_model", "decoder_model_merged"}),
        (["vision_encoder", "embed_tokens", "decoder_model_merged"], None),
        (["model", "text_model", "vision_model"], None),
    ],
)
def test_graphs_by_role(tmp_path, names, roles):
    written(tmp_path, *(f"onnx/{name}{suffix}.onnx" for name in names for suffix in ("", "_q4")))
    found = Bundle.load(tmp_path)
    assert list(found.variants) == ["fp32", "int4"]
    for precision, suffix in (("fp32", ""), ("int4", "_q4")):
        expected = {role: f"onnx/{role}{suffix}.onnx" for role in roles or names}
        assert found.variant(precision).graphs == expected
        assert set(found.variant(precision).files) == set(expected.values())


def test_a_graph_that_a_precision_lacks_is_taken_from_another(tmp_path):
    written(tmp_path, "onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx", "onnx/decoder_model_merged_q4.onnx")
    graphs = Bundle.load(tmp_path).variant("q4").graphs
    assert graphs == {
        "encoder_model": "onnx/encoder_model.onnx",
        "decoder_model_merged": "onnx/decoder_model_merged_q4.onnx",
    }


GENAI = {
    "model": {
        "type": "llama",
        "vocab_size": 100,
        "context_length": 64,
        "eos_token_id": [1, 2],
        "decoder": {"filename": "model.onnx"},
    },
    "search": {"do_sample": True, "top_k": 50, "max_length": 64},
}


def test_a_folder_of_onnxruntime_genai(tmp_path):
    written(tmp_path, "model.onnx", "model.onnx.data", config=None)
    (tmp_path / "genai_config.json").write_text(json.dumps(GENAI))
    found = Bundle.load(tmp_path)
    assert found.task == "text-generation"
    assert found.variant().precision == "default"
    assert set(found.variant().files) == {"model.onnx", "model.onnx.data"}
    assert found.config["max_position_embeddings"] == 64
    assert found.config["eos_token_id"] == [1, 2]
    assert found.config["top_k"] == 50


@pytest.mark.parametrize("name", ["../model.onnx", "/model.onnx"])
def test_a_graph_outside_of_a_folder_of_onnxruntime_genai(tmp_path, name):
    written(tmp_path, "model.onnx", config=None)
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {"decoder": {"filename": name}}}))
    assert f"names a graph outside of its folder: {name}" in refused(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"model": 5}', '{"model": {"decoder": []}}', '{"search": null}'])
def test_a_folder_of_onnxruntime_genai_that_tells_little(tmp_path, content):
    written(tmp_path, "model.onnx", config=None)
    (tmp_path / "genai_config.json").write_text(content)
    assert Bundle.load(tmp_path).variant().graphs == {"model": "model.onnx"}


@pytest.mark.parametrize("precision", ["int2", "", "FP32", "q4"])
def test_an_unknown_precision_is_refused_with_those_there_are(bundle, precision):
    with pytest.raises(BundleError, match=f"has no precision '{precision}': it has fp32, int8"):
        bundle("minilm").variant(precision)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("BertForTokenClassification", "token-classification"),
        ("LlamaForCausalLM", "text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
        ("BertModel", "feature-extraction"),
        ("BertForQuestionAnswering", "question-answering"),
        ("BertForMaskedLM", "fill-mask"),
        ("ViTForImageClassification", "image-classification"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("WhisperForConditionalGeneration", None),
    ],
)
def test_the_task_of_a_folder_without_manifest_is_that_of_its_architecture(tmp_path, architecture, task):
    written(tmp_path, "onnx/model.onnx", config=json.dumps({"architectures": [architecture]}))
    assert Bundle.load(tmp_path).task == task


@pytest.mark.parametrize(
    ("architecture", "more", "graph", "task"),
    [
        ("WhisperForConditionalGeneration", {"num_mel_bins": 80}, "encoder_model", "automatic-speech-recognition"),
        ("MarianMTModel", {}, "encoder_model", "text2text-generation"),
        ("VisionEncoderDecoderModel", {"encoder": {"image_size": 32}}, "encoder_model", "image-to-text"),
        ("LlavaForConditionalGeneration", {"vision_config": {}}, "vision_encoder", "image-text-to-text"),
        ("CLIPModel", {"vision_config": {}, "text_config": {}}, "model", "zero-shot-image-classification"),
        ("OwlViTForObjectDetection", {"vision_config": {}, "text_config": {}}, "model", "zero-shot-object-detection"),
        ("Pix2StructForConditionalGeneration", {"vision_config": {}}, "encoder_model", "image-to-text"),
        ("ClapModel", {"audio_config": {}, "text_config": {}}, "model", "zero-shot-audio-classification"),
        ("ViTModel", {"image_size": 224}, "model", "image-feature-extraction"),
        ("ViltForQuestionAnswering", {"image_size": 384}, "model", "visual-question-answering"),
        ("Wav2Vec2Model", {"conv_dim": [1]}, "model", "audio-feature-extraction"),
        ("Wav2Vec2ForSequenceClassification", {"conv_dim": [1]}, "model", "audio-classification"),
    ],
)
def test_the_task_is_that_of_what_the_graphs_take(tmp_path, architecture, more, graph, task):
    written(tmp_path, f"onnx/{graph}.onnx", config=json.dumps({"architectures": [architecture], **more}))
    assert Bundle.load(tmp_path).task == task


@pytest.mark.parametrize("architectures", [None, [], "BertModel", 5, [5], [None], {"a": 1}])
def test_architectures_that_tell_nothing_are_no_task(tmp_path, architectures):
    written(tmp_path, "onnx/model.onnx", config=json.dumps({"architectures": architectures}))
    assert Bundle.load(tmp_path).task is None


def test_a_folder_of_sentence_transformers(tmp_path):
    written(tmp_path, "onnx/model.onnx", "modules.json")
    assert Bundle.load(tmp_path).task == "sentence-embeddings"


def test_no_such_folder(tmp_path):
    assert refused(tmp_path / "none") == f"no such folder: {tmp_path / 'none'}"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    assert refused(tmp_path / "model.onnx") == f"{tmp_path / 'model.onnx'} is a file, not a model folder"


def test_a_folder_without_a_graph(tmp_path):
    written(tmp_path)
    assert refused(tmp_path) == f"{tmp_path} holds no ONNX graph (onnx/model*.onnx)"


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors", "model-q4.gguf"])
def test_a_checkpoint_is_told_how_to_become_a_bundle(tmp_path, weights):
    written(tmp_path, weights)
    assert f"`wherry export {tmp_path} -o NEW_FOLDER`" in refused(tmp_path)


@pytest.mark.parametrize("config", [None, "{", "[]", '{"a": ' * 10**5, ""])
def test_a_broken_configuration_without_manifest(tmp_path, config):
    written(tmp_path, "onnx/model.onnx", config=config)
    assert str(tmp_path / "config.json") in refused(tmp_path)


def test_a_missing_configuration_beside_a_manifest(linked):
    folder = linked("minilm")
    (folder / "config.json").unlink()
    assert refused(folder) == f"cannot read {folder / 'config.json'}: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]"])
def test_a_broken_configuration_beside_a_manifest(linked, replace, content):
    folder = linked("minilm")
    replace(folder / "config.json", content)
    assert str(folder / "config.json") in refused(folder)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '"text"', "{'schema': 1}", '{"schema": 1,}', "[" * 10**5, '{"schema": ' + "1" * 5000 + "}"],
    ids=["empty", "open", "list", "null", "text", "quotes", "comma", "deep", "long-number"],
)
def test_a_manifest_that_is_not_json(linked, replace, content):
    folder = linked("minilm")
    replace(folder / "wherry.json", content.encode())
    assert str(folder / "wherry.json") in refused(folder)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_a_manifest_of_another_schema(linked, edit, schema):
    folder = linked("minilm")
    edit(folder, lambda data: data.update(schema=schema))
    assert refused(folder).endswith(f"has schema {schema!r}, this version of wherry reads 1: upgrade wherry")


@pytest.fixture
def edit(replace):
    def change_manifest(folder, change):
        data = json.loads((folder / "wherry.json").read_text())
        change(data)
        replace(folder / "wherry.json", json.dumps(data).encode())

    return change_manifest


RECORD = {"sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize("name", ["../secret", "onnx/../../secret", "/etc/passwd", "onnx/.."])
@pytest.mark.parametrize("where", ["graph", "variant's file", "shared file"])
def test_a_manifest_does_not_lead_out_of_the_bundle(linked, edit, name, where):
    folder = linked("minilm")

    def change(data):
        variant = data["variants"]["fp32"]
        if where == "graph":
            variant["graphs"]["model"] = name
            variant["files"] = {name: RECORD}
        else:
            (data if where == "shared file" else variant)["files"][name] = RECORD

    edit(folder, change)
    text = refused(folder)
    assert str(folder / "wherry.json") in text
    assert f"the file name {name!r} leads out of the bundle" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("task"),
        lambda data: data.pop("files"),
        lambda data: data.update(variants={}),
        lambda data: data.update(variants=["fp32"]),
        lambda data: data.update(provenance="here"),
        lambda data: data.update(files=["config.json"]),
        lambda data: data["files"].update({"config.json": {"bytes": 1}}),
        lambda data: data["files"].update({"config.json": {"sha256": "0", "bytes": "many"}}),
        lambda data: data["files"].update({"config.json": {"sha256": "0", "bytes": 1e999}}),
        lambda data: data["variants"].update(fp32=None),
        lambda data: data["variants"]["fp32"].update(graphs={}),
        lambda data: data["variants"]["fp32"].update(graphs={"model": 1}),
        lambda data: data["variants"]["fp32"].update(graphs={"model": "onnx/model_int8.onnx"}),
        lambda data: data["variants"]["fp32"].update(files={}),
        lambda data: data["variants"]["fp32"].update(opset="new"),
        lambda data: data["variants"]["fp32"].update(parity="good"),
        lambda data: data["variants"]["fp32"].update(parity={"cosine": "good"}),
        lambda data: data["variants"]["fp32"].update(speed="fast"),
    ],
)
def test_a_manifest_with_a_field_missing_or_of_another_type(linked, edit, change):
    folder = linked("minilm")
    edit(folder, change)
    assert refused(folder).startswith(str(folder / "wherry.json"))


def damaged(folder, precision="fp32"):
    found = Bundle.load(folder)
    with pytest.raises(DamagedBundleError) as caught:
        found.check(found.variant(precision))
    with pytest.raises(DamagedBundleError):
        found.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


FILES = ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json", "1_Pooling/config.json", "README.md"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(linked, name):
    folder = linked("minilm")
    (folder / name).unlink()
    assert damaged(folder).startswith(f"{folder / name} is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(linked, replace, name):
    folder = linked("minilm")
    content = (folder / name).read_bytes()
    replace(folder / name, content[:-1])
    assert damaged(folder).startswith(
        f"{folder / name} is damaged: {len(content) - 1} bytes where the manifest says {len(content)}"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_bit_flipped_is_named(linked, replace, name):
    folder = linked("minilm")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    replace(folder / name, bytes(content))
    assert damaged(folder).startswith(f"{folder / name} is damaged: its sha256 is not the manifest's")


def test_damage_to_one_variant_leaves_the_other(linked):
    folder = linked("minilm")
    (folder / "onnx" / "model_int8.onnx").unlink()
    found = Bundle.load(folder)
    assert found.check(found.variant("fp32")) > 0
    with pytest.raises(DamagedBundleError, match=r"model_int8\.onnx is missing"):
        found.check()
