"""A graph of its own reads prompts: the same tokens however a prompt is cut, joined or remembered."""

import json
import os
import shutil

import numpy as np
import pytest
from filelock import FileLock

import wherry.generation.engine
import wherry.generation.shared
from wherry import pipeline
from wherry.bundle import Bundle
from wherry.cli import main
from wherry.generation import Engine, GenerationConfig, PrefixCache
from wherry.generation.engine import generate, search
from wherry.session import Session
from wherry_exporter import export
from wherry_exporter.errors import UsageError
from wherry_exporter.probe import PROSE
from wherry_exporter.quantize import quantize


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    """Real SmolLM2 in 8 bits, once for all processes."""
    base = tmp_path_factory.getbasetemp()
    target = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2-with-prefill"
    with FileLock(f"{target}.lock"):
        if not target.exists():
            quantize(bundle("smollm2-gguf").folder, target, precision=["int8"], fast_prefill=True)
    return target


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("text-generation", folder, device="cpu")


@pytest.fixture(scope="module")
def prompts(pipe):
    ids = pipe.tokenizer.encode(PROSE).input_ids[0].tolist()
    return [ids[:70], ids[20:23], ids[100:170], ids[40:41]]


def greedy(count):
    return GenerationConfig(max_new_tokens=count)


def by_hand(folder, prompt, count):
    """Keys and values of all but the last token from one graph, everything else from the other."""
    prefill, decoder = (Session(folder / f"onnx/{name}_int8.onnx", device="cpu").raw for name in ("prefill", "model"))
    ports = [port for port in decoder.get_inputs() if port.name.startswith("past_")]
    past = {port.name: np.zeros((1, port.shape[1], 0, port.shape[3]), np.float32) for port in ports}
    ids = np.array([prompt])
    if len(prompt) > 1:
        head = {"input_ids": ids[:, :-1], "attention_mask": np.ones_like(ids[:, :-1])}
        past = dict(zip(past, prefill.run(None, head | past), strict=True))
    tokens = [prompt[-1]]
    for step in range(count):
        mask = np.ones((1, len(prompt) + step), np.int64)
        logits, *present = decoder.run(None, {"input_ids": np.array([tokens[-1:]]), "attention_mask": mask, **past})
        past = dict(zip(past, present, strict=True))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[1:]


def test_a_prompt_is_read_by_the_one_and_gone_on_with_by_the_other(folder, pipe, prompts):
    assert {port.name for port in pipe.decoder.prefill.raw.get_outputs()} == set(pipe.decoder.present)
    for prompt in prompts:
        assert generate(pipe.decoder, [prompt], greedy(6)) == [by_hand(folder, prompt, 6)]


def test_the_other_graph_counts(bundle, pipe, prompts):
    """That the tests above see which graph reads a prompt: keys and values are not the same, but nearly so."""
    plain = pipeline("text-generation", bundle("smollm2-gguf").folder, precision="int8", device="cpu").decoder
    found = []
    for decoder in (plain, pipe.decoder):
        batch = decoder.batch(1, 80)
        batch.add(np.array([prompts[0]]))
        found.append(np.concatenate([each.ravel() for each in batch.read(0, 69)]).astype(np.float64))
    one, other = found
    assert not np.array_equal(one, other)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


def test_however_prompts_are_cut_joined_or_remembered(pipe, prompts, monkeypatch):
    expected = [generate(pipe.decoder, [prompt], greedy(8))[0] for prompt in prompts]
    assert generate(pipe.decoder, prompts, greedy(8)) == expected
    monkeypatch.setattr(wherry.generation.engine, "CHUNK", 9)
    assert generate(pipe.decoder, prompts, greedy(8)) == expected
    monkeypatch.undo()
    prefixes = PrefixCache(2**26)
    further = [*prompts[0], *expected[0], *prompts[1]]
    alone = generate(pipe.decoder, [further], greedy(8))[0]
    for prompt, tokens in ((prompts[0], expected[0]), (prompts[0], expected[0]), (further, alone), (further, alone)):
        engine = Engine(pipe.decoder, prefixes=prefixes)
        request = engine.submit(prompt, greedy(8))
        assert [event.token for event in engine.run()] == tokens
        assert request.choosers[0].length == len(prompt) + 8
    assert [len(ids) for ids, _ in prefixes.entries.values()] == [len(further) - 1]


