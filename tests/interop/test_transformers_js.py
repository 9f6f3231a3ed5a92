"""transformers.js under Node runs our bundles unchanged and gives what transformers gives. Run by `make interop`."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    WhisperFeatureExtractor,
)

from wherry import pipeline
from wherry_exporter import export
from wherry_exporter.samples import sample

pytestmark = pytest.mark.interop
HERE = Path(__file__).parent
TEXTS = ["A light boat.", "A small ship is sailing up the river to the harbour."]
PERSONAL = "My name is Maria Oliveira and I live in Bristol; write to maria@example.org."
PROMPT = "The river Thames"
NOISE = (np.random.default_rng(0).normal(size=48_000) * 0.05).astype(np.float32)  # Whisper hears words in it
SPEECH = {"language": "en", "task": "transcribe"}


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny random T5 with a real tokenizer."""
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=49152,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=2,
        eos_token_id=49151,
    )
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.3)
    tokenizer = AutoTokenizer.from_pretrained(sample("smollm2"))
    folder = tmp_path_factory.mktemp("t5") / "bundle"
    export(model, folder, tokenizer=tokenizer, precision=["fp32"])
    ids = tokenizer(TEXTS[1], return_tensors="pt")
    tokens = model.generate(**ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, num_beams=1)
    return folder, tokenizer.decode(tokens[0], skip_special_tokens=True)


@pytest.fixture(scope="module")
def found(bundle, t5, tmp_path_factory):
    """What transformers.js makes of every job."""
    folder = tmp_path_factory.mktemp("transformers-js")
    for name in ("package.json", "run.mjs"):
        shutil.copy(HERE / name, folder)
    (folder / "models").mkdir()
    for name, source in {
        **{name: bundle(name).folder for name in ("minilm", "rampart", "smollm2-gguf", "efficientnet", "whisper")},
        "t5": t5[0],
    }.items():
        (folder / "models" / name).symlink_to(source)
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]  # scripts would fetch CUDA
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pooled = {"pooling": "mean", "normalize": True}
    greedy = {"max_new_tokens": 20, "do_sample": False}
    image = {"pixels": pixels().reshape(-1).tolist(), "width": 224, "height": 224}
    jobs = [
        ("embeddings", "feature-extraction", "minilm", "fp32", TEXTS, pooled),
        ("embeddings int8", "feature-extraction", "minilm", "int8", TEXTS, pooled),
        ("entities", "token-classification", "rampart", "fp32", PERSONAL, {}),
        ("text", "text-generation", "smollm2-gguf", "fp32", PROMPT, greedy),
        ("text int4", "text-generation", "smollm2-gguf", "q4", PROMPT, greedy),
        ("seq2seq", "text2text-generation", "t5", "fp32", TEXTS[1], {"max_new_tokens": 12, "min_new_tokens": 12}),
        ("image", "image-classification", "efficientnet", "fp32", image, {"top_k": 3}),
        ("speech", "automatic-speech-recognition", "whisper", "fp32", NOISE.tolist(), {**SPEECH, "max_new_tokens": 20}),
    ]
    keys = ("name", "task", "model", "dtype", "inputs", "options")
    content = {"folder": f"{folder}/models/", "list": [dict(zip(keys, job, strict=True)) for job in jobs]}
    (folder / "jobs.json").write_text(json.dumps(content))
    done = subprocess.run(["node", "run.mjs", "jobs.json", "results.json"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


def pixels():
    return (np.arange(224 * 224 * 3) * 7 % 251).astype(np.uint8).reshape(224, 224, 3)


def test_embeddings(found, bundle):
    for name, precision, tolerance in (("embeddings", "fp32", 1e-5), ("embeddings int8", "int8", 1e-2)):
        expected = pipeline("sentence-embeddings", bundle("minilm").folder, precision=precision)(TEXTS)
        np.testing.assert_allclose(found[name], expected, atol=tolerance)


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


def test_an_encoder_with_a_decoder(found, t5):
    assert found["seq2seq"][0]["generated_text"] == t5[1]


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
