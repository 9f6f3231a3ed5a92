"""optimum-onnx's ORTModel classes load our bundles as they are and compute what transformers computes."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer

from interop.models import generated, tiny
from wherry import pipeline
from wherry_exporter.samples import sample

pytestmark = pytest.mark.interop
TEXTS = ["A light boat.", "A small ship is sailing up the river to the harbour."]
PERSONAL = ["My name is Maria Oliveira and I live in Bristol; write to maria@example.org."]
PROMPT = "The river Thames"
CLASSES = {
    "minilm": transformers.AutoModel,
    "rampart": transformers.AutoModelForTokenClassification,
    "efficientnet": transformers.AutoModelForImageClassification,
    "smollm2": transformers.AutoModelForCausalLM,
    "whisper": transformers.AutoModelForSpeechSeq2Seq,
}
GREEDY = {"max_new_tokens": 24, "do_sample": False, "num_beams": 1}
EXACTLY = {**GREEDY, "min_new_tokens": 24}
SPEECH = {**GREEDY, "language": "en", "task": "transcribe"}
ARRAYS = {
    "efficientnet": {"pixel_values": np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)},
    "whisper": {"input_features": (np.random.default_rng(0).normal(size=(1, 80, 3000)) * 0.3).astype(np.float32)},
}


@pytest.fixture(scope="module")
def found(bundle, tiny_bundle, run_in, tmp_path_factory):
    """What optimum-onnx makes of every job."""
    folder = tmp_path_factory.mktemp("arrays")
    for name, arrays in ARRAYS.items():
        np.savez(folder / f"{name}.npz", **arrays)
    minilm, rampart, smollm2, whisper, efficientnet = (
        bundle(name).folder for name in ("minilm", "rampart", "smollm2-gguf", "whisper", "efficientnet")
    )
    int8, int4 = ({"subfolder": "onnx", "file_name": f"model_{suffix}.onnx"} for suffix in ("int8", "q4"))
    jobs = [
        ("minilm", "ORTModelForFeatureExtraction", minilm, {}, TEXTS, None, {}),
        ("minilm int8", "ORTModelForFeatureExtraction", minilm, int8, TEXTS, None, {}),
        ("rampart", "ORTModelForTokenClassification", rampart, {}, PERSONAL, None, {}),
        ("efficientnet", "ORTModelForImageClassification", efficientnet, {}, None, folder / "efficientnet.npz", {}),
        ("smollm2", "ORTModelForCausalLM", smollm2, {}, [PROMPT], None, GREEDY),
        ("smollm2 int4", "ORTModelForCausalLM", smollm2, int4, [PROMPT], None, GREEDY),
        ("gpt2", "ORTModelForCausalLM", tiny_bundle("gpt2"), {}, [PROMPT], None, EXACTLY),
        ("t5", "ORTModelForSeq2SeqLM", tiny_bundle("t5"), {}, TEXTS[1:], None, EXACTLY),
        ("whisper", "ORTModelForSpeechSeq2Seq", whisper, {}, None, folder / "whisper.npz", SPEECH),
    ]
    keys = ("name", "class", "folder", "options", "texts", "arrays", "generate")
    return run_in("optimum", [dict(zip(keys, job, strict=True)) for job in jobs])


def original(name):
    return CLASSES[name].from_pretrained(sample(name), dtype=torch.float32).eval()


def computed(name, texts):
    inputs = AutoTokenizer.from_pretrained(sample(name))(texts, padding=True, return_tensors="pt") if texts else {}
    inputs |= {key: torch.from_numpy(value) for key, value in ARRAYS.get(name, {}).items()}
    with torch.no_grad():
        return original(name)(**inputs)


@pytest.mark.parametrize(
    ("name", "output", "texts"),
    [
        ("minilm", "last_hidden_state", TEXTS),
        ("rampart", "logits", PERSONAL),
        ("efficientnet", "logits", None),
    ],
)
def test_a_model_that_runs_in_one_go(found, name, output, texts):
    np.testing.assert_allclose(found[name][output], computed(name, texts)[output], atol=1e-3)


def test_a_quantized_model(found):
    expected = computed("minilm", TEXTS)["last_hidden_state"].numpy()
    given = np.array(found["minilm int8"]["last_hidden_state"])
    cosines = (expected * given).sum(-1) / np.linalg.norm(expected, axis=-1) / np.linalg.norm(given, axis=-1)
    assert cosines[0, :5].min() > 0.95
    assert cosines[1].min() > 0.95


def test_a_decoder(found, bundle, tokenizer):
    assert found["smollm2"]["tokens"][0] == generated(original("smollm2"), tokenizer, PROMPT, 24)
    ours = pipeline(model=bundle("smollm2-gguf").folder, precision="int4")
    theirs = tokenizer.decode(found["smollm2 int4"]["tokens"][0], skip_special_tokens=True)
    assert theirs == ours(PROMPT, max_new_tokens=24, do_sample=False)[0]["generated_text"]


@pytest.mark.parametrize(("name", "text"), [("gpt2", PROMPT), ("t5", TEXTS[1])])
def test_a_tiny_model_that_generates(found, tokenizer, name, text):
    assert found[name]["tokens"][0] == generated(tiny(name), tokenizer, text, 24)


def test_speech(found):
    features = torch.from_numpy(ARRAYS["whisper"]["input_features"])
    tokens = original("whisper").generate(features, **SPEECH)[0].tolist()
    assert found["whisper"]["tokens"][0][-len(tokens) :] == tokens