def test_guesses_change_nothing(pipe, prompts):
    told = GenerationConfig(max_new_tokens=24, prompt_lookup_num_tokens=4)
    repeated = prompts[0][:30] * 2
    assert generate(pipe.decoder, [repeated], told) == generate(pipe.decoder, [repeated], greedy(24))


def test_beams_of_prompts_that_are_read_together_or_in_parts(pipe, prompts, monkeypatch):
    config, both = GenerationConfig(max_new_tokens=6, num_beams=2), [prompts[0], prompts[2]]
    alone = [search(pipe.decoder, [prompt], config)[0][0].tokens for prompt in both]
    assert [found[0].tokens for found in search(pipe.decoder, both, config)] == alone
    monkeypatch.setattr(wherry.generation.shared, "PART", 16)
    assert [search(pipe.decoder, [prompt], config)[0][0].tokens for prompt in both] == alone
    text = pipe("The capital of France is", num_beams=2, max_new_tokens=4, return_full_text=False)
    assert "Paris" in text[0]["generated_text"]


def test_what_is_written(folder):
    manifest = json.loads((folder / "wherry.json").read_text())
    (entry,) = manifest["variants"].values()
    assert entry["graphs"] == {"model": "onnx/model_int8.onnx", "prefill": "onnx/prefill_int8.onnx"}
    assert entry["recipe"].endswith("; prompts in 8-bit integers")
    assert entry["parity"]["perplexity"] < 1.05 * entry["parity"]["perplexity_torch"]
    assert set(entry["files"]) == {f"onnx/{path.name}" for path in (folder / "onnx").iterdir()}


def test_both_precisions_share_it(gpt2, tmp_path):
    built = export(gpt2, tmp_path / "out", precision=["int4", "int8", "fp32"], fast_prefill=True)
    assert {name: sorted(variant.graphs) for name, variant in built.variants.items()} == {
        "int4": ["model", "prefill"],
        "int8": ["model", "prefill"],
        "fp32": ["model"],
    }
    assert built.variants["int4"].graphs["prefill"] == built.variants["int8"].graphs["prefill"]
    assert main(["verify", str(built.folder), "--against", str(gpt2)]) == 0
    for precision in ("int4", "int8"):
        pipe = pipeline("text-generation", built.folder, precision=precision, device="cpu")
        assert pipe.decoder.prefill is not None
        assert pipe("A boat", max_new_tokens=4)
    (built.folder / "onnx/prefill_int8.onnx").unlink()
    assert pipeline("text-generation", built.folder, precision="fp32", device="cpu")("A boat", max_new_tokens=4)


def test_auto_keeps_it_where_it_is_of_use_alone(gpt2, tmp_path):
    built = export(gpt2, tmp_path / "out", precision=["auto"], fast_prefill=True)
    (variant,) = built.variants.values()
    assert (built.folder / "onnx/prefill_int8.onnx").exists() == (variant.precision != "fp32")
    assert "prefill" in variant.graphs or variant.precision == "fp32"


def test_without_a_manifest_it_is_not_taken_for_a_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/wherry.json").unlink()
    assert Bundle.load(tmp_path / "copy").variants["int8"].graphs == {"model": "onnx/model_int8.onnx"}


def test_refusals(classifier, gpt2, tmp_path, capsys):
    with pytest.raises(UsageError, match="a fast prefill is for decoders that stand alone, not for text-class"):
        export(classifier, tmp_path / "out", fast_prefill=True)
    with pytest.raises(UsageError, match="add one of them to the precisions"):
        export(gpt2, tmp_path / "out", precision=["fp16"], fast_prefill=True)
    export(classifier, tmp_path / "classifier", precision=["fp32"])
    command = ["quantize", str(tmp_path / "classifier"), "--fast-prefill", "-o", str(tmp_path / "out")]
    assert main(command) == 2
    assert capsys.readouterr().err == "wherry: a fast prefill is for decoders that stand alone\n"
    assert not (tmp_path / "out").exists()
