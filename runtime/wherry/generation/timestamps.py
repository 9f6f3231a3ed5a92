"""Whisper's rules for timestamps among words, and how sure it is of what it wrote; processors like the others."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.generation.processors import log_softmax

Array = np.ndarray[Any, Any]

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class Timestamps:
    """Timestamps come in pairs and never go back, one comes first, and one is taken where they are likely together.

    Attributes:
        first: the token of 0.00 seconds; all behind it are timestamps, and the one before it says that there are none.
        end: the token that ends a text; those before it are words.
        prompt_length: ids before the first new token.
        latest: how many steps of 0.02 seconds the first timestamp may be behind the beginning.
    """

    first: int
    end: int
    prompt_length: int
    latest: int | None

    def __call__(self, ids: Array, scores: Array) -> Array:
        new, first = ids[self.prompt_length :], self.first
        scores[first - 1] = _NEVER
        if not len(new):
            scores[:first] = _NEVER
            if self.latest is not None:
                scores[first + self.latest + 1 :] = _NEVER
        else:
            places = np.flatnonzero(new >= first)
            closed = len(new) < 2 or new[-2] >= first
            opens = new[-1] >= first
            if opens and closed:  # a pair is complete, or it is the first: words follow
                scores[first:] = _NEVER
            elif opens:  # another timestamp follows, or the end
                scores[: self.end] = _NEVER
            if len(places):
                last = int(new[places[-1]])
                scores[first : last if opens and not closed else last + 1] = _NEVER
        most = scores[first:].max()
        if most > _NEVER and np.log(np.exp(scores[first:] - most).sum(dtype=np.float64)) + most > scores[:first].max():
            scores[:first] = _NEVER
        return scores


class Confidence:
    """Adds up the log-probabilities of a row's tokens, as far as the processors before it leave a choice."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.last: Array | None = None

    def __call__(self, ids: Array, scores: Array) -> Array:
        self.settle(ids)
        self.last = log_softmax(scores)
        return scores

    def settle(self, ids: Array) -> None:
        """Count the token that was chosen last, which is the last of the ids."""
        if self.last is not None:
            self.total, self.count = self.total + float(self.last[ids[-1]]), self.count + 1
            self.last = None

    def mean(self, ids: Array) -> float:
        """The mean log-probability of all tokens, given the row's ids in the end."""
        self.settle(ids)
        return self.total / max(self.count, 1)
