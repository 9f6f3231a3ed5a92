"""Graphs of tiny random models compute what torch computes, at batch sizes, lengths and padding other than traced."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from onnxruntime import InferenceSession
from transformers import AutoConfig

from wherry_exporter.convert import convert
from wherry_exporter.fuse import fuse
from wherry_exporter.load import Checkpoint
from wherry_exporter.trace import ways

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}

ENCODERS = {
    "BertModel": {},
    "RobertaForSequenceClassification": {"num_labels": 3},
    "DistilBertForTokenClassification": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "num_labels": 5},
    "ElectraForSequenceClassification": {"embedding_size": 32},
    "XLMRobertaModel": {},
}

DECODERS = {
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "LlamaForCausalLM": {"num_key_value_heads": 1, "num_attention_heads": 2},
    "MistralForCausalLM": {"num_key_value_heads": 2, "sliding_window": 5},
}


def checkpoint(name: str, extra: dict[str, Any], task: str) -> Checkpoint:
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    config = AutoConfig.for_model(model_class.config_class.model_type, **SMALL | extra)
    model = model_class(config).eval()
    for parameter in model.parameters():  # random biases and norms too, so that none can go missing unseen
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.2)
    return Checkpoint(model, task, {}, name, None, None)


def fused(checkpoint: Checkpoint) -> ir.Model:
    """The graph of the first way, whose attention is fused."""
    return fuse(ways(checkpoint)["fused"](checkpoint).graphs["model"])


def session(checkpoint: Checkpoint, folder: Path) -> InferenceSession:
    ir.save(fused(checkpoint), folder / "model.onnx")
    return InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def task_of(name: str) -> str:
    if name.endswith("ForSequenceClassification"):
        return "text-classification"
    return "token-classification" if name.endswith("ForTokenClassification") else "feature-extraction"


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name, tmp_path):
    model = checkpoint(name, ENCODERS[name], task_of(name))
    graph = session(model, tmp_path)
    random = np.random.default_rng(1)
    for batch, length in ((1, 1), (1, 9), (3, 20), (5, 4)):
        ids = random.integers(5, 120, (batch, length))
        mask = (np.arange(length) < random.integers(1, length + 1, (batch, 1))).astype(np.int64)
        mask[0] = 1
        feed = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in {port.name for port in graph.get_inputs()}:
            feed["token_type_ids"] = random.integers(0, 2, (batch, length))
        with torch.no_grad():
            output = model.model(**{key: torch.from_numpy(value) for key, value in feed.items()})
        expected = output[graph.get_outputs()[0].name].numpy()
        found = graph.run(None, feed)[0]
        assert found.shape == expected.shape
        real = mask.astype(bool) if expected.ndim == 3 else slice(None)
        np.testing.assert_allclose(found[real], expected[real], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder(name, tmp_path):
    """Prefill of rows of unlike length, then decode steps, against one run of torch over each whole row."""
    model = checkpoint(name, DECODERS[name], "text-generation")
    graph = session(model, tmp_path)
    random = np.random.default_rng(1)
    past_names = [port.name for port in graph.get_inputs() if port.name.startswith("past_key_values.")]
    shape = graph.get_inputs()[2].shape
    for lengths, steps in (((7,), 4), ((3, 11, 6), 5), ((1, 2), 8)):
        rows = [random.integers(5, 120, length + steps) for length in lengths]
        with torch.no_grad():
            expected = [model.model(torch.from_numpy(row[None])).logits[0].numpy() for row in rows]
        starts = np.array(lengths)
        width = int(starts.max())
        ids = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, : starts[index]] = row[: starts[index]]
        past = {name: np.zeros((len(rows), shape[1], 0, shape[3]), np.float32) for name in past_names}
        for step in range(steps + 1):
            total = width + step
            mask = (np.arange(total) < (starts + step)[:, None]).astype(np.int64)
            logits, *present = graph.run(None, {"input_ids": ids, "attention_mask": mask, **past})
            for index in range(len(rows)):
                if step == 0:
                    found, wanted = logits[index, : starts[index]], expected[index][: starts[index]]
                else:
                    found, wanted = logits[index], expected[index][starts[index] + step - 1, None]
                np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=1e-3)
            past = dict(zip(past_names, present, strict=True))
            if step < steps:
                ids = np.array([[row[start + step]] for row, start in zip(rows, starts, strict=True)])


def test_names_and_axes(tmp_path):
    model = checkpoint("LlamaForCausalLM", DECODERS["LlamaForCausalLM"], "text-generation")
    graph = session(model, tmp_path)
    cache = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    assert {port.name: port.shape for port in graph.get_inputs()} == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", "total_sequence_length"],
        **{f"past_key_values.{name}": ["batch_size", 1, "past_sequence_length", 16] for name in cache},
    }
    assert [port.name for port in graph.get_outputs()] == ["logits", *(f"present.{name}" for name in cache)]


def test_attention_norms_and_rotation_are_fused(tmp_path):
    llama = fused(checkpoint("LlamaForCausalLM", DECODERS["LlamaForCausalLM"], "text-generation"))
    kinds = [node.op_type for node in llama.graph]
    assert kinds.count("GroupQueryAttention") == 2
    assert kinds.count("SkipSimplifiedLayerNormalization") == 4
    assert not {"Softmax", "Cos", "Sin", "Pow"} & set(kinds)
    bert = fused(checkpoint("BertModel", {}, "feature-extraction"))
    kinds = [node.op_type for node in bert.graph]
    assert (kinds.count("Attention"), kinds.count("SkipLayerNormalization"), kinds.count("BiasGelu")) == (2, 4, 2)
    assert "Softmax" not in kinds


def test_what_is_translated_is_traced_once(monkeypatch):
    monkeypatch.delattr(torch.export.ExportedProgram, "run_decompositions")
    fused(checkpoint("BertModel", {}, "feature-extraction"))


def test_a_model_is_as_before_after_its_trace():
    model = checkpoint("LlamaForCausalLM", DECODERS["LlamaForCausalLM"], "text-generation")
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        before = model.model(ids).logits
        fused(model)
        assert torch.equal(model.model(ids).logits, before)


class RowsCounted(torch.nn.Module):
    def forward(self, states):
        return states + torch.ones(len(states), 1)


class PutWhereNegative(torch.nn.Module):
    def forward(self, states):
        output = torch.zeros_like(states)
        output[states < 0] = states[states < 0]
        return output


@pytest.mark.parametrize("module", [RowsCounted(), PutWhereNegative()])
def test_what_torch_or_its_translation_would_fix(module, tmp_path):
    """The length of a tensor stays an axis, and a mask may be true nowhere."""
    free = {"states": {0: torch.export.Dim("batch_size")}}
    graph = convert(module, {"states": torch.randn(2, 3)}, free, ["states"], ["output"])
    ir.save(graph, tmp_path / "model.onnx")
    run = InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).run
    for states in (torch.randn(5, 3), torch.ones(4, 3)):
        np.testing.assert_array_equal(run(None, {"states": states.numpy()})[0], module(states).numpy())


def test_a_sum_that_others_use_before_its_norm():
    """Nodes stay in an order in which each comes behind what it uses, as ONNX wants it."""

    class Sums(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(8)

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            both = one + other
            turned = both.permute(1, 0, 2) * 2
            return self.norm(both), turned

    inputs = {name: torch.rand(2, 3, 8) for name in ("one", "other")}
    model = fuse(convert(Sums(), inputs, dict.fromkeys(inputs), list(inputs), ["normed", "turned"]))
    assert [node.op_type for node in model.graph].count("SkipLayerNormalization") == 1
    made = {id(value) for value in model.graph.inputs}
    for node in model.graph:
        assert all(value is None or value.const_value is not None or id(value) in made for value in node.inputs)
        made |= {id(value) for value in node.outputs}
