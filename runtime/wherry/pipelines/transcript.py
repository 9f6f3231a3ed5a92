"""Whisper's tokens as text: segments between timestamps, and parts that overlap joined where they agree.

Knows nothing of models or sounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wherry.pipelines.words import words_of
from wherry_tokenization import Tokenizer

Array = np.ndarray[Any, Any]

STEP = 0.02
"""Seconds between two timestamps."""

Spans = list[tuple[float, float]]
"""The seconds from which to which each token was said."""


@dataclass(frozen=True)
class Piece:
    """What was written of a window.

    Attributes:
        begin: the second of the sound where its time begins.
        tokens: words and timestamps.
        ends: when each token was said, in seconds from there; empty where that is not asked for.
    """

    begin: float
    tokens: Sequence[int]
    ends: Sequence[float] = ()


@dataclass
class _Chunk:
    language: str | None
    start: float | None = None
    end: float | None = None
    text: str = ""
    words: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Transcript:
    """What was written so far; `add` what comes next.

    Attributes:
        first: the token of 0.00 seconds.
        timestamps: whether the tokens have timestamps, which end segments.
        words: whether pieces tell when each token was said, and chunks are words.
    """

    tokenizer: Tokenizer
    first: int
    timestamps: bool
    words: bool = False
    chunks: list[_Chunk] = field(default_factory=list)
    _open: _Chunk = field(default_factory=lambda: _Chunk(None))
    _held: list[tuple[list[int], Spans]] = field(default_factory=list)  # of the open chunk, from parts that overlap
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
        spans: Spans = []
        said = pieces[0].begin if pieces else 0.0
        for piece in pieces:
            for number, token in enumerate(piece.tokens):
                if self.words:
                    before, said = said, piece.begin + piece.ends[number]
                if token < self.first:
                    if token not in self.tokenizer.special_ids:
                        current.append(token)
                        if self.words:
                            spans.append((round(before, 2), round(said, 2)))
                    continue
                time = round((token - self.first) * STEP + piece.begin, 2)
                if last is not None and token >= last:  # of a pair in what the next part holds too
                    self._skip = True
                elif self._skip or (self._held and token < first):
                    self._skip = False
                elif self._open.start is None:
                    self._open.start = time
                elif time != self._open.start:
                    self._open.end = time
                    self._held.append((current, spans))
                    self._close()
                    current, spans = [], []
        if current:
            self._held.append((current, spans))
        elif not any(tokens for tokens, _ in self._held):
            self._held, self._open = [], _Chunk(self._open.language)

    def finish(self) -> None:
        """Close what is still open."""
        if self._held:
            self._close()

    def result(self, *, languages: bool = False) -> dict[str, Any]:
        """`{"text"}`, with `chunks` where there are timestamps or languages are asked for."""
        self.finish()
        found: dict[str, Any] = {"text": "".join(chunk.text for chunk in self.chunks)}
        if self.words:
            found["chunks"] = [
                ({"language": chunk.language} if languages else {}) | word
                for chunk in self.chunks
                for word in chunk.words
            ]
        elif self.timestamps or languages:
            found["chunks"] = [
                ({"language": chunk.language} if languages else {})
                | ({"timestamp": (chunk.start, chunk.end)} if self.timestamps else {})
                | {"text": chunk.text}
                for chunk in self.chunks
            ]
        return found

    def _close(self) -> None:
        tokens, spans = joined(self._held)
        self._open.text = self.tokenizer.decode(tokens)
        if self.words:
            self._open.words = [
                {"text": word.text, "timestamp": (spans[word.first][0], spans[word.end - 1][1])}
                for word in words_of(self.tokenizer, tokens, self._open.language)
            ]
        self.chunks.append(self._open)
        self._held, self._open = [], _Chunk(self._open.language)

    def _last_shared(self, pieces: Sequence[Piece], right: float) -> int | None:
        """The first timestamp in what the next part holds too, or the last one of all."""
        last = None
        for token in reversed([token for piece in pieces for token in piece.tokens if token >= self.first]):
            if last is not None and (token - self.first) * STEP < right:
                break
            last = token
        return last


def joined(parts: Sequence[tuple[Sequence[int], Spans]]) -> tuple[list[int], Spans]:
    """Tokens of parts that overlap: each goes on from the middle of where it agrees best with the one before.

    Where parts tell when tokens were said, those agree alone that are not said earlier than in the part before.
    """
    if not parts:
        return [], []
    left, times = _arrays(parts[0])
    total: list[int] = []
    spans: Spans = []
    for part in parts[1:]:
        right, others = _arrays(part)
        best, cut = 0.0, (len(left), 0)
        for shift in range(1, len(left) + len(right)):
            ours = slice(max(0, len(left) - shift), min(len(left), len(left) + len(right) - shift))
            theirs = slice(max(0, shift - len(left)), min(len(right), shift))
            alike = left[ours] == right[theirs]
            if len(times) and len(others):
                (start, end), (other_start, other_end) = times[ours].T, others[theirs].T
                alike &= (start < other_start) | ((start == other_start) & (end <= other_end))
            same = int(np.count_nonzero(alike))
            score = same / shift + shift / 10000  # favors long ones
            if same > 1 and score > best:
                best = score
                cut = (ours.start + ours.stop) // 2, (theirs.start + theirs.stop) // 2
        total += left[: cut[0]].tolist()
        spans += [(start, end) for start, end in times[: cut[0]].tolist()]
        left, times = right[cut[1] :], others[cut[1] :]
    return total + left.tolist(), spans + [(start, end) for start, end in times.tolist()]


def _arrays(part: tuple[Sequence[int], Spans]) -> tuple[Array, Array]:
    tokens, spans = part
    return np.asarray(tokens, np.int64), np.asarray(spans, np.float64).reshape(-1, 2)
