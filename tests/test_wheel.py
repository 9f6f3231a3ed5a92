"""The wheel alone, in an environment without torch, transformers, optimum and onnx, runs what was exported."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import importlib.util, sys
for name in ("torch", "transformers", "optimum", "onnx"):
    assert importlib.util.find_spec(name) is None, name
from wherry import pipeline
embed = pipeline(model=sys.argv[1], precision="int8")
print(embed(["A light boat.", "A small ship."]).shape)
generate = pipeline(model=sys.argv[2], precision="int4")
question = [{"role": "user", "content": "What is the capital of France?"}]
print(generate(question, max_new_tokens=20, do_sample=False)[0]["generated_text"][-1]["content"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("wherry-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The programs of an environment that holds the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip_install(folder / "bin", str(wheel))
    return folder / "bin"


def pip_install(programs, *requirements):
    command = [programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *requirements]
    subprocess.run(command, check=True, capture_output=True)


def test_what_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"wherry", "wherry_exporter", "wherry_tokenization", "wherry-0.1.0.dist-info"}
    assert {f"{package}/py.typed" for package in ("wherry", "wherry_exporter", "wherry_tokenization")} <= set(names)
    assert not [name for name in names if "test" in name]


def test_it_runs_bundles_without_any_training_framework(environment, bundle):
    minilm, smollm2 = bundle("minilm").folder, bundle("smollm2-gguf").folder
    inspect = subprocess.run([environment / "wherry", "inspect", minilm], capture_output=True, text=True)
    assert inspect.returncode == 1
    assert inspect.stderr == "wherry: onnxruntime is not installed: `pip install 'wherry[cpu]'` or 'wherry[gpu]'\n"
    pip_install(environment, "onnxruntime")
    done = subprocess.run([environment / "python", "-c", SCRIPT, minilm, smollm2], capture_output=True, text=True)
    assert done.stderr == ""
    shape, answer = done.stdout.splitlines()
    assert shape == "(2, 384)"
    assert "Paris" in answer
    export = subprocess.run([environment / "wherry", "export", minilm, "-o", "x"], capture_output=True, text=True)
    assert export.returncode == 1
    assert export.stderr.startswith("wherry: `wherry export` needs ")
    assert export.stderr.endswith(": pip install 'wherry[cpu,export]'\n")
