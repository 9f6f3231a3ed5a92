"""Calls other programs; what they say when they fail is the test's failure."""

import subprocess
from pathlib import Path


def call(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
