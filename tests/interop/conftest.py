"""Environments of their own for the runtimes that run our bundles, kept until their requirements change."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from interop.models import tiny
from interop.process import call
from wherry_exporter import export
from wherry_exporter.samples import sample

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".pytest_cache" / "environments"


@pytest.fixture(scope="session")
def run_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Mapping[str, Any]]:
    """Runs jobs with run_NAME.py, or another script, in the environment that NAME.txt describes; the results by job."""

    def run(name: str, jobs: Sequence[Mapping[str, Any]], script: str | None = None) -> Mapping[str, Any]:
        folder = tmp_path_factory.mktemp(name)
        (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
        call(_python(name), HERE / (script or f"run_{name}.py"), folder / "jobs.json", folder / "results.json")
        found: Mapping[str, Any] = json.loads((folder / "results.json").read_text())
        return found

    return run


def _python(name: str) -> Path:
    requirements = HERE / f"{name}.txt"
    folder = KEPT / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        call(sys.executable, "-m", "venv", "--clear", folder)
        call(python, "-m", "pip", "install", "-q", "-r", requirements)
        (folder / ".ready").touch()
    return python


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The one that the tiny models have."""
    return AutoTokenizer.from_pretrained(sample("smollm2"))


@pytest.fixture(scope="session")
def tiny_bundle(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The float32 bundle of a tiny model, exported once."""

    @cache
    def exported(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name) / "bundle"
        export(tiny(name), folder, tokenizer=tokenizer, precision=["fp32"])
        return folder

    return exported
