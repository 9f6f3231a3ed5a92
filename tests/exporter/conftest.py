"""Copies of checkpoints to damage, and a tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers


@pytest.fixture
def classifier_copy(classifier: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the classifier's folder to damage."""
    return lambda: Path(shutil.copytree(classifier, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of single characters, in a folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,?!:;()0123456789'"
    vocabulary = {letter: number + 6 for number, letter in enumerate(characters)} | {"[UNK]": 5}
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rust.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 48}))
    return folder
