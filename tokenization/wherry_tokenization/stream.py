"""Decode token by token, so that text can be shown while it is generated and no character is ever split.

Knows nothing of generation, and keeps no more than a few tokens whatever the length of the text.
"""

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, Protocol

_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
_CLEAN_UP_REACH = 4
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_up(text: str) -> str:
    """Remove the spaces that word-based tokenizers leave before punctuation, as transformers does."""
    for untidy, tidy in _CLEAN_UPS:
        text = text.replace(untidy, tidy)
    return text


class Pieces(Protocol):
    """How one family of decoders turns tokens into text, one at a time."""

    def step(self, token_id: int) -> str: ...

    def finish(self) -> str: ...


class TokenStream:
    """Text, piece by piece: `step` after each token, `finish` after the last.

    The pieces together are what decoding all ids at once gives. Bytes that are not UTF-8 become U+FFFD as
    soon as that is certain. One difference remains: where a byte-fallback tokenizer puts valid characters
    before broken bytes in one run of byte tokens, decoding at once gives those characters up with the rest.
    """

    def __init__(self, pieces: Pieces, checked: Callable[[Any], int], skip: frozenset[int], *, tidy: bool) -> None:
        self._pieces = pieces
        self._checked = checked
        self._skip = skip
        self._tidy = tidy
        self._held = ""

    def step(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        known_id = self._checked(token_id)
        if known_id in self._skip:
            return ""
        piece = self._pieces.step(known_id)
        return self._tidied(piece) if self._tidy else piece

    def finish(self) -> str:
        """What is left; an incomplete character becomes U+FFFD."""
        text = self._held + self._pieces.finish()
        self._held = ""
        return clean_up(text) if self._tidy else text

    def _tidied(self, piece: str) -> str:
        text = self._held + piece
        settled = _settled_length(text)
        self._held = text[settled:]
        return clean_up(text[:settled])


def pieces_for(rust: Any) -> Pieces:
    """The piecewise form of this tokenizer's decoder."""
    decoder = json.loads(rust.decoder.__getstate__()) if rust.decoder is not None else {}
    kinds = [part.get("type") for part in decoder.get("decoders", [decoder])]
    if kinds == ["ByteLevel"]:
        return _ByteLevelPieces(rust)
    return _ContextPieces(rust, byte_fallback="ByteFallback" in kinds)


class _ByteLevelPieces:
    """Each token stands for bytes (GPT-2, Llama 3, Qwen): one incremental UTF-8 decoder is all it takes."""

    def __init__(self, rust: Any) -> None:
        self._rust = rust
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def step(self, token_id: int) -> str:
        token = self._rust.id_to_token(token_id) or ""
        try:
            return self._utf8.decode(bytes(map(_BYTE_OF.__getitem__, token)))
        except KeyError:  # an added token, written as itself
            return self._utf8.decode(token.encode())

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _ContextPieces:
    """A token's text depends on the token before it at most (WordPiece, SentencePiece, byte fallback)."""

    def __init__(self, rust: Any, *, byte_fallback: bool) -> None:
        self._rust = rust
        self._byte_fallback = byte_fallback
        self._context: list[int] = []
        self._incomplete = b""
        self._run_is_broken = False

    def step(self, token_id: int) -> str:
        token = self._rust.id_to_token(token_id)
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback and token is not None else None
        if byte is not None and (self._context or byte[1] != "20"):  # decoders may strip a text's first space
            text = self._byte_text(bytes.fromhex(byte[1]))
        else:
            text = self.finish() + self._text_after_context(token_id)
        if token is not None:
            self._context = [token_id]
        return text

    def finish(self) -> str:
        text = _REPLACEMENT * len(self._incomplete)
        self._incomplete = b""
        self._run_is_broken = False
        return text

    def _byte_text(self, byte: bytes) -> str:
        if self._run_is_broken:
            return _REPLACEMENT
        self._incomplete += byte
        try:
            text = self._incomplete.decode()
        except UnicodeDecodeError as exc:
            if exc.reason == "unexpected end of data":
                return ""
            text = self.finish()
            self._run_is_broken = True
            return text
        self._incomplete = b""
        return text

    def _text_after_context(self, token_id: int) -> str:
        return self._decode([*self._context, token_id])[len(self._decode(self._context)) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._rust.decode(ids, skip_special_tokens=False)
        return text


def _settled_length(text: str) -> int:
    """How much of the text cleaning up can no longer change, whatever follows.

    Every pattern begins with a space, so text is settled where its last characters hold no space. None holds
    a letter before a space, so it is also settled right before a space that follows a letter or digit; the
    one exception is a lone n, for " n ' t" becomes " n't" and then "n't".
    """
    cut = len(text)
    while (space := text.find(" ", max(cut - _CLEAN_UP_REACH, 0), cut)) != -1:
        cut = space
        if cut and text[cut - 1].isalnum() and not text.endswith(" n", 0, cut):
            break
    return cut


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies write bytes: printable ones as themselves."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
