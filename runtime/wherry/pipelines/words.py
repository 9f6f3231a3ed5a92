"""Tokens grouped by the words that they write, as transformers' tokenizer of Whisper does. Knows nothing of times."""

from collections.abc import Sequence
from dataclasses import dataclass

from wherry_tokenization import Tokenizer

UNSPACED = ("chinese", "japanese", "thai", "lao", "myanmar", "cantonese")
"""Languages without spaces between words, of which each character counts as one."""

_ALONE = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_OPENING = "\"'“¡¿([{-"
_CLOSING = "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True)
class Word:
    """A text, and the tokens from `first` to before `end` that write it."""

    text: str
    first: int
    end: int

    def __add__(self, other: "Word") -> "Word":
        return Word(self.text + other.text, self.first, other.end) if self.text and other.text else self or other

    def __bool__(self) -> bool:
        return bool(self.text)


_NOTHING = Word("", 0, 0)


def words_of(tokenizer: Tokenizer, tokens: Sequence[int], language: str | None) -> list[Word]:
    """The words of a text, in their order, with spaces and punctuation."""
    found = _characters(tokenizer, tokens)
    return _with_punctuation(found if language in UNSPACED else _by_spaces(found))


def _characters(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[Word]:
    """Tokens, together where it takes several to write a character."""
    stream, first = tokenizer.stream(), 0
    found = []
    for end, token in enumerate(tokens, 1):
        if text := stream.step(token):
            found.append(Word(text, first, end))
            first = end
    if text := stream.finish():
        found.append(Word(text, first, len(tokens)))
    return found


def _by_spaces(parts: Sequence[Word]) -> list[Word]:
    found: list[Word] = []
    for part in parts:
        if not found or part.text.startswith(" ") or part.text.strip() in _ALONE:
            found.append(part)
        else:
            found[-1] += part
    return found


def _with_punctuation(words: list[Word]) -> list[Word]:
    """Opening marks go to the word behind them, closing ones to the word before."""
    at = len(words) - 1
    for before in range(len(words) - 2, -1, -1):
        if words[before].text.startswith(" ") and words[before].text.strip() in _OPENING:
            words[at], words[before] = words[before] + words[at], _NOTHING
        else:
            at = before
    at = 0
    for behind in range(1, len(words)):
        if not words[at].text.endswith(" ") and words[behind].text in _CLOSING:
            words[at], words[behind] = words[at] + words[behind], _NOTHING
        else:
            at = behind
    return [word for word in words if word]
