"""Copies of checkpoints to damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def classifier_copy(classifier: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the classifier's folder to damage."""
    return lambda: Path(shutil.copytree(classifier, tmp_path / "checkpoint"))
