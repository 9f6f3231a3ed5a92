"""onnxruntime-genai opens our decoder bundles as they are and gives the tokens of torch and of our own loop."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from interop.models import generated, tiny
from wherry import pipeline
from wherry_exporter.samples import sample

pytestmark = pytest.mark.interop
PROMPT = "The river Thames"
LONGER = "Water flows down from the mountains to"
INT4 = {"model": {"decoder": {"filename": "onnx/model_q4.onnx"}}}


@pytest.fixture(scope="module")
def found(bundle, tiny_bundle, run_in):
    """What genai makes of every job. GPT-2's graph writes into the buffers of its cache, BLOOM's appends to them."""
    smollm2 = bundle("smollm2-gguf").folder
    exactly = {"max_length": 32, "min_length": 32}
    jobs = [
        ("fp32", smollm2, {}, [PROMPT], {"max_length": 32}),
        ("int4", smollm2, INT4, [PROMPT], {"max_length": 32}),
        ("batch", smollm2, {}, [PROMPT, LONGER], {"max_length": 32}),
        ("gpt2", tiny_bundle("gpt2"), {}, [PROMPT], exactly),
        ("bloom", tiny_bundle("bloom"), {}, [PROMPT], exactly),
    ]
    keys = ("name", "folder", "overlay", "prompts", "options")
    return run_in("genai", [dict(zip(keys, job, strict=True)) for job in jobs])


def test_a_real_model_continues_as_in_torch(found, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(sample("smollm2"), dtype=torch.float32)
    assert found["fp32"][0]["tokens"] == generated(model, tokenizer, PROMPT, 29)
    shorter, longer = (row["tokens"] for row in found["batch"])
    assert longer == generated(model, tokenizer, LONGER, 25)
    assert shorter[:3] + shorter[7:] == generated(model, tokenizer, PROMPT, 25)  # padded on the right, to 7 tokens


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_real_model_continues_as_in_our_loop(found, bundle, precision):
    ours = pipeline(model=bundle("smollm2-gguf").folder, precision=precision)
    assert found[precision][0]["text"] == ours(PROMPT, max_new_tokens=29, do_sample=False)[0]["generated_text"]


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_a_tiny_model_continues_as_in_torch(found, tokenizer, name):
    tokens = generated(tiny(name), tokenizer, PROMPT, 29)
    assert len(set(tokens[3:])) > 3
    assert found[name][0]["tokens"] == tokens
