"""Labels of frames as text: what a model trained by connectionist temporal classification (CTC) says.

Reads a `vocab.json` of characters, else the pieces of words in a `tokenizer.json`. Knows nothing of sounds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wherry_tokenization.errors import TokenizerError
from wherry_tokenization.stream import clean_up

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Spoken:
    """A character or a word, and the frames it was heard in: from `start` to before `end`."""

    text: str
    start: int
    end: int


WORD = "▁"
"""What a piece begins with that begins a word, as SentencePiece has it."""


class CTCLabels:
    """A vocabulary of characters, of which one is the blank between two and one stands between words; or of pieces."""

    def __init__(self, vocabulary: Mapping[str, int], settings: Mapping[str, Any]) -> None:
        self.tokens = {number: token for token, number in vocabulary.items()}
        for number, added in (settings.get("added_tokens_decoder") or {}).items():
            self.tokens.setdefault(int(number), str(added["content"]))
        self.blank = _content(settings.get("pad_token"), "<pad>")
        self.unknown = _content(settings.get("unk_token"), "<unk>")
        self.delimiter = _content(settings.get("word_delimiter_token"), "|")
        self.space = _content(settings.get("replace_word_delimiter_char"), " ")
        self.lower = bool(settings.get("do_lower_case", False))
        self.tidy = bool(settings.get("clean_up_tokenization_spaces", False))

    @classmethod
    def load(cls, folder: str | Path) -> "CTCLabels":
        """The labels of a model folder: `vocab.json`, else the vocabulary of `tokenizer.json`; `tokenizer_config.json`.

        Raises:
            TokenizerError: neither is there, or one is damaged.
        """
        folder = Path(folder)
        settings = read_object(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        if (folder / "vocab.json").exists():
            vocabulary = read_object(folder / "vocab.json")
            language = settings.get("target_lang")
            vocabulary = vocabulary if language is None else vocabulary.get(language, {})
        elif (folder / "tokenizer.json").exists():
            tokenizer = read_object(folder / "tokenizer.json")
            vocabulary = (tokenizer.get("model") or {}).get("vocab", {})
            if isinstance(vocabulary, list):
                vocabulary = _pieces(vocabulary, tokenizer.get("added_tokens") or [], folder)
        else:
            raise TokenizerError(f"{folder} has no vocab.json, which says what the model's labels mean")
        if not vocabulary or not isinstance(vocabulary, dict) or not all(type(n) is int for n in vocabulary.values()):
            raise TokenizerError(f"the vocabulary of {folder} is no mapping from tokens to numbers")
        try:
            return cls(vocabulary, settings)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise TokenizerError(f"{folder / 'tokenizer_config.json'} is not usable: {error}") from error

    def piece(self, number: int) -> str:
        """What a label stands for, with a space where a word begins."""
        token = self.tokens.get(number, self.unknown)
        return self.space if token == self.delimiter else token.replace(WORD, self.space)

    def characters(self, ids: Array) -> list[Spoken]:
        """What was said, of the likeliest label of each frame: int64 (frames,)."""
        if not len(ids):
            return []
        starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        ends = [*starts[1:].tolist(), len(ids)]
        found = []
        for start, end in zip(starts.tolist(), ends, strict=True):
            if self.tokens.get(int(ids[start]), self.unknown) != self.blank:
                found.append(Spoken(self.piece(int(ids[start])), start, end))
        return found

    def words(self, characters: Sequence[Spoken]) -> list[Spoken]:
        """Characters put together to words."""
        words: list[Spoken] = []
        within = False
        for each in characters:
            text = each.text.removeprefix(self.space)
            within = within and text == each.text
            if text and within:
                words[-1] = Spoken(words[-1].text + text, words[-1].start, each.end)
            elif text:
                words.append(Spoken(text, each.start, each.end))
                within = True
        return words

    def text(self, characters: Sequence[Spoken]) -> str:
        """Characters put together to a text."""
        text = "".join(each.text for each in characters).strip()
        text = text.lower() if self.lower else text
        return clean_up(text) if self.tidy else text


def _pieces(pieces: Sequence[Any], added: Sequence[Any], folder: Path) -> dict[str, int]:
    """Pieces of words, each of which comes with how likely it is, and what was added behind them."""
    try:
        found = {str(piece): number for number, (piece, _) in enumerate(pieces)}
        return found | {str(each["content"]): each["id"] for each in added}
    except (TypeError, ValueError, KeyError) as error:
        raise TokenizerError(f"the vocabulary of {folder / 'tokenizer.json'} is not usable: {error}") from error


def _content(token: Any, default: str) -> str:
    if isinstance(token, Mapping):
        token = token["content"]
    return default if token is None else str(token)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises TokenizerError where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise TokenizerError(f"{path} must hold a JSON object")
    return data
