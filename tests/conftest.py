"""Bundles of real models, exported once and kept until the code or its tools change, and tiny random checkpoints."""

import gc
import hashlib
import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from wherry.bundle import Bundle
from wherry_exporter import export
from wherry_exporter.samples import sample

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".pytest_cache" / "bundles"
PRECISIONS = {
    "minilm": ["fp32", "int8"],
    "rampart": ["fp32", "int8"],
    "smollm2-gguf": ["fp32", "int8", "int4"],
    "whisper": ["fp32", "int8"],
    "efficientnet": ["fp32"],
}

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def pytest_configure() -> None:
    """Each of several processes keeps to a core of its own, so that their threads do not fight.

    Python searches what torch and transformers are made of for garbage once, and the rest seldom.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
        torch.set_num_threads(1)


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
        KEPT.mkdir(parents=True, exist_ok=True)
        for stale in KEPT.glob("*/"):
            if stale.name != _key():
                shutil.rmtree(stale, ignore_errors=True)
        with FileLock(KEPT / f"{name}.lock"):
            if not folder.exists():
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


def _with_tokenizer(folder: Path, name: str) -> Path:
    for file in TOKENIZER:
        if (sample(name) / file).exists():
            shutil.copy(sample(name) / file, folder)
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with three labels. Tests that change it take a copy."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        id2label={0: "calm", 1: "rough", 2: "stormy"},
        label2id={"calm": 0, "rough": 1, "stormy": 2},
    )
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(config).save_pretrained(folder)
    return _with_tokenizer(folder, "minilm")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=49152, n_positions=128, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(config).save_pretrained(folder)
    return _with_tokenizer(folder, "smollm2")
