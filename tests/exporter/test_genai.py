"""genai_config.json: what it says of a decoder, and where there is none. `make interop` shows that genai runs it."""

import json

import onnx_ir as ir
import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from wherry_exporter.convert import Traced
from wherry_exporter.genai import write_genai_config

FILE = "onnx/model_q4.onnx"


@pytest.fixture(scope="module")
def model():
    config = GPT2Config(vocab_size=100, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config)
    model.generation_config.eos_token_id = [2, 3]
    model.generation_config.temperature = 0.6
    return model


def traced(sizes, side="right"):
    """A graph that has nothing but the caches of its layers."""
    caches = [
        ir.val(f"past_key_values.{layer}.{part}", shape=["batch_size", heads, "past_sequence_length", size])
        for layer, (heads, *both) in enumerate(sizes)
        for part, size in zip(("key", "value"), both, strict=True)
    ]
    return Traced({"model": ir.Model(ir.Graph(caches, [], nodes=[]), ir_version=10)}, side)


@pytest.mark.parametrize(("side", "shared"), [("right", True), ("left", False)])
def test_a_decoder(model, tmp_path, side, shared):
    write_genai_config(tmp_path, model, traced([(4, 8, 8), (4, 8, 8)], side), {"model": FILE})
    config = json.loads((tmp_path / "genai_config.json").read_text())
    assert config["search"] == {"max_length": 64, "past_present_share_buffer": shared, "temperature": 0.6}
    decoder = config["model"].pop("decoder")
    assert config["model"] == {
        "type": "decoder",
        "vocab_size": 100,
        "context_length": 64,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    }
    assert decoder["filename"] == FILE
    assert decoder["inputs"]["past_key_names"] % 1 == "past_key_values.1.key"
    counts = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_size", "hidden_size")
    assert [decoder[name] for name in counts] == [2, 4, 4, 8, 32]


@pytest.mark.parametrize(
    ("sizes", "graphs"),
    [
        ([(4, 8, 8), (2, 8, 8)], {"model": FILE}),
        ([(4, 12, 8), (4, 12, 8)], {"model": FILE}),
        ([], {"model": FILE}),
        ([], {"encoder_model": FILE, "decoder_model_merged": FILE}),
    ],
    ids=["layers of other heads", "values of another size", "no decoder", "an encoder with a decoder"],
)
def test_what_genai_cannot_run(model, tmp_path, sizes, graphs):
    write_genai_config(tmp_path, model, traced(sizes), graphs)
    assert not (tmp_path / "genai_config.json").exists()
