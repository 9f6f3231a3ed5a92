"""What can be exported is loaded, what cannot is refused in one line that says why."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2LMHeadModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    VitsConfig,
    VitsModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
)

from tiny_images import make
from wherry.errors import BundleError, HubError, WherryError
from wherry_exporter import ExportError, export
from wherry_exporter.build import trace_verified
from wherry_exporter.load import load
from wherry_exporter.samples import sample


def test_the_samples():
    minilm = load(sample("minilm"))
    assert (minilm.task, minilm.source, type(minilm.model).__name__) == ("sentence-embeddings", "minilm", "BertModel")
    assert minilm.model.dtype == torch.float32
    assert not minilm.model.training
    assert {"tokenizer.json", "modules.json", "1_Pooling/config.json"} <= set(minilm.files)
    assert load(sample("rampart")).task == "token-classification"


def test_a_tokenizer_is_saved_in_words_that_transformers_4_knows(gpt2):
    tokenizer = AutoTokenizer.from_pretrained(gpt2, extra_special_tokens=["<wave>"])
    files = load(GPT2LMHeadModel.from_pretrained(gpt2), tokenizer=tokenizer).files
    config = json.loads(files["tokenizer_config.json"])
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<wave>"]
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"extra_special_tokens", "backend", "is_local", "local_files_only"} & set(config)


def test_what_speaks_keeps_a_vocabulary_that_has_no_fast_form(tmp_path):
    config = VitsConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        ffn_dim=8,
        flow_size=8,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        duration_predictor_filter_channels=8,
    )
    VitsModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate("_ abc")}))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "VitsTokenizer", "pad_token": "_"}')
    with pytest.warns(UserWarning, match="VitsTokenizer has no fast form: .*; its vocabulary is copied as it is"):
        checkpoint = load(tmp_path)
    assert set(checkpoint.files) == {"vocab.json", "tokenizer_config.json"}


def test_a_vocoder(tmp_path):
    config = SpeechT5HifiGanConfig(model_in_dim=8, upsample_initial_channel=32)
    SpeechT5HifiGan(config).save_pretrained(tmp_path)
    checkpoint = load(tmp_path)
    assert (checkpoint.task, type(checkpoint.model).__name__) == ("text-to-audio", "SpeechT5HifiGan")


@pytest.mark.parametrize("kind", ["T5ForConditionalGeneration", "MarianMTModel", "BartForConditionalGeneration"])
def test_features_of_a_model_whose_decoder_gives_none_unasked_are_its_encoders(kind, tmp_path, letters):
    layers = ("num_layers", "num_heads", "encoder_layers", "decoder_layers")
    heads = ("encoder_attention_heads", "decoder_attention_heads")
    settings = {"vocab_size": 120, "d_model": 16, **dict.fromkeys(layers, 1), **dict.fromkeys(heads, 2)}
    own = getattr(transformers, kind)
    model = own(own.config_class(**settings, d_ff=16, d_kv=8, pad_token_id=1, decoder_start_token_id=2))
    model.save_pretrained(tmp_path)
    for path in letters.iterdir():
        (tmp_path / path.name).symlink_to(path)
    found, encoder = load(tmp_path, task="feature-extraction").model, model.get_encoder()
    if kind.startswith("Bart"):  # it makes itself what its decoder is told
        assert type(found).__name__ == "BartModel"
        return
    assert type(found) is type(encoder)
    for name, weights in encoder.state_dict().items():
        assert torch.equal(weights, found.state_dict()[name])


def test_a_classifier_that_names_no_padding_has_the_tokenizers(tmp_path, letters):
    sizes = {"vocab_size": 120, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path)
    for path in letters.iterdir():
        shutil.copy(path, tmp_path)
    assert load(tmp_path).model.config.pad_token_id is None
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    assert load(tmp_path).model.config.pad_token_id == 6
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "a", "pad_token": "b"}')
    assert load(tmp_path).model.config.pad_token_id == 7


def test_a_gguf_file(monkeypatch):
    path, read = sample("smollm2-gguf"), gguf.GGUFReader.__init__
    times = []
    monkeypatch.setattr(gguf.GGUFReader, "__init__", lambda *given, **more: (times.append(1), read(*given, **more))[1])
    checkpoint = load(path)
    assert (checkpoint.task, type(checkpoint.model).__name__) == ("text-generation", "LlamaForCausalLM")
    assert "tokenizer.json" in checkpoint.files
    assert len(checkpoint.revision) == 64
    assert times == [1]
    folder = load(sample("smollm2"))
    for name, tensor in folder.model.state_dict().items():
        assert torch.equal(tensor, checkpoint.model.state_dict()[name]), name


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    merged = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(merged))


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text('{"model_type": "bert",')


def no_model_type(folder):
    edit_config(folder, model_type=None)


def unknown_model_type(folder):
    edit_config(folder, model_type="gondola")


def wrong_type(folder):
    edit_config(folder, vocab_size="many")


def heads_that_do_not_fit(folder):
    edit_config(folder, num_attention_heads=7)


def library_that_is_not_there(folder):
    config = {"model_type": "detr", "architectures": ["DetrForObjectDetection"], "use_timm_backbone": True}
    (folder / "config.json").write_text(json.dumps({**config, "backbone": "resnet18"}))


def remote_code(folder):
    edit_config(folder, model_type="skiff", auto_map={"AutoModel": "evil.Model"})


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def missing_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def wrong_shape(folder):
    edit_config(folder, intermediate_size=48)


def not_a_number(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def missing_shard(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def outside_shard(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def no_tokenizer(folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_config, "is not a Hugging Face model: it has no config.json"),
        (broken_config, r"config.json is not valid JSON: .* at line 1"),
        (no_model_type, "config.json has no model_type"),
        (unknown_model_type, r"transformers cannot read .*config.json: .*gondola"),
        (wrong_type, r"transformers cannot read .*config.json: .*'vocab_size'.* expected int, got str"),
        (heads_that_do_not_fit, r"transformers cannot load .*: The hidden size .* not a multiple"),
        pytest.param(
            library_that_is_not_there,
            r"requires the timm library .*: `pip install timm`\.$",
            marks=pytest.mark.skipif(find_spec("timm") is not None, reason="timm is there"),
        ),
        (remote_code, r"asks to run code of its repository \(auto_map\), and transformers has no skiff of its own"),
        (no_weights, r"holds no weights \(\*.safetensors\)"),
        (pickled, r"holds pickled weights \(pytorch_model.bin\), which can run code"),
        (cut_short, "model.safetensors is damaged"),
        (missing_tensor, "lacks weights that BertForSequenceClassification needs: classifier.weight"),
        (wrong_shape, r"lacks weights that .* needs: .*\(wrong shape\)"),
        (not_a_number, "weights that are not finite numbers: classifier.weight"),
        (missing_shard, "lacks 1 of 2 weight files: model-00001-of-00002.safetensors"),
        (outside_shard, "names a file outside its folder"),
        (no_tokenizer, r"has no tokenizer \(tokenizer.json\)"),
    ],
)
def test_damage_is_named(classifier_copy, damage, message):
    folder = classifier_copy()
    damage(folder)
    with pytest.raises((ExportError, BundleError), match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_finite_weights_whose_sum_is_not_are_accepted(classifier_copy):
    folder = classifier_copy()
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"][:] = 3e38
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert float(load(folder).model.classifier.weight.detach().max()) == pytest.approx(3e38)


def test_what_is_no_model(tmp_path):
    (tmp_path / "notes.gguf").write_bytes(b"not a model at all")
    (tmp_path / "cut.gguf").write_bytes(sample("smollm2-gguf").read_bytes()[:200_000])
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("notes.gguf", "is not a GGUF file"),
        ("cut.gguf", "cannot be read as GGUF"),
        ("notes.txt", "is not a model: give a Hugging Face folder or a .gguf file"),
        ("empty", "is not a Hugging Face model: it has no config.json"),
        ("absent", "no such file or folder"),
    ):
        with pytest.raises(WherryError, match=message) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_folder_of_gguf_files_gives_a_hint(tmp_path):
    shutil.copy(sample("smollm2-gguf"), tmp_path / "model.gguf")
    with pytest.raises(ExportError, match=r"has no config.json: give the file, .*model.gguf"):
        load(tmp_path)


def test_a_repository_without_a_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="no folder 'someone/some-model' here, and the hub cannot be reached") as caught:
        load("someone/some-model")
    assert "\n" not in str(caught.value)
    with pytest.raises(HubError, match="neither a file or folder here nor a hub repository id"):
        load("not a repository")


def test_a_model_that_follows_things_through_videos_looks_at_an_image(tmp_path):
    """SAM 2's checkpoints are of that class; the one for images is a part of it."""
    config = json.loads((make("sam2", tmp_path) / "config.json").read_text())
    config |= {"model_type": "sam2_video", "architectures": ["Sam2VideoModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path)
    assert (type(loaded.model).__name__, loaded.task) == ("Sam2Model", "mask-generation")


@pytest.fixture
def sam_3(tmp_path):
    """What follows things in SAM 3, and a folder with its weights under other names, those that see in what detects."""
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "pretrain_image_size": 32,
        "patch_size": 4,
        "window_size": 4,
        "global_attn_indexes": [1],
    }
    settings = {
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": backbone,
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]],
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 4},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    }
    model = Sam3TrackerModel(Sam3TrackerConfig(**settings)).eval()
    weights = {}
    for name, tensor in model.state_dict().items():
        place = f"tracker_model.{name}"
        if name.startswith("vision_encoder.backbone."):
            place = f"detector_model.{name}"
        elif name.startswith("vision_encoder.neck."):
            place = name.replace("vision_encoder.neck", "tracker_neck")
        weights[place] = tensor.clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    tracker = {"model_type": "sam3_tracker_video", **settings}
    config = {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"], "tracker_config": tracker}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return model, tmp_path


def test_what_follows_things_in_sam_3_is_found_in_its_checkpoint(sam_3):
    model, folder = sam_3
    loaded = load(folder)
    assert (type(loaded.model).__name__, loaded.task) == ("Sam3TrackerModel", "mask-generation")
    found = loaded.model.state_dict()
    assert {name for name, tensor in model.state_dict().items() if torch.equal(tensor, found[name])} == set(found)


@pytest.mark.sweep
def test_what_follows_things_in_sam_3_crosses(sam_3):
    _, folder = sam_3
    (folder / "onnx").mkdir()
    proven = trace_verified(load(folder), folder)
    assert list(proven.traced.graphs) == ["vision_encoder", "prompt_encoder_mask_decoder"]
    assert proven.parity.max_rel_diff < 1e-3


def test_what_writes_without_a_tokenizer_is_told(tmp_path):
    config = Wav2Vec2Config(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="has no tokenizer: what the bundle writes stays tokens"):
        load(tmp_path)


CODE = """
from transformers import BertForSequenceClassification
from .configuration_skiff import SkiffConfig

class SkiffForSequenceClassification(BertForSequenceClassification):
    config_class = SkiffConfig

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **kwargs):
        output = super().forward(input_ids, attention_mask, token_type_ids)
        output.logits = output.logits / 2
        return output
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Where transformers keeps code that it runs."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture
def with_code(classifier_copy, monkeypatch, modules):
    """A checkpoint that brings a module, which halves BERT's logits; the type of its configuration is asked for."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))

    def make(model_type):
        folder = classifier_copy()
        parent = "from transformers import BertConfig\n\nclass SkiffConfig(BertConfig):\n"
        configuration = f"{parent}    model_type = {model_type!r}\n"
        (folder / "configuration_skiff.py").write_text(configuration)
        (folder / "modeling_skiff.py").write_text(CODE)
        places = {
            "AutoConfig": "configuration_skiff.SkiffConfig",
            "AutoModelForSequenceClassification": "modeling_skiff.SkiffForSequenceClassification",
        }
        edit_config(folder, model_type=model_type, auto_map=places)
        return folder

    return make


@pytest.mark.parametrize("model_type", ["skiff", "bert"])
def test_trusted_code_is_run(model_type, with_code, tmp_path):
    folder = with_code(model_type)
    checkpoint = load(folder, task="text-classification", trust_remote_code=True)
    assert type(checkpoint.model).__name__ == "SkiffForSequenceClassification"
    bundle = export(folder, tmp_path / "b", task="text-classification", precision=["fp32"], trust_remote_code=True)
    assert bundle.variants["fp32"].parity["max_abs_diff"] < 1e-4
    assert not list((tmp_path / "b").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "b" / "config.json").read_text())


@pytest.mark.parametrize("code", ["def (", "raise Exception('no\\nluck')", "[].nothing"])
def test_trusted_code_that_fails(code, with_code):
    folder = with_code(f"skiff{len(code)}")  # what a type's code is transformers remembers
    (folder / "modeling_skiff.py").write_text(code)
    with pytest.raises(ExportError, match=r"code that .* brings failed: \w+: ") as caught:
        load(folder, task="text-classification", trust_remote_code=True)
    assert "\n" not in str(caught.value)


def test_code_is_not_run_where_transformers_has_the_model(with_code):
    folder = with_code("bert")
    (folder / "modeling_skiff.py").write_text("raise SystemExit")
    with pytest.warns(UserWarning, match="code that .* brings is not run: transformers has bert itself"):
        checkpoint = load(folder)
    assert type(checkpoint.model).__name__ == "BertForSequenceClassification"
    assert not hasattr(checkpoint.model.config, "auto_map")
