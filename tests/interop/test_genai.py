"""onnxruntime-genai opens our decoder bundles as they are and gives the tokens of torch and of our own loop."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from wherry import pipeline
from wherry_exporter import export
from wherry_exporter.samples import sample

pytestmark = pytest.mark.interop
HERE = Path(__file__).parent
PROMPT = "The river Thames"
LONGER = "Water flows down from the mountains to"
INT4 = {"model": {"decoder": {"filename": "onnx/model_q4.onnx"}}}
TOKENS = {"vocab_size": 49152, "bos_token_id": 0, "eos_token_id": 0}
TINY = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=64, n_layer=2, n_head=4, **TOKENS)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=64, n_layer=2, n_head=4, **TOKENS)),
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(sample("smollm2"))


@pytest.fixture(scope="module")
def tiny():
    """A model that writes into its cache, and one that appends to it."""
    torch.manual_seed(0)
    models = {name: make().eval() for name, make in TINY.items()}
    for model in models.values():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.15)
    return models


@pytest.fixture(scope="module")
def found(bundle, tiny, tokenizer, environment, tmp_path_factory):
    """What genai makes of every job."""
    folder = tmp_path_factory.mktemp("genai")
    for name, model in tiny.items():
        export(model, folder / name, tokenizer=tokenizer, precision=["fp32"])
    smollm2 = str(bundle("smollm2-gguf").folder)
    exactly = {"max_length": 32, "min_length": 32}
    jobs = [
        ("fp32", smollm2, {}, [PROMPT], {"max_length": 32}),
        ("int4", smollm2, INT4, [PROMPT], {"max_length": 32}),
        ("batch", smollm2, {}, [PROMPT, LONGER], {"max_length": 32}),
        *((name, str(folder / name), {}, [PROMPT], exactly) for name in tiny),
    ]
    keys = ("name", "folder", "overlay", "prompts", "options")
    (folder / "jobs.json").write_text(json.dumps([dict(zip(keys, job, strict=True)) for job in jobs]))
    command = [environment("genai"), HERE / "run_genai.py", folder / "jobs.json", folder / "results.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


def generated(model, tokenizer, prompt, new_tokens):
    ids = tokenizer(prompt, return_tensors="pt")
    bounds = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    return model.generate(**ids, **bounds, do_sample=False)[0].tolist()


def test_a_real_model_continues_as_in_torch(found, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(sample("smollm2"))
    assert found["fp32"][0]["tokens"] == generated(model, tokenizer, PROMPT, 29)
    shorter, longer = (row["tokens"] for row in found["batch"])
    assert longer == generated(model, tokenizer, LONGER, 25)
    assert shorter[:3] + shorter[7:] == generated(model, tokenizer, PROMPT, 25)  # padded on the right, to 7 tokens


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_real_model_continues_as_in_our_loop(found, bundle, precision):
    ours = pipeline(model=bundle("smollm2-gguf").folder, precision=precision)
    assert found[precision][0]["text"] == ours(PROMPT, max_new_tokens=29, do_sample=False)[0]["generated_text"]


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_continue_as_in_torch(found, tiny, tokenizer, name):
    assert found[name][0]["tokens"] == generated(tiny[name], tokenizer, PROMPT, 29)
