"""Tiny random checkpoints on disk, with the tokenizer of a real model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from wherry_exporter.samples import sample

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


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


@pytest.fixture
def classifier_copy(classifier: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the classifier's folder to damage."""
    return lambda: Path(shutil.copytree(classifier, tmp_path / "checkpoint"))
