"""transformers.js under Node runs our bundles unchanged and gives what transformers gives. Run by `make interop`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    WhisperFeatureExtractor,
)

from interop.models import PREFIX, generated, tiny
from interop.process import call
from tiny_hearing import AUDIO, hearing
from tiny_images import make
from tiny_sounds import make as make_sound
from wherry import pipeline
from wherry_exporter import export, storage
from wherry_exporter.images import features_of, image_inputs
from wherry_exporter.load import Checkpoint
from wherry_exporter.samples import sample
from wherry_exporter.sounds import features_heard, sound_inputs

pytestmark = pytest.mark.interop
HERE = Path(__file__).parent
TEXTS = ["A light boat.", "A small ship is sailing up the river to the harbour."]
PERSONAL = "My name is Maria Oliveira and I live in Bristol; write to maria@example.org."
PROMPT = "The river Thames"
NOISE = (np.random.default_rng(0).normal(size=48_000) * 0.05).astype(np.float32)  # Whisper hears words in it
SPEECH = {"language": "en", "task": "transcribe"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where transformers.js is installed, beside our scripts."""
    folder = tmp_path_factory.mktemp("transformers-js")
    for name in ("package.json", "run.mjs", "towers.mjs", "music.mjs", "prompts.mjs"):
        shutil.copy(HERE / name, folder)
    (folder / "models").mkdir()
    call("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)  # scripts would fetch CUDA
    return folder


@pytest.fixture(scope="module")
def found(folder, bundle, tiny_bundle, classifier):
    """What transformers.js makes of every job."""
    export(classifier, folder / "models" / "classifier", precision=["fp32"])
    for name in ("minilm", "rampart", "smollm2-gguf", "efficientnet", "whisper"):
        (folder / "models" / name).symlink_to(bundle(name).folder)
    for name in ("t5", "marian"):
        (folder / "models" / name).symlink_to(tiny_bundle(name))
    pooled = {"pooling": "mean", "normalize": True}
    greedy = {"max_new_tokens": 20, "do_sample": False}
    exactly = {"max_new_tokens": 12, "min_new_tokens": 12}
    image = {"pixels": pixels().reshape(-1).tolist(), "width": 224, "height": 224}
    jobs = [
        ("embeddings", "feature-extraction", "minilm", "fp32", TEXTS, pooled),
        ("embeddings int8", "feature-extraction", "minilm", "int8", TEXTS, pooled),
        ("entities", "token-classification", "rampart", "fp32", PERSONAL, {}),
        ("text", "text-generation", "smollm2-gguf", "fp32", PROMPT, greedy),
        ("text int4", "text-generation", "smollm2-gguf", "q4", PROMPT, greedy),
        ("seq2seq", "text2text-generation", "t5", "fp32", TEXTS[1], exactly),
        ("translation t5", "translation", "t5", "fp32", TEXTS[1], exactly),
        ("translation marian", "translation", "marian", "fp32", TEXTS[1], exactly),
        ("classes", "text-classification", "classifier", "fp32", TEXTS[1], {"top_k": 3}),
        ("image", "image-classification", "efficientnet", "fp32", image, {"top_k": 3}),
        ("speech", "automatic-speech-recognition", "whisper", "fp32", NOISE.tolist(), {**SPEECH, "max_new_tokens": 20}),
    ]
    keys = ("name", "task", "model", "dtype", "inputs", "options")
    content = {"folder": f"{folder}/models/", "list": [dict(zip(keys, job, strict=True)) for job in jobs]}
    (folder / "jobs.json").write_text(json.dumps(content))
    call("node", "run.mjs", "jobs.json", "results.json", cwd=folder)
    return json.loads((folder / "results.json").read_text())


def pixels():
    return (np.arange(224 * 224 * 3) * 7 % 251).astype(np.uint8).reshape(224, 224, 3)


def test_embeddings(found, bundle):
    for name, precision, tolerance in (("embeddings", "fp32", 1e-5), ("embeddings int8", "int8", 1e-2)):
        expected = pipeline("sentence-embeddings", bundle("minilm").folder, precision=precision)(TEXTS)
        np.testing.assert_allclose(found[name], expected, atol=tolerance)


def test_a_graph_that_reads_the_weights_of_another(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "WORTH", 1000)
    export(make("clip", tmp_path), folder / "models" / "clip", precision=["fp32"])
    assert not (folder / "models/clip/onnx/text_model.onnx_data").exists()
    call("node", "towers.mjs", f"{folder}/models/", "clip", TEXTS[0], "towers.json", cwd=folder)
    inputs = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = transformers.CLIPModel.from_pretrained(tmp_path).get_text_features(**inputs).pooler_output
    for embeddings in json.loads((folder / "towers.json").read_text()).values():
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_entities(found):
    theirs = transformers.pipeline("token-classification", model=str(sample("rampart")))(PERSONAL)
    assert [(each["entity"], each["index"]) for each in found["entities"]] == [
        (each["entity"], each["index"]) for each in theirs
    ]
    np.testing.assert_allclose(
        [each["score"] for each in found["entities"]], [each["score"] for each in theirs], atol=1e-4
    )


def test_generated_text(found, bundle):
    for name, precision in (("text", "fp32"), ("text int4", "int4")):
        ours = pipeline(model=bundle("smollm2-gguf").folder, precision=precision)
        assert found[name] == ours(PROMPT, max_new_tokens=20, do_sample=False)
    theirs = transformers.pipeline("text-generation", model=str(sample("smollm2")))
    assert found["text"] == theirs(PROMPT, max_new_tokens=20, do_sample=False)


def test_classes(found, classifier):
    theirs = transformers.pipeline("text-classification", model=str(classifier), top_k=3)([TEXTS[1]])[0]
    assert [each["label"] for each in found["classes"]] == [each["label"] for each in theirs]
    np.testing.assert_allclose(
        [each["score"] for each in found["classes"]], [each["score"] for each in theirs], atol=1e-4
    )


@pytest.mark.parametrize(
    ("job", "key", "name", "text"),
    [
        ("seq2seq", "generated_text", "t5", TEXTS[1]),
        ("translation t5", "translation_text", "t5", PREFIX + TEXTS[1]),
        ("translation marian", "translation_text", "marian", TEXTS[1]),
    ],
)
def test_an_encoder_with_a_decoder(found, tokenizer, job, key, name, text):
    tokens = generated(tiny(name), tokenizer, text, 12)
    assert len(set(tokens)) > 2
    assert found[job][0][key] == tokenizer.decode(tokens, skip_special_tokens=True)


def test_an_image(found):
    model = transformers.AutoModelForImageClassification.from_pretrained(sample("efficientnet"))
    normal = (pixels().astype(np.float32) - 127) / 128
    with torch.no_grad():
        scores = model(torch.from_numpy(normal.transpose(2, 0, 1)[None])).logits.softmax(-1)[0]
    best = scores.topk(3)
    assert [each["label"] for each in found["image"]] == [model.config.id2label[at] for at in best.indices.tolist()]
    np.testing.assert_allclose([each["score"] for each in found["image"]], best.values.numpy(), atol=1e-4)


def test_speech(found):
    model = AutoModelForSpeechSeq2Seq.from_pretrained(sample("whisper"), dtype=torch.float32)
    heard = WhisperFeatureExtractor.from_pretrained(sample("whisper"))(NOISE, sampling_rate=16_000, return_tensors="pt")
    tokens = model.generate(heard.input_features, **SPEECH, max_new_tokens=20, do_sample=False, num_beams=1)
    text = AutoTokenizer.from_pretrained(sample("whisper")).decode(tokens[0], skip_special_tokens=True)
    assert len(text.split()) > 5
    assert found["speech"]["text"] == text


@pytest.mark.parametrize("guidance", [1, 3])
def test_music(folder, tmp_path, guidance):
    """transformers.js lets codebooks that have ended go on, which the last frames hear."""
    models = folder / "models"
    if not (models / "musicgen").exists():
        export(make_sound("musicgen", tmp_path), models / "musicgen", precision=["fp32"])
    call("node", "music.mjs", f"{models}/", "musicgen", "a calm piano", "40", str(guidance), "music.json", cwd=folder)
    theirs = json.loads((folder / "music.json").read_text())
    options = {"max_new_tokens": 40, "do_sample": False, "guidance_scale": guidance}
    ours = pipeline("text-to-audio", models / "musicgen")("a calm piano", **options)["audio"]
    assert theirs["dims"] == [1, 1, ours.size]
    ended = 16 * 8
    np.testing.assert_allclose(theirs["data"][:-ended], ours[:-ended], atol=1e-5)


def written_after(folder: Path, model: Any, ids: list[int], given: dict[str, Any], **names: str) -> None:
    """Export a model, and compare the tokens that it writes behind a prompt with those of `generate`.

    Args:
        given: images and sounds, as the model takes them.
        names: of those that transformers.js calls otherwise.
    """
    kind = type(model).__name__
    words = AutoTokenizer.from_pretrained(sample("smollm2"))
    export(model, folder / "models" / kind, tokenizer=words, precision=["fp32"])
    tokens = torch.tensor([ids])
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)} | given
    expected = model.generate(**given, max_new_tokens=16, min_new_tokens=16, do_sample=False)[0].tolist()
    assert len(set(expected[len(ids) :])) > 4
    told = {
        names.get(name, name): {
            "type": str(value.dtype).removeprefix("torch."),
            "data": value.flatten().tolist(),
            "dims": list(value.shape),
        }
        for name, value in given.items()
    }
    (folder / "inputs.json").write_text(json.dumps({"tensors": told, "tokens": 16}))
    call("node", "prompts.mjs", f"{folder}/models/", kind, kind, "inputs.json", "tokens.json", cwd=folder)
    assert json.loads((folder / "tokens.json").read_text()) == expected


