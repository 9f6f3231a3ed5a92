"""Exports in every precision, measured on rows that a user gives: the manifest's figures are those of transformers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
import transformers
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny_images
import tiny_sounds
from wherry import pipeline
from wherry.bundle import SUFFIXES, Bundle
from wherry.cli import main
from wherry.errors import DeviceError
from wherry_exporter import ParityError, UsageError, export
from wherry_exporter.metrics import words

TEXTS = [
    "The sea is calm today, and so are we.",
    "A storm is coming from the north.",
    "Waves as high as houses broke over the pier.",
    "Nothing moved on the water.",
    "The ferry rolled a little.",
    "ok",
    "Take in the sails at once!",
]
LABELS = ["calm", "rough", 2, 0, "stormy", "calm", "rough"]
GROUPS = ["de", "fr", "de", "fr", "de", None, "de"]
EVERY = list(SUFFIXES)
HERE = [name for name in EVERY if name != "bf16"]
"""What runs on a CPU."""


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def reviews(path: Path) -> Path:
    rows = [
        {"text": text, "label": label} | ({} if group is None else {"group": group})
        for text, label, group in zip(TEXTS, LABELS, GROUPS, strict=True)
    ]
    return written(path, rows)


def manifest(bundle: Bundle) -> dict[str, Any]:
    return json.loads((bundle.folder / "wherry.json").read_text(encoding="utf-8"))["variants"]


@pytest.fixture(scope="session")
def spread(classifier, tmp_path_factory) -> Path:
    """The classifier with larger weights, so that it does not give every text the same label."""
    folder = tmp_path_factory.mktemp("spread")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(classifier),
        AutoModelForSequenceClassification.from_pretrained(classifier),
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.normal_(0, 0.4)
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS])
        model.classifier.bias += 2 * logits.std() - logits.mean(0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classified(spread, tmp_path_factory) -> Bundle:
    """The classifier in every precision."""
    folder = tmp_path_factory.mktemp("classified")
    return export(spread, folder / "bundle", precision=EVERY, verify_data=reviews(folder / "data.jsonl"))


@pytest.fixture(scope="session")
def generated(gpt2, tmp_path_factory) -> Bundle:
    """The language model in every precision that it has, with settings other than the default ones."""
    folder = tmp_path_factory.mktemp("generated")
    precision = [name for name in EVERY if name != "uint8"]
    data = written(folder / "data.jsonl", [{"text": text} for text in TEXTS if text != "ok"])
    settings = {"algorithm": "gptq", "block_size": 16, "symmetric": False}
    return export(gpt2, folder / "bundle", precision=precision, verify_data=data, **settings)


@pytest.fixture(scope="session")
def answers(spread) -> np.ndarray:
    """The classes that transformers gives."""
    tokenizer, model = AutoTokenizer.from_pretrained(spread), AutoModelForSequenceClassification.from_pretrained(spread)
    with torch.no_grad():
        found = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in TEXTS]
    assert len(set(found)) > 1
    return np.array(found)


@pytest.mark.parametrize("name", ["classified", "generated"])
def test_files_are_named_as_transformers_js_looks_for_them(name, request):
    bundle = request.getfixturevalue(name)
    assert list(bundle.variants) == [each for each in EVERY if name == "classified" or each != "uint8"]
    for precision, variant in bundle.variants.items():
        path = f"onnx/model{SUFFIXES[precision]}.onnx"
        assert variant.graphs == {"model": path}
        assert set(variant.files) == {path, f"{path}_data"}
    bundle.check()


def kinds(bundle: Bundle, precision: str) -> set[str]:
    path = bundle.folder / bundle.variants[precision].graphs["model"]
    return {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}


def test_what_variants_are_made_of(classified, generated):
    for bundle in (classified, generated):
        for precision in ("int4", "int4f16"):
            assert {"MatMulNBits", "GatherBlockQuantized"} <= kinds(bundle, precision)
        assert "MatMulBnb4" in kinds(bundle, "bnb4")
        figures = manifest(bundle)
        assert figures["fp32"]["recipe"] == "as traced"
        ways = "imatrix, blocks of 32, symmetric" if bundle is classified else "gptq, blocks of 16, asymmetric"
        assert figures["int4"]["recipe"].startswith(f"weights in 4 bits, {ways}")
        assert figures["quantized"]["recipe"] == figures["int8"]["recipe"]
        sizes = {name: variant.bytes for name, variant in bundle.variants.items()}
        assert sizes["fp16"] < 0.52 * sizes["fp32"]
        assert sizes["int8"] == pytest.approx(sizes["quantized"], rel=0.01)
        assert sizes["int4"] < sizes["fp16"]
    assert "MatMulIntegerToFloat" in kinds(classified, "int8") & kinds(classified, "uint8") & kinds(
        classified, "quantized"
    )
    assert "MatMulNBits" in kinds(generated, "int8")


@pytest.mark.parametrize("precision", HERE)
def test_classifiers_of_every_precision_run(classified, answers, precision):
    pipe = pipeline(model=classified.folder, precision=precision)
    labels = [{"calm": 0, "rough": 1, "stormy": 2}[result["label"]] for result in pipe(TEXTS)]
    agreement = np.mean(np.array(labels) == answers)
    assert agreement == 1 if precision in ("fp32", "fp16") else agreement >= 5 / 7


@pytest.mark.parametrize("precision", [name for name in HERE if name != "uint8"])
def test_language_models_of_every_precision_run(generated, gpt2, precision):
    pipe = pipeline(model=generated.folder, precision=precision)
    found = pipe("The river is", max_new_tokens=6, do_sample=False)[0]["generated_text"]
    assert found.startswith("The river is")
    assert len(found) > len("The river is")
    if precision in ("fp32", "fp16"):
        tokenizer, model = AutoTokenizer.from_pretrained(gpt2), AutoModelForCausalLM.from_pretrained(gpt2)
        ids = tokenizer("The river is", return_tensors="pt")
        expected = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0]
        assert found == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["classified", "generated"])
def test_bfloat16_is_refused_where_only_a_cpu_is(name, request):
    with pytest.raises(DeviceError, match=r"device 'cpu' does not have the operators of .*model_bf16.onnx in bfloat16"):
        pipeline(model=request.getfixturevalue(name).folder, precision="bf16")


def test_figures_on_labelled_rows_are_those_of_transformers(classified, answers):
    right = answers == np.array([{"calm": 0, "rough": 1, "stormy": 2}.get(label, label) for label in LABELS])
    variants = manifest(classified)
    for precision, variant in variants.items():
        data = variant["data"]
        assert data["rows"] == 7
        assert data["figures"]["vectors"] == 7
        assert data["figures"]["accuracy_torch"] == pytest.approx(right.mean(), rel=1e-5)
        assert data["group_gap_of"] == "accuracy"
        assert {group: each["rows"] for group, each in data["groups"].items()} == {"de": 4, "fr": 2}
        losses = []
        for group, each in data["groups"].items():
            of_group = right[[other == group for other in GROUPS]]
            assert each["accuracy_torch"] == pytest.approx(of_group.mean(), rel=1e-5)
            losses.append(each["accuracy_torch"] - each["accuracy"])
        assert data["group_gap"] == pytest.approx(max(losses) - min(losses), abs=1e-5)
        if precision == "bf16":
            assert data["figures"]["accuracy"] == pytest.approx(data["figures"]["accuracy_torch"], rel=1e-5)
            continue
        pipe = pipeline(model=classified.folder, precision=precision)
        own = np.array([{"calm": 0, "rough": 1, "stormy": 2}[pipe(text)[0]["label"]] for text in TEXTS])
        if precision in ("fp32", "fp16", "int4"):  # whose activations have no scale over a batch
            expected = np.mean(
                own == np.array([{"calm": 0, "rough": 1, "stormy": 2}.get(each, each) for each in LABELS])
            )
            assert data["figures"]["accuracy"] == pytest.approx(expected, rel=1e-5)
    assert variants["fp32"]["data"]["figures"]["cosine"] > 0.99999
    assert variants["fp32"]["data"]["group_gap"] == 0


def test_perplexity_of_rows_is_that_of_transformers(generated, gpt2):
    tokenizer, model = AutoTokenizer.from_pretrained(gpt2), AutoModelForCausalLM.from_pretrained(gpt2)
    loss, count = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        if ids.shape[1] > 1:
            with torch.no_grad():
                loss += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    for variant in manifest(generated).values():
        figures = variant["data"]["figures"]
        assert figures["perplexity_torch"] == pytest.approx(math.exp(loss / count), rel=1e-4)
        assert figures["perplexity"] == pytest.approx(figures["perplexity_torch"], rel=0.05)
        assert figures["vectors"] == count + len(TEXTS) - 1
        assert "groups" not in variant["data"]
    fp32 = manifest(generated)["fp32"]["data"]["figures"]
    assert fp32["perplexity"] == pytest.approx(fp32["perplexity_torch"], rel=1e-4)


def test_rows_without_labels_are_compared_with_the_original(spread, tmp_path):
    data = written(tmp_path / "data.jsonl", [{"text": text, "group": len(text) > 30} for text in TEXTS])
    bundle = export(spread, tmp_path / "bundle", precision=["fp32"], verify_data=data, max_accuracy_loss=0.0)
    found = manifest(bundle)["fp32"]["data"]
    assert found["figures"]["top1"] == 1
    assert "accuracy" not in found["figures"]
    assert set(found["groups"]) == {"True", "False"}
    assert (found["group_gap_of"], found["group_gap"]) == ("top1", 0)


def test_auto_writes_one_variant_and_what_it_was_chosen_from(spread, tmp_path):
    data = reviews(tmp_path / "data.jsonl")
    bundle = export(spread, tmp_path / "bundle", precision=["auto"], verify_data=data, max_accuracy_loss=0.5)
    (precision,) = bundle.variants
    candidates = manifest(bundle)[precision]["candidates"]
    assert list(candidates) == ["fp32", "int8", "int4"]
    kept = {name: each for name, each in candidates.items() if "refused" not in each}
    assert precision == max(kept, key=lambda name: kept[name]["speed"])
    assert all("parity" in each for each in candidates.values())
    names = {path.name for path in (bundle.folder / "onnx").iterdir()}
    assert names == {f"model{SUFFIXES[precision]}.onnx", f"model{SUFFIXES[precision]}.onnx_data"}
    bundle.check()
    assert pipeline(model=bundle.folder)("The sea is calm.")[0]["label"] in ("calm", "rough", "stormy")


def test_auto_that_may_lose_nothing(classifier, tmp_path):
    """The hidden states in 8 bits are alike to 0.99 and more, but not the same."""
    task = "feature-extraction"
    bundle = export(classifier, tmp_path / "bundle", task=task, precision=["auto"], max_accuracy_loss=0.0)
    assert list(bundle.variants) == ["fp32"]
    candidates = manifest(bundle)["fp32"]["candidates"]
    assert {name for name, each in candidates.items() if "refused" in each} == {"int8", "int4"}


def test_calibration_on_images_makes_8_bits_static(tmp_path):
    tiny_images.make("dinov2", tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{seed}.png")
    bundle = export(tmp_path / "model", tmp_path / "bundle", precision=["int8"], calibration=tmp_path / "photos")
    assert "MatMulIntegerToFloat" not in kinds(bundle, "int8")
    assert manifest(bundle)["int8"]["recipe"].startswith(
        "static QDQ, int8 weights per channel, calibrated on given data"
    )


def test_calibration_on_text_leaves_8_bits_dynamic(spread, tmp_path):
    """One range for all tokens would cost too much."""
    data = tmp_path / "data.txt"
    data.write_text("\n".join(TEXTS))
    bundle = export(spread, tmp_path / "bundle", precision=["int8"], calibration=data)
    assert "MatMulIntegerToFloat" in kinds(bundle, "int8")
    assert manifest(bundle)["int8"]["recipe"].startswith("dynamic, int8 weights per channel")
    assert pipeline(model=bundle.folder)("The sea is calm.")[0]["label"] in ("calm", "rough", "stormy")


def test_what_is_asked_of_four_bits_is_done(generated):
    graph = onnx.load(generated.folder / "onnx/model_q4.onnx", load_external_data=False).graph
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    few = [node for node in nodes if {item.name: item.i for item in node.attribute}["bits"] == 4]
    assert few
    for node in few:
        assert {item.name: item.i for item in node.attribute}["block_size"] == 16
        assert len(node.input) == 4  # with zero points


def test_a_variant_that_costs_too_much_is_refused_and_nothing_written(spread, tmp_path):
    (tmp_path / "out").mkdir()
    data = reviews(tmp_path / "data.jsonl")
    with pytest.raises(
        ParityError, match=r"^fp32 hurts group '\w+' more than '\w+': .* a gap of 0\.0000, limit -1\.0$"
    ):
        export(spread, tmp_path / "out/bundle", precision=["fp32"], verify_data=data, max_group_gap=-1.0)
    with pytest.raises(ParityError, match=r"^int8 loses -?0\.\d+ of accuracy on the given rows, limit -0\.5$"):
        export(spread, tmp_path / "out/bundle", precision=["int8"], verify_data=data, max_accuracy_loss=-0.5)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["parakeet-tdt", pytest.param("parakeet-rnnt", marks=pytest.mark.sweep)])
def test_word_errors_of_a_transducer_are_those_of_transformers(tmp_path, name):
    """Labels are what transformers' generate writes of each sound alone; one has two words more."""
    folder = tiny_sounds.make(name, tmp_path / "model")
    model = getattr(transformers, tiny_sounds.TINY[name][0]).from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    features = transformers.AutoFeatureExtractor.from_pretrained(folder)
    rows = []
    for number, length in enumerate((16000, 24000, 9000)):
        noise = np.random.default_rng(number).normal(0, 0.3, length).astype(np.float32)
        sound = tmp_path / f"{number}.wav"
        soundfile.write(sound, noise, 16000, "FLOAT")
        output = model.generate(**features(noise, sampling_rate=16000, return_tensors="pt"), eos_token_id=None)
        said = tokenizer.decode(output.sequences[0], skip_special_tokens=True, group_tokens=False)
        rows.append({"audio": str(sound), "label": said, "group": "ab"[number % 2]})
    count = [len(words(row["label"])) for row in rows]
    assert min(count) > 0
    rows[0]["label"] += " other words"
    data = written(tmp_path / "data.jsonl", rows)
    bundle = export(folder, tmp_path / "bundle", precision=["fp32"], verify_data=data, calibration=data)
    found = manifest(bundle)["fp32"]["data"]
    figures, groups = found["figures"], found["groups"]
    assert figures["wer"] == figures["wer_torch"] == pytest.approx(2 / (sum(count) + 2), rel=1e-5)
    assert groups["a"]["wer"] == pytest.approx(2 / (count[0] + count[2] + 2), rel=1e-5)
    assert groups["b"]["wer"] == found["group_gap"] == 0
    assert figures["cosine"] > 0.9999
    short = tmp_path / "short.wav"
    data = written(tmp_path / "short.jsonl", [{"audio": str(short)}])
    for length, message in ((9, "too short for a frame"), (200, "the original gives NaN for it: leave it out")):
        soundfile.write(short, noise[:length], 16000)
        with pytest.raises(UsageError, match=f"line 1: .*{message}"):
            export(folder, tmp_path / "other", precision=["fp32"], verify_data=data)
        assert not (tmp_path / "other").exists()


