"""Characters to ids, for voices that read a `vocab.json` of them (VITS)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wherry_tokenization.ctc import read_object
from wherry_tokenization.errors import TokenizerError

Array = np.ndarray[Any, Any]


class Characters:
    """A vocabulary of single characters.

    Attributes:
        phonemes: whether the characters are phonemes, so that a text has to be turned into them first.
    """

    def __init__(self, vocabulary: Mapping[str, int], settings: Mapping[str, Any]) -> None:
        self.ids = vocabulary
        self.phonemes = bool(settings.get("phonemize", True))
        self.normal = bool(settings.get("normalize", True))
        self.blank = bool(settings.get("add_blank", True))
        self.roman = bool(settings.get("is_uroman", False))
        self.language = settings.get("language")
        self.unknown = vocabulary.get(str(settings.get("unk_token", "<unk>")))
        longest_first = sorted(filter(None, vocabulary), key=len, reverse=True)
        self._kept = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @classmethod
    def load(cls, folder: str | Path) -> "Characters":
        """Those of a model folder: `vocab.json` and `tokenizer_config.json`.

        Raises:
            TokenizerError: one is damaged, or there is no vocab.json.
        """
        folder = Path(folder)
        settings = folder / "tokenizer_config.json"
        vocabulary = read_object(folder / "vocab.json")
        if not all(type(number) is int for number in vocabulary.values()):
            raise TokenizerError(f"{folder / 'vocab.json'} is no mapping from characters to numbers")
        return cls(vocabulary, read_object(settings) if settings.exists() else {})

    def prepared(self, text: str) -> str:
        """A text in the case and the script that the voice knows.

        Raises:
            TokenizerError: it must be romanized first.
        """
        if self.normal:
            parts, end = [], 0
            for found in self._kept.finditer(text):
                parts += [text[end : found.start()].lower(), found[0]]
                end = found.end()
            text = "".join([*parts, text[end:].lower()])
        if self.language == "ron":
            text = text.replace("ț", "ţ")
        if self.roman and not text.isascii():
            raise TokenizerError("this voice reads Latin letters alone: romanize the text first, as uroman does")
        if self.normal and not self.phonemes:
            text = "".join(letter for letter in text if letter in self.ids).strip()
        return text

    def encode(self, text: str) -> Array:
        """int64 (length,), with the blank 0 around each character where the voice wants that."""
        known = [self.ids.get(letter, self.unknown) for letter in text]
        ids = np.array([number for number in known if number is not None], np.int64)
        if not self.blank or not ids.size:
            return ids
        spaced = np.zeros(2 * len(ids) + 1, np.int64)
        spaced[1::2] = ids
        return spaced