def test_sounds_among_words(folder):
    model = hearing("Voxtral", vocab_size=49152)
    (sound,) = sound_inputs(model, rows=1, seed=5)
    ids = [7, *[AUDIO] * len(features_heard(model, sound)), 9, 10]
    written_after(folder, model, ids, sound, input_features="audio_values")


def test_images_and_sounds_among_words(folder):
    """Gemma 4, whose tokens add to each layer and whose last layers have the keys and values of others."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    text = {
        **{**heads, "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4},
        **{"vocab_size_per_layer_input": 49152, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 2},
        **{"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 96, "global_head_dim": 32},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256},
    }
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config={**heads, **small, "pooling_kernel_size": 2, "patch_size": 4, "position_embedding_size": 64},
        audio_config={**heads, **small, "output_proj_dims": 32, "subsampling_conv_channels": [8, 4]},
        image_token_id=119,
        audio_token_id=117,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = transformers.Gemma4ForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        mean = float(name.endswith("weight")) if parameter.ndim == 1 else 0.0
        spread = 0.1 if parameter.ndim == 1 else 1.0 if "embed_tokens" in name else 0.3
        torch.nn.init.normal_(parameter, mean, spread)
    Checkpoint(model, "image-text-to-text", {}, "", None, None)  # which lets it be asked for features
    (image,), (sound,) = image_inputs(model, rows=1, seed=5), sound_inputs(model, rows=1, seed=5)
    seen, heard = len(features_of(model, image)), len(features_heard(model, sound))
    written_after(folder, model, [7, *[119] * seen, 9, *[117] * heard, 10], image | sound)
