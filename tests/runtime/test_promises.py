"""What is promised of the package as a whole: its names, and how little it loads and how fast."""

import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import wherry

HEAVY = ("torch", "transformers", "optimum", "onnx", "onnxruntime", "numpy", "jinja2", "huggingface_hub")
WHERRY = Path(sysconfig.get_path("scripts")) / "wherry"

LOADED = f"""
import sys
{{}}
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""

EMBED = """
from wherry import pipeline
assert pipeline(model={!r})("A wherry is a light boat.").shape == (384,)
"""


def loaded_after(code):
    done = subprocess.run([sys.executable, "-c", LOADED.format(code)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


def seconds(*command):
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def quick_once(measure, limit):
    """Whether it is quick at least once in many tries: a busy machine slows some of them, a slow import all."""
    return any(measure() < limit for _ in range(12))


def test_exported_names_are_these_and_can_be_imported():
    assert wherry.__all__ == ["Bundle", "Session", "Variant", "WherryError", "pipeline"]
    assert set(wherry.__all__) <= set(dir(wherry))
    names = {}
    exec("from wherry import *", names)
    from wherry.bundle import Bundle, Variant
    from wherry.errors import WherryError
    from wherry.pipelines import pipeline
    from wherry.session import Session

    assert [names[name] for name in wherry.__all__] == [Bundle, Session, Variant, WherryError, pipeline]


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="module 'wherry' has no attribute 'Pipelin'"):
        _ = wherry.Pipelin


def test_import_loads_nothing_heavy():
    assert loaded_after("import wherry") == []


def test_the_command_line_loads_nothing_heavy_before_it_knows_the_command():
    assert loaded_after("import wherry.cli") == []


def test_import_is_quick():
    def measure():
        return seconds(sys.executable, "-c", "import wherry") - seconds(sys.executable, "-c", "pass")

    assert quick_once(measure, 0.25)


def test_help_is_quick():
    assert quick_once(lambda: seconds(WHERRY, "--help"), 0.3)


def test_running_a_model_needs_no_training_framework(bundle):
    loaded = loaded_after(EMBED.format(str(bundle("minilm").folder)))
    assert {"numpy", "onnxruntime"} <= set(loaded)
    assert not {"torch", "transformers", "optimum", "onnx"} & set(loaded)
