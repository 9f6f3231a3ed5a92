"""Bundles of real models, each exported once and kept until the code or a tool that makes them changes."""

import hashlib
import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

from wherry.bundle import Bundle
from wherry_exporter import export
from wherry_exporter.samples import sample

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".pytest_cache" / "bundles"
PRECISIONS = {
    "minilm": ["fp32", "int8"],
    "rampart": ["fp32", "int8"],
    "smollm2-gguf": ["fp32", "int8", "int4"],
}


@cache
def _key() -> str:
    """Changes with whatever could change a bundle: the project's code and the tools' versions."""
    digest = hashlib.sha256()
    for package in ("exporter", "runtime", "tokenization"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    for tool in ("torch", "transformers", "onnxscript", "onnx-ir", "onnxruntime"):
        digest.update(f"{tool} {version(tool)}".encode())
    return digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def bundle() -> Callable[[str], Bundle]:
    """The bundle of a sample model, with every precision that its task has."""

    @cache
    def exported(name: str) -> Bundle:
        folder = KEPT / _key() / name
        if not folder.exists():
            for stale in KEPT.glob("*"):
                if stale.name != _key():
                    shutil.rmtree(stale)
            export(sample(name), folder, precision=PRECISIONS[name])
        return Bundle.load(folder)

    return exported


@pytest.fixture
def copy_of(bundle: Callable[[str], Bundle], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a sample's bundle that a test may damage."""

    def copied(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(bundle(name).folder, folder)
        return folder

    return copied