TEXT = {"text": "The sea is calm."}


@pytest.mark.parametrize(
    ("model", "rows", "arguments", "message"),
    [
        (
            "classifier",
            [TEXT | {"label": "wobbly"}],
            [],
            "{data}, line 1: label 'wobbly' is none of the model's: calm, ",
        ),
        ("classifier", [TEXT | {"label": 3}], [], "{data}, line 1: label 3 is none of the model's"),
        ("classifier", [TEXT | {"label": -1}], [], "{data}, line 1: label -1 is none of the model's"),
        ("classifier", [TEXT | {"label": True}], [], "{data}, line 1: label True is none of the model's"),
        ("classifier", [TEXT | {"label": ["calm"]}], [], "{data}, line 1: label ['calm'] is none of the model's"),
        ("classifier", [TEXT], ["--max-group-gap", "0.1"], "a largest group gap needs verify data whose rows"),
        ("classifier", [TEXT | {"group": "a"}], ["--max-group-gap", "0"], "a largest group gap needs verify data"),
        ("classifier", None, ["--max-group-gap", "0.1"], "a largest group gap needs verify data"),
        ("classifier", None, ["--max-accuracy-loss", "0.1"], "a largest accuracy loss needs verify data, or precision"),
        ("classifier", None, ["--verify-data", "none.jsonl"], "no such file or folder: none.jsonl"),
        ("classifier", None, ["--calibration", "none.txt"], "no such file or folder: none.txt"),
        ("classifier", None, ["--precision", "auto,int8"], "precision auto stands alone: leave int8 out"),
        ("classifier", None, ["--algorithm", "awq"], "unknown algorithm 'awq': choose from imatrix, gptq, k-quant, "),
        ("classifier", None, ["--block-size", "48"], "onnxruntime takes no blocks of 48: 16, 32, 64, 128, 256"),
        ("gpt2", None, ["--precision", "uint8"], "uint8 is for models that run in one go: choose int8 or int4"),
        ("gpt2", [{"text": "ok"}, {"text": "a"}], [], "{data}, line 1: a text of one token has no perplexity"),
    ],
)
def test_misuse_of_data_and_settings_is_one_line(request, tmp_path, capsys, model, rows, arguments, message):
    folder, data, output = request.getfixturevalue(model), tmp_path / "data.jsonl", tmp_path / "out" / "bundle"
    output.parent.mkdir()
    given = ["--verify-data", str(written(data, rows))] if rows else []
    words = ["export", str(folder), "-o", str(output), "--precision", "fp32", *given, *arguments]
    capsys.readouterr()  # what a fixture that is made only now says while it saves its model
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"wherry: {message.format(data=data)}")
    assert error.count("\n") == 1
    assert not list(output.parent.iterdir())
