"""Whisper's tokens as text: segments between timestamps, and parts that overlap joined where they agree.

Knows nothing of models or sounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wherry_tokenization import Tokenizer

STEP = 0.02
"""Seconds between two timestamps."""

Piece = tuple[float, Sequence[int]]
"""Tokens, and the second of the sound where their time begins."""


@dataclass
class _Chunk:
    language: str | None
    start: float | None = None
    end: float | None = None
    text: str = ""


@dataclass
class Transcript:
    """What was written so far; `add` what comes next.

    Attributes:
        first: the token of 0.00 seconds.
        timestamps: whether the tokens have timestamps, which end segments.
    """

    tokenizer: Tokenizer
    first: int
    timestamps: bool
    chunks: list[_Chunk] = field(default_factory=list)
    _open: _Chunk = field(default_factory=lambda: _Chunk(None))
    _held: list[list[int]] = field(default_factory=list)  # of the open chunk, from parts that overlap
    _skip: bool = False

    def add(
        self, pieces: Sequence[Piece], left: float = 0.0, right: float | None = None, language: str | None = None
    ) -> None:
        """Go on with a part of a sound.

        Args:
            pieces: what was written of it.
            left: seconds at its beginning that the part before holds too.
            right: the second in it from which on the next part holds it too; None for the last part.
            language: its name.
        """
        if language is not None:
            if self._open.language not in (None, language) and not self.timestamps:
                self._close()
            self._open.language = language
        first = self.first + left / STEP if left else self.first
        last = None if right is None else self._last_shared(pieces, right)
        current: list[int] = []
        for offset, tokens in pieces:
            for token in tokens:
                if token < self.first:
                    if token not in self.tokenizer.special_ids:
                        current.append(token)
                    continue
                time = round((token - self.first) * STEP + offset, 2)
                if last is not None and token >= last:  # of a pair in what the next part holds too
                    self._skip = True
                elif self._skip or (self._held and token < first):
                    self._skip = False
                elif self._open.start is None:
                    self._open.start = time
                elif time != self._open.start:
                    self._open.end = time
                    self._held.append(current)
                    self._close()
                    current = []
        if current:
            self._held.append(current)
        elif not any(self._held):
            self._held, self._open = [], _Chunk(self._open.language)

    def finish(self) -> None:
        """Close what is still open."""
        if self._held:
            self._close()

    def result(self, *, languages: bool = False) -> dict[str, Any]:
        """`{"text"}`, with `chunks` where there are timestamps or languages are asked for."""
        self.finish()
        found: dict[str, Any] = {"text": "".join(chunk.text for chunk in self.chunks)}
        if self.timestamps or languages:
            found["chunks"] = [
                ({"language": chunk.language} if languages else {})
                | ({"timestamp": (chunk.start, chunk.end)} if self.timestamps else {})
                | {"text": chunk.text}
                for chunk in self.chunks
            ]
        return found

    def _close(self) -> None:
        self._open.text = self.tokenizer.decode(joined(self._held))
        self.chunks.append(self._open)
        self._held, self._open = [], _Chunk(self._open.language)

    def _last_shared(self, pieces: Sequence[Piece], right: float) -> int | None:
        """The first timestamp in what the next part holds too, or the last one of all."""
        last = None
        for token in reversed([token for _, tokens in pieces for token in tokens if token >= self.first]):
            if last is not None and (token - self.first) * STEP < right:
                break
            last = token
        return last


def joined(parts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of parts that overlap: each goes on from the middle of where it agrees best with the one before."""
    if not parts:
        return []
    left = np.asarray(parts[0], np.int64)
    total: list[int] = []
    for part in parts[1:]:
        right = np.asarray(part, np.int64)
        best, cut = 0.0, (len(left), 0)
        for shift in range(1, len(left) + len(right)):
            ours = slice(max(0, len(left) - shift), min(len(left), len(left) + len(right) - shift))
            theirs = slice(max(0, shift - len(left)), min(len(right), shift))
            same = int(np.count_nonzero(left[ours] == right[theirs]))
            score = same / shift + shift / 10000  # favors long ones
            if same > 1 and score > best:
                best = score
                cut = (ours.start + ours.stop) // 2, (theirs.start + theirs.stop) // 2
        total += left[: cut[0]].tolist()
        left = right[cut[1] :]
    total += left.tolist()
    return total
