"""The command line: what it prints where, its exit codes, and one line for each thing that goes wrong."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer
from transformers import pipeline as reference

from wherry.bundle import Bundle
from wherry.cli import VERBS, main
from wherry.commands import doctor
from wherry.errors import DeviceError
from wherry.pipelines import TASKS
from wherry.session import onnxruntime
from wherry_exporter.samples import sample

COMMAND = [sys.executable, "-m", "wherry.cli"]
TEXTS = ["A wherry is a light boat.", "我是一个人工智能模型", "Rivers run to the sea."]
PERSON = "My name is Anna Schmidt and I live at 12 Main Street, Springfield. Mail anna@example.com"
LONG = "boat " * 300


@pytest.fixture
def wherry(capsys):
    """Runs a command in this process."""

    def run(*words):
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return run


@pytest.fixture
def stdin(monkeypatch):
    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return give


@pytest.fixture(scope="module")
def minilm(bundle):
    return bundle("minilm").folder


@pytest.fixture(scope="module")
def rampart(bundle):
    return bundle("rampart").folder


@pytest.fixture(scope="module")
def vectors():
    """The vectors of TEXTS by the original model, mean-pooled and normalized as its card says."""
    tokenizer = AutoTokenizer.from_pretrained(sample("minilm"))
    model = AutoModel.from_pretrained(sample("minilm")).eval()
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    return torch.nn.functional.normalize(torch.stack(states), dim=1).numpy()


@pytest.fixture(scope="module")
def entities():
    """What transformers finds in PERSON with the original model."""
    return reference("token-classification", model=str(sample("rampart")))(PERSON)


def refused(done, code, *parts):
    assert done.code == code
    assert done.out == ""
    assert done.err.startswith("wherry: ")
    assert done.err.count("\n") == 1
    assert done.err.endswith("\n")
    for part in parts:
        assert str(part) in done.err


def test_version(wherry):
    done = wherry("--version")
    assert (done.code, done.out, done.err) == (0, f"wherry {version('wherry')}\n", "")
    assert wherry("-V").out == done.out


def test_help_lists_every_command(wherry):
    done = wherry("--help")
    assert (done.code, done.err) == (0, "")
    for name, verb in VERBS.items():
        assert f"  {name}" in done.out
        assert verb.about in done.out
    assert wherry("-h").out == done.out


def test_tasks(wherry):
    lines = wherry("tasks").out.splitlines()
    told = json.loads(wherry("tasks", "--json").out)
    assert list(told) == list(TASKS)
    assert lines[::2] == [
        f"{name}{' (' + ', '.join(task.aliases) + ')' if task.aliases else ''}: {task.about}"
        for name, task in TASKS.items()
    ]
    for line, task in zip(lines[1::2], told.values(), strict=True):
        assert line.strip() == task["example"]
        compile(task["example"], "example", "eval")


def test_no_arguments_are_misuse_and_print_the_help(wherry):
    done = wherry()
    assert done.code == 2
    assert done.out == wherry("--help").out


@pytest.mark.parametrize("word", ["rnu", "--hlep", "", "Run"])
def test_an_unknown_command(wherry, word):
    refused(wherry(word), 2, f"unknown command '{word}': choose one of {', '.join(VERBS)}")


@pytest.mark.parametrize("name", list(VERBS))
def test_every_command_has_help_with_an_example(capsys, name):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: wherry {name} ")
    assert printed.err == ""


@pytest.mark.parametrize(
    "words",
    [("run",), ("inspect",), ("verify", "a", "b"), ("run", "a", "--threads", "many"), ("run", "a", "--prec", "int8")],
)
def test_arguments_that_do_not_parse_are_misuse(capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("wherry: ")
    assert error.endswith(f"; see `wherry {words[0]} --help`\n")
    assert error.count("\n") == 1


def test_vectors_as_json_are_those_of_the_original(wherry, minilm, vectors):
    done = wherry("run", minilm, "--json", *TEXTS)
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    np.testing.assert_allclose(rows, vectors, atol=1e-5)


def test_vectors_of_the_lines_of_standard_input(wherry, stdin, minilm, vectors):
    stdin("\n".join([*TEXTS, ""]).encode())
    done = wherry("run", minilm, "--json")
    assert (done.code, done.err) == (0, "")
    np.testing.assert_allclose([json.loads(line) for line in done.out.splitlines()], vectors, atol=1e-5)


def test_lines_of_windows_and_empty_lines(wherry, stdin, minilm, vectors):
    stdin("\r\n\r\n".join(TEXTS).encode())
    done = wherry("run", minilm, "--json")
    np.testing.assert_allclose([json.loads(line) for line in done.out.splitlines()], vectors, atol=1e-5)


@pytest.mark.parametrize("mark", ["\N{LINE SEPARATOR}", "\x0b", "\x0c", "\x1c", "\x85"])
def test_only_line_feeds_end_a_line(wherry, stdin, minilm, mark):
    stdin(f"one{mark}text\nanother\n".encode())
    assert wherry("run", minilm, "--json").out.count("\n") == 2


def test_vectors_for_people(wherry, minilm, vectors):
    done = wherry("run", minilm, "--precision", "fp32", "--device", "cpu", "--threads", "1", TEXTS[0])
    assert (done.code, done.err) == (0, "")
    text, shown = done.out.splitlines()
    assert text == TEXTS[0]
    assert shown.startswith("  384 floats: [")
    first = [float(number) for number in shown.split("[")[1].split(",")[:6]]
    np.testing.assert_allclose(first, vectors[0, :6], atol=2e-4)


def test_options_may_stand_anywhere_and_texts_begin_with_a_dash(wherry, minilm):
    expected = wherry("run", minilm, "--json", "--precision", "int8", "one", "--", "--two").out
    assert expected.count("\n") == 2
    assert wherry("run", "--json", minilm, "one", "--precision", "int8", "--", "--two").out == expected


def test_entities_as_json_are_those_of_transformers(wherry, rampart, entities):
    done = wherry("run", rampart, "--precision", "fp32", "--json", PERSON)
    assert (done.code, done.err) == (0, "")
    (found,) = [json.loads(line) for line in done.out.splitlines()]
    assert len(found) > 3
    assert found == [{**entity, "score": pytest.approx(entity["score"], abs=1e-3)} for entity in entities]


def test_entities_for_people(wherry, rampart):
    done = wherry("run", rampart, PERSON, "Nothing here.")
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert lines[0] == PERSON
    assert lines[1].split() == ["label", "text", "score", "from", "to"]
    for line in lines[3:-2]:
        *_, start, end = line.split()
        assert PERSON[int(start) : int(end)] in line
    assert lines[-2:] == ["Nothing here.", "  nothing found"]


def test_inspect_for_people(wherry, minilm):
    done = wherry("inspect", minilm)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{minilm}: sentence-embeddings, bert\n")
    for part in ("fp32", "int8", "input_ids", "last_hidden_state", "torch", "apache-2.0"):
        assert part in done.out


def test_inspect_as_json(wherry, minilm):
    done = wherry("inspect", minilm, "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    manifest = json.loads((minilm / "wherry.json").read_text())
    assert facts["task"] == "sentence-embeddings"
    assert facts["model_type"] == "bert"
    assert facts["provenance"] == manifest["provenance"]
    assert list(facts["variants"]) == ["fp32", "int8"]
    assert facts["variants"]["int8"]["parity"] == manifest["variants"]["int8"]["parity"]
    weights = sum(path.stat().st_size for path in (minilm / "onnx").glob("model.onnx*"))
    assert facts["variants"]["fp32"]["bytes"] == weights
    ports = {
        port["name"]: (port["dtype"], len(port["shape"]))
        for port in facts["graphs"]["model"]["inputs"] + facts["graphs"]["model"]["outputs"]
    }
    assert ports["input_ids"] == ("int64", 2)
    assert ports["last_hidden_state"] == ("float32", 3)


def test_verify_an_intact_bundle(wherry, minilm):
    done = wherry("verify", minilm)
    count = sum(path.is_file() for path in minilm.rglob("*")) - 1
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{minilm}: {count} files are what wherry.json says\n"


@pytest.mark.parametrize("verb", ["verify", "inspect", "run"])
def test_a_damaged_bundle_is_named_before_it_runs(wherry, linked, replace, verb):
    folder = linked("minilm")
    content = bytearray((folder / "onnx" / "model.onnx").read_bytes())
    content[-1] ^= 1
    replace(folder / "onnx" / "model.onnx", bytes(content))
    texts = ["text"] if verb == "run" else []
    refused(wherry(verb, folder, *texts), 1, folder / "onnx" / "model.onnx", "is damaged")


def test_verify_without_a_manifest(wherry, linked):
    folder = linked("minilm")
    (folder / "wherry.json").unlink()
    refused(wherry("verify", folder), 1, "has no wherry.json to verify it against")


@pytest.mark.parametrize("verb", ["verify", "inspect", "run", "chat"])
def test_no_such_folder(wherry, tmp_path, verb):
    texts = ["text"] if verb == "run" else []
    refused(wherry(verb, tmp_path / "none", *texts), 1, f"no such file or folder: {tmp_path / 'none'}")


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/model", "a/b/c", ""])
def test_a_name_that_can_be_no_folder(wherry, name):
    refused(wherry("inspect", name), 1, "no such file or folder")


def test_a_folder_that_is_no_model(wherry, tmp_path):
    refused(wherry("run", tmp_path, "text"), 1, f"{tmp_path} holds no ONNX graph")


def test_a_task_that_does_not_fit(wherry, minilm):
    done = wherry("run", minilm, "--task", "text-generation", "text")
    refused(done, 2, "task text-generation does not fit", minilm, "sentence-embeddings")


def test_an_unknown_task(wherry, minilm):
    refused(wherry("run", minilm, "--task", "telepathy", "text"), 2, "unknown task 'telepathy': choose one of")


def test_an_unknown_precision(wherry, minilm):
    done = wherry("run", minilm, "--precision", "int2", "text")
    refused(done, 1, minilm, "has no precision 'int2': it has fp32, int8")


def test_an_unknown_device(wherry, minilm):
    refused(wherry("run", minilm, "--device", "gpu", "text"), 1, "unknown device 'gpu': choose auto, cpu, cuda")


def test_a_fallback_that_is_allowed_is_told(wherry, minilm):
    done = wherry("inspect", minilm, "--device", "cuda", "--allow-fallback", "--json")
    assert done.code == 0
    assert "wherry: runs on the CPU instead: device 'cuda' is not there" in done.err
    placement = json.loads(done.out)["graphs"]["model"]["placement"]
    assert placement.keys() == {"CPUExecutionProvider"}


def test_a_provider_option_of_another_form(wherry, minilm):
    refused(wherry("run", minilm, "--provider-option", "fast", "text"), 2, "'fast' is not of the form name=value")


def test_the_doctor_finds_nothing_wrong(wherry):
    done = wherry("doctor", "--json")
    assert done.code == 0
    facts = json.loads(done.out)
    assert facts["healthy"]
    found = {each["about"]: each["found"] for each in facts["findings"]}
    assert found["onnxruntime"] == f"onnxruntime {version('onnxruntime')}"
    assert found["device cpu"] == "works"
    assert wherry("doctor").out.endswith("nothing is wrong\n")


def test_the_doctor_names_faults(wherry, monkeypatch):
    def broken():
        raise DeviceError("both are installed")

    monkeypatch.setattr(doctor, "onnxruntime", broken)
    monkeypatch.setattr(doctor, "ROOM", 1e30)
    done = wherry("doctor")
    assert done.code == 1
    assert "onnxruntime: both are installed\n" in done.out
    assert "GB are free there: make room" in done.out


def test_a_device_that_is_absent(wherry, minilm, monkeypatch):
    monkeypatch.setattr(onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    done = wherry("run", minilm, "--device", "cuda:1", "text")
    refused(done, 1, "device 'cuda:1' is not there", "pip install 'wherry[gpu]'")


def test_no_threads(wherry, minilm):
    refused(wherry("run", minilm, "--threads", "0", "text"), 1, "threads must be at least 1, not 0")


def test_a_tokenizer_that_is_missing(wherry, linked):
    folder = linked("minilm")
    (folder / "tokenizer.json").unlink()
    refused(wherry("run", folder, "text"), 1, folder / "tokenizer.json", "is missing")
    (folder / "wherry.json").unlink()
    refused(wherry("run", folder, "text"), 1, folder, "has no tokenizer.json")


def test_standard_input_that_is_not_utf8(wherry, stdin, minilm):
    stdin(b"good\nb\xe4d\n")
    refused(wherry("run", minilm), 2, "standard input is not UTF-8 text: byte 6 is 0xe4")


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\t\r\n"])
def test_standard_input_without_a_text(wherry, stdin, minilm, content):
    stdin(content)
    refused(wherry("run", minilm), 2, "no text: give some as arguments or on standard input")


def test_a_text_that_is_too_long_is_cut_with_a_warning(wherry, minilm):
    done = wherry("run", minilm, "--json", LONG)
    assert done.code == 0
    assert len(json.loads(done.out)) == 384
    assert done.err == "wherry: 1 of 1 texts cut to the model's 256 tokens (the first: number 0)\n"


def test_a_text_that_is_too_long_is_refused_where_cutting_is_not_wanted(wherry, minilm):
    refused(wherry("run", minilm, "--no-truncation", LONG), 1, "256")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("--max-new-tokens", "5"), "--max-new-tokens"),
        (("--seed", "0"), "--seed"),
        (("--stop", "."), "--stop"),
        (("--stream",), "--stream"),
    ],
)
def test_a_generation_option_on_a_model_that_generates_nothing(wherry, minilm, words, option):
    refused(wherry("run", minilm, "text", *words), 2, f"{option} is for text-generation")


def test_stream_and_json_exclude_each_other(wherry, minilm):
    refused(wherry("run", minilm, "--stream", "--json", "text"), 2, "--stream goes without --json")


def test_text_that_is_not_unicode(wherry, minilm):
    refused(wherry("run", minilm, b"\xff".decode("utf-8", "surrogateescape")), 1, "not valid Unicode")


def finished(*words, **options):
    done = subprocess.run(
        [*COMMAND, *map(str, words)], stderr=subprocess.PIPE, text=True, timeout=120, check=False, **options
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout or "", err=done.stderr)


def test_a_name_that_the_hub_cannot_be_asked_about():
    done = finished("inspect", "nobody/nothing-of-this-name", env={**os.environ, "HF_HUB_OFFLINE": "1"})
    refused(done, 1, "no folder 'nobody/nothing-of-this-name' here, and the hub cannot be reached")


@pytest.mark.parametrize("words", [("--help",), ("inspect", "{}"), ("run", "{}", "--json", "text")])
def test_a_reader_that_has_gone_is_no_error(minilm, words):
    reader, writer = os.pipe()
    os.close(reader)
    done = finished(*(word.format(minilm) for word in words), stdout=writer)
    os.close(writer)
    assert (done.code, done.err) == (0, "")


def test_a_reader_that_wants_the_first_line_only(minilm):
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -1; exit ${PIPESTATUS[0]}', "bash", *COMMAND, "inspect", minilm],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{minilm}: sentence-embeddings, bert\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("inspect", "{}")])
def test_a_disk_that_is_full_is_told(minilm, words):
    with Path("/dev/full").open("w") as full:
        done = finished(*(word.format(minilm) for word in words), stdout=full)
    refused(done, 1, "No space left on device")


def cpu_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_of_a_run(minilm, tmp_path, number):
    (tmp_path / "texts").write_text("\n".join([LONG] * 5000))  # minutes of work
    with (
        (tmp_path / "texts").open() as texts,
        subprocess.Popen(
            [*COMMAND, "run", minilm, "--json"], stdin=texts, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        while process.poll() is None and cpu_seconds(process) < 4:  # by then the model is loaded and runs
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "wherry: interrupted"
    assert "Traceback" not in err


def test_an_interrupt_while_code_is_being_made(tmp_path):
    """Python dies of SIGINT where an interrupt has left exec, in which dataclasses are made, though it was caught."""
    (tmp_path / "slow.py").write_text('exec("import os; os.kill(os.getpid(), 2)\\nfor _ in range(10**6): pass")\n')
    (tmp_path / "start.py").write_text(
        "import sys\nfrom wherry.cli import VERBS, Verb, main\n"
        "VERBS['slow'] = Verb('slow', 'is interrupted')\nsys.exit(main(['slow']))\n"
    )
    done = subprocess.run([sys.executable, "-m", "start"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "wherry: interrupted\n")


def test_bench_times_every_variant(wherry, minilm):
    done = wherry("bench", minilm, "one", "two", "--seconds", "0.05", "--json")
    facts = json.loads(done.out)
    assert done.code == 0
    assert list(facts) == list(Bundle.load(minilm).variants)
    for each in facts.values():
        assert each["calls"] >= 5
        assert each["inputs_per_s"] == pytest.approx(2000 / each["call_ms"], rel=0.01)
        assert each["call_ms_p95"] >= each["call_ms"]
        assert set(each["placement"]) == {"CPUExecutionProvider"}


def test_bench_of_a_model_that_writes(wherry, bundle):
    options = ("--max-new-tokens", "4", "--seconds", "0.1", "--precision", "int4")
    done = wherry("bench", bundle("smollm2-gguf").folder, "Once", *options)
    assert (done.code, done.err) == (0, "")
    head, _, row, _, placed = done.out.splitlines()
    assert "new tokens/s" in head
    assert "first piece ms" in head
    assert len(row.split()) == 9
    assert placed.startswith("int4: ")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--seconds", "0"), 2, "--seconds must be more than 0, not 0"),
        (("--precision", "int3"), 1, "has no precision 'int3': it has "),
        (("--device", "openvino"), 1, "OpenVINOExecutionProvider is not installed"),
        (("--labels", "a,b"), 2, "--labels is not for this model's sentence-embeddings"),
    ],
)
def test_bench_refuses(wherry, minilm, words, code, says):
    refused(wherry("bench", minilm, *words), code, says)
