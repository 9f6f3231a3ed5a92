"""Environments of their own for the runtimes that run our bundles, kept until their requirements change."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / ".pytest_cache" / "environments"


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Path]:
    """The Python of the environment that NAME.txt beside this file describes."""

    @cache
    def made(name: str) -> Path:
        requirements = HERE / f"{name}.txt"
        folder = KEPT / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
        python = folder / "bin" / "python"
        if not (folder / ".ready").exists():
            _call(sys.executable, "-m", "venv", "--clear", str(folder))
            _call(str(python), "-m", "pip", "install", "-q", "-r", str(requirements))
            (folder / ".ready").touch()
        return python

    return made


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
