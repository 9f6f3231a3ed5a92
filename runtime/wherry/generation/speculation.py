"""Guesses of the tokens to come: what followed the same tokens earlier in the text, or what a smaller model says.

Sources: https://github.com/apoorvumang/prompt-lookup-decoding; Leviathan et al., Fast Inference from Transformers via
Speculative Decoding, https://arxiv.org/abs/2211.17192. Guesses are only ever compared with what is chosen anyway.
"""

from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.generation.batch import Batch
from wherry.generation.decoder import Decoder

Array = np.ndarray[Any, Any]

LONGEST = 3
"""Tokens at the end that are looked for, as many as are found."""


def lookup(ids: Array, count: int) -> Array:
    """The tokens, `count` at most, that came after the latest place where the last ones stood before.

    Args:
        ids: (sequence,) int64.

    Returns:
        (up to count,) int64; none where even the last token is new.
    """
    for size in range(min(LONGEST, len(ids) - 1), 0, -1):
        last = ids[-size:]
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
        places = np.flatnonzero((windows == last).all(1))
        if len(places):
            after = int(places[-1]) + size
            return ids[after : after + count]
    return ids[:0]


class Assistant:
    """A smaller model that guesses what a larger one with the same tokens will say. Reads a text once as it grows."""

    def __init__(self, decoder: Decoder, context: int | None = None) -> None:
        """Begin with no text.

        Args:
            decoder: the smaller model's.
            context: the most tokens that it takes.

        Raises:
            InputError: its graph cannot forget a guess that was wrong.
        """
        self.decoder, self.context = decoder, context
        self.batch: Batch = decoder.batch(1, 0)
        if not self.batch.chunks:
            raise InputError("the assistant's graph keeps a cache that cannot be cut: it needs GroupQueryAttention")
        self.read: Array = np.empty(0, np.int64)

    def guess(self, ids: Array, count: int, confidence: float) -> Array:
        """What follows, greedily, as long as its tokens are likely enough.

        Args:
            ids: (sequence,) int64.
            count: the most tokens.
            confidence: the least probability of a token.

        Returns:
            (up to count,) int64.
        """
        count = count if self.context is None else min(count, self.context - len(ids))
        if count <= 0:
            return ids[:0]
        logits = self._caught_up(ids)
        guessed: list[int] = []
        while True:
            token = int(logits.argmax())
            if np.exp(logits - logits[token]).sum() * confidence > 1:
                break
            guessed.append(token)
            if len(guessed) == count:
                break
            logits = self.batch.step([token])[0]
        self.read = np.concatenate([ids, guessed[:-1] if len(guessed) == count else guessed]).astype(np.int64)
        return np.array(guessed, np.int64)

    def _caught_up(self, ids: Array) -> Array:
        """Read what is new in a text; gives the logits behind its last token, (vocabulary,)."""
        length = min(len(self.read), len(ids) - 1)
        other = np.flatnonzero(self.read[:length] != ids[:length])
        known = int(other[0]) if len(other) else length
        if not self.batch.rows:
            found = self.batch.add(ids[None])
        else:
            self.batch.cut(0, known)
            new = ids[known:]
            found = self.batch.step(new.tolist()) if len(new) == 1 else self.batch.extend(new[None])
        assert found is not None
        logits: Array = found[0]
        return logits
