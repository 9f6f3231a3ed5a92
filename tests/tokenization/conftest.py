"""Real tokenizers, each beside transformers' own, and text to compare them on."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tokenization.corpus import corpus
from wherry_exporter.samples import sample
from wherry_tokenization import Tokenizer

NAMES = ("minilm", "smollm2", "whisper-tokenizer", "rampart")


@pytest.fixture(scope="session")
def tokenizer_folder() -> Callable[[str], Path]:
    return sample


@pytest.fixture(scope="session")
def load() -> Callable[[str], Tokenizer]:
    return cache(lambda name: Tokenizer.load(sample(name)))


@pytest.fixture(scope="session")
def load_reference() -> Callable[[str], Any]:
    """transformers' tokenizer. Its calls change it, so tests pass every setting each time."""
    return cache(lambda name: AutoTokenizer.from_pretrained(sample(name)))


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def ours(name: str, load: Callable[[str], Tokenizer]) -> Tokenizer:
    return load(name)


@pytest.fixture
def reference(name: str, load_reference: Callable[[str], Any]) -> Any:
    return load_reference(name)


@pytest.fixture(scope="session")
def lines() -> list[str]:
    return corpus()


@pytest.fixture
def variant(tmp_path: Path, tokenizer_folder: Callable[[str], Path]) -> Callable[..., Path]:
    """A copy of a sample's tokenizer files; `config` changes its tokenizer_config.json, None removing a key."""

    def make(name: str, config: dict[str, Any] | None = None, files: dict[str, str] | None = None) -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        source = tokenizer_folder(name)
        for file in ("tokenizer.json", "special_tokens_map.json"):
            if (source / file).exists():
                (folder / file).symlink_to((source / file).resolve())
        merged = json.loads((source / "tokenizer_config.json").read_text()) | (config or {})
        kept = {key: value for key, value in merged.items() if value is not None}
        (folder / "tokenizer_config.json").write_text(json.dumps(kept))
        for path, content in (files or {}).items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).unlink(missing_ok=True)
            (folder / path).write_text(content)
        return folder

    return make
