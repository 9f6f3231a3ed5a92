"""transformers.js under Node runs our bundles unchanged and gives what transformers gives. Run by `make interop`."""

import json
import shutil
from pathlib import Path

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
    for name in ("package.json", "run.mjs", "towers.mjs", "music.mjs", "hearing.mjs"):
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


def test_sounds_among_words(folder):
    model = hearing("Voxtral", vocab_size=49152)
    tokenizer = AutoTokenizer.from_pretrained(sample("smollm2"))
    export(model, folder / "models" / "voxtral", tokenizer=tokenizer, precision=["fp32"])
    (sound,) = sound_inputs(model, rows=1, seed=5)
    ids = [7, *[AUDIO] * len(features_heard(model, sound)), 9, 10]
    tokens = torch.tensor([ids])
    options = {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    expected = model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), **sound, **options)
    features = sound["input_features"]
    inputs = {"ids": ids, "features": features.flatten().tolist(), "dims": list(features.shape), "tokens": 16}
    (folder / "inputs.json").write_text(json.dumps(inputs))
    call("node", "hearing.mjs", f"{folder}/models/", "voxtral", "inputs.json", "tokens.json", cwd=folder)
    assert json.loads((folder / "tokens.json").read_text()) == expected[0].tolist()
