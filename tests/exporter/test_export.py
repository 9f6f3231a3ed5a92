"""From a checkpoint to a folder: what is written, what is refused, and that nothing is ever half-written."""

import json
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2LMHeadModel

from wherry import pipeline
from wherry.bundle import SUFFIXES
from wherry.cli import main
from wherry.errors import TaskError
from wherry_exporter import ExportError, ParityError, UsageError, export


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "writing" in path.name or "replaced" in path.name)


@pytest.fixture(scope="session")
def exported(classifier, tmp_path_factory):
    return export(classifier, tmp_path_factory.mktemp("exported") / "bundle", precision=["fp32"])


def test_what_a_bundle_holds(exported, classifier):
    assert exported.task == "text-classification"
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"} <= set(exported.files)
    assert exported.variants["fp32"].graphs == {"model": "onnx/model.onnx"}
    assert set(exported.variants["fp32"].files) == {"onnx/model.onnx", "onnx/model.onnx_data"}
    assert exported.provenance["source"] == classifier.name
    assert exported.provenance["tools"]["torch"] == version("torch")
    assert exported.check() == len(exported.files) + 2
    on_disk = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    assert on_disk == {*exported.files, *exported.variants["fp32"].files, "wherry.json"}


def test_a_graph_tells_nothing_of_the_machine_it_was_made_on(exported):
    graph = (exported.folder / "onnx/model.onnx").read_bytes()
    assert b"model.bert.encoder" in graph
    assert b"site-packages" not in graph
    assert not any(word in graph for word in (b".py", b"torch.ops", b"class_hierarchy"))


def test_the_card_tells_the_figures(exported):
    card = (exported.folder / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| fp32 |"))
    for figure in exported.variants["fp32"].parity.values():
        assert f"{figure:g}" in row
    assert "pipeline_tag: text-classification" in card


def test_a_bundle_answers_as_torch_does(exported, classifier):
    texts = ["The sea is calm.", "A storm is coming, and the boat is far from any harbour.", "ok"]
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.no_grad():
        scores = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    best = scores.max(-1)
    results = pipeline(model=exported.folder)(texts)
    assert [result["label"] for result in results] == [model.config.id2label[index] for index in best.indices.tolist()]
    np.testing.assert_allclose([result["score"] for result in results], best.values.numpy(), atol=1e-6)


def test_a_loaded_model_and_its_tokenizer(gpt2, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(gpt2)
    model.config.name_or_path = ""
    with pytest.raises(ExportError, match="needs its tokenizer: pass tokenizer="):
        export(model, tmp_path / "bundle")
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    bundle = export(model, tmp_path / "bundle", tokenizer=tokenizer, precision=["fp32", "int8", "int4"])
    assert bundle.task == "text-generation"
    assert list(bundle.variants) == ["fp32", "int8", "int4"]
    pipe = pipeline(model=bundle.folder, precision="fp32")
    prompts = ["The river is wide", "It was a dark and stormy night; the rain fell in torrents", "我是"]
    together = pipe(prompts, max_new_tokens=12, do_sample=False)
    for prompt, result in zip(prompts, together, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        expected = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0]
        assert result[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_another_task_than_the_heads(classifier, tmp_path):
    """Every encoder gives its hidden states, whatever head its checkpoint has."""
    bundle = export(classifier, tmp_path / "bundle", task="feature-extraction", precision=["fp32"])
    assert bundle.task == "feature-extraction"
    with pytest.raises(TaskError, match="token-classification does not fit: BertForSequenceClassification is a model"):
        export(classifier, tmp_path / "other", task="token-classification")
    with pytest.raises(TaskError, match="unknown task 'juggling': choose one of"):
        export(classifier, tmp_path / "other", task="juggling")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_command_line_prints_figures(classifier, tmp_path, capsys):
    assert main(["export", str(classifier), "-o", str(tmp_path / "a"), "--precision", "fp32", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["task"] == "text-classification"
    assert facts["variants"]["fp32"]["parity"]["cosine"] > 0.9999
    assert main(["export", str(classifier), "-o", str(tmp_path / "b"), "--precision", "fp32"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].startswith("variant")
    assert shown.err == ""


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--precision", "int3"], f"unknown precision 'int3': choose from {', '.join(SUFFIXES)}, auto", 2),
        (["--precision", "fp32,int3,int5"], "unknown precision 'int3, int5': choose from", 2),
        (["--precision", ""], "unknown precision ''", 2),
        (["--task", "text-generation"], "task text-generation does not fit", 2),
    ],
)
def test_misuse_is_one_line(classifier, tmp_path, capsys, arguments, message, code):
    assert main(["export", str(classifier), "-o", str(tmp_path / "bundle"), *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith(f"wherry: {message}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists(exported, classifier, tmp_path, capsys):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="exists: choose another output or pass --overwrite"):
        export(classifier, folder)
    with pytest.raises(UsageError, match="is not a bundle: --overwrite replaces only bundles"):
        export(classifier, folder, overwrite=True)
    assert (folder / "diary.txt").read_text() == "dear diary"
    with pytest.raises(UsageError, match="is a file"):
        export(classifier, folder / "diary.txt", overwrite=True)
    with pytest.raises(UsageError, match="cannot write below"):
        export(classifier, folder / "diary.txt" / "bundle")
    with pytest.raises(UsageError, match="exists"):
        export(classifier, exported.folder)


def test_overwriting_a_bundle(classifier, tmp_path):
    folder = tmp_path / "bundle"
    export(classifier, folder, precision=["fp32"])
    (folder / "notes.txt").write_text("will go")
    bundle = export(classifier, folder, precision=["fp32"], overwrite=True, task="feature-extraction")
    assert bundle.task == "feature-extraction"
    assert not (folder / "notes.txt").exists()
    assert not leftovers(tmp_path)


def test_a_variant_beyond_its_limit_is_refused_and_nothing_written(classifier, tmp_path, monkeypatch):
    from wherry_exporter import verify

    strict = verify.Limit(cosine=1.1, cosine_min=0.999, top1=0.99, perplexity=1.001)
    monkeypatch.setitem(verify.LIMITS, "int8", strict)
    with pytest.raises(ParityError, match=r"int8 is too far from the original: mean cosine [01]\.\d+, limit 1\.1"):
        export(classifier, tmp_path / "bundle", precision=["fp32", "int8"])
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(verify.LIMITS, "fp32", strict)
    with pytest.raises(ExportError, match=r"cannot be exported for text-classification: fp32 is too far [^;]*$"):
        export(classifier, tmp_path / "bundle", precision=["fp32"])
    assert not list(tmp_path.iterdir())


def test_a_full_disk(classifier, tmp_path):
    """Files may not grow beyond a megabyte: the weights' file fails as it would on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    command = [sys.executable, "-m", "wherry.cli", "export", str(classifier), "-o", str(tmp_path / "bundle")]
    done = subprocess.run([*command, "--precision", "fp32"], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.startswith(f"wherry: cannot write {tmp_path / 'bundle'}: File too large")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kill", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_export_leaves_no_bundle(classifier, tmp_path, kill, code):
    command = [sys.executable, "-m", "wherry.cli", "export", str(classifier), "-o", str(tmp_path / "bundle")]
    process = subprocess.Popen([*command, "--precision", "fp32"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert leftovers(tmp_path), "the export ended before it could be interrupted"
    process.send_signal(kill)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert not (tmp_path / "bundle").exists()
    if kill == signal.SIGKILL:
        export(classifier, tmp_path / "bundle", precision=["fp32"])  # which also clears what the dead one left
    else:
        assert error == "wherry: interrupted\n"
    assert not leftovers(tmp_path)
