"""Beam search over one prompt, as transformers does it: hypotheses are kept apart from the beams that still run.

Knows no model: log-probabilities in, which beams go on with which tokens out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.generation.config import GenerationConfig
from wherry.generation.processors import Processor, largest, log_softmax, processors

Array = np.ndarray[Any, Any]

NEVER = np.float32(-1e9)
"""Added to a score that must not be chosen; finite, so that scores stay comparable."""


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence.

    Attributes:
        tokens: what follows the prompt, the token that ended it included.
        score: sum of log-probabilities over length ** length_penalty.
    """

    tokens: tuple[int, ...]
    score: float


class Beams:
    """The beams of one prompt.

    Attributes:
        done: whether no beam can become better than the hypotheses there are.
    """

    def __init__(
        self,
        config: GenerationConfig,
        prompt: Sequence[int],
        vocabulary: int,
        limit: int,
        further: Sequence[Processor] = (),
    ) -> None:
        """Begin.

        Args:
            limit: tokens that may follow the prompt.
            further: see `processors`.
        """
        self.config, self.limit, self.done = config, limit, False
        count = config.num_beams
        self.processors = processors(config, len(prompt), vocabulary, further)
        self.random = np.random.default_rng(config.seed)
        self.ends = np.array(config.eos_token_ids, np.int64)
        self.ids = np.tile(np.asarray(prompt, np.int64), (count, 1))
        self.prompt = len(prompt)
        self.scores: Array = np.full(count, NEVER, np.float32)
        self.scores[0] = 0  # all beams are alike at first, and only one of them may go on
        self.finished: list[tuple[np.float32, Array, bool]] = [
            (NEVER, np.empty(0, np.int64), False) for _ in range(count)
        ]
        self.improvable = True

    @property
    def length(self) -> int:
        """Tokens behind the prompt."""
        return int(self.ids.shape[1]) - self.prompt

    def advance(self, logits: Array) -> tuple[Array, Array]:
        """One step.

        Args:
            logits: (num_beams, vocabulary).

        Returns:
            (num_beams,) which beam each of the next ones goes on from, and (num_beams,) their tokens.
        """
        config, count = self.config, len(self.scores)
        keep = max(2, 1 + len(self.ends)) * count
        sources, tokens, scores = self._best(logits, keep)
        ids = np.concatenate([self.ids[sources], tokens[:, None]], 1)
        ended = np.isin(tokens, self.ends) | (self.length + 1 >= self.limit)

        running = scores + ended * NEVER
        next_ones = np.argsort(-running, kind="stable")[:count]
        self._finish(ids, scores, ended, count)
        self.ids, self.scores = ids[next_ones], running[next_ones]
        self._look_ahead()
        everything = bool(ended.all())
        full = config.early_stopping is True and self._is_full
        self.done = everything or full or not self.improvable
        return sources[next_ones], tokens[next_ones]

    def _best(self, logits: Array, keep: int) -> tuple[Array, Array, Array]:
        """So many continuations, the best first or as they are drawn: which beam, which token, the score of both."""
        places, chances = [], []
        for row, ids in zip(logits, self.ids, strict=True):  # a row to its end, while it is in the processor's caches
            logs = log_softmax(np.asarray(row, np.float32))
            for processor in self.processors:
                logs = processor(ids, logs)
            # no other than the best of a beam can be among the best of all
            places.append(np.arange(logs.size) if self.config.do_sample else largest(logs, keep))
            chances.append(logs if self.config.do_sample else logs[places[-1]])
        sources = np.repeat(np.arange(len(places)), [len(each) for each in places])
        tokens = np.concatenate(places)
        scores = np.concatenate(chances) + self.scores[sources]
        if self.config.do_sample:
            best = _drawn(scores, keep, self.random)
            return sources[best], tokens[best], scores[best]
        best = np.argsort(-scores, kind="stable")[:keep]
        return sources[best], tokens[best], scores[best]

    def _finish(self, ids: Array, scores: Array, ended: Array, count: int) -> None:
        """Take the sequences that ended among the best into the hypotheses."""
        if (self.config.early_stopping is True and self._is_full) or not self.improvable:
            return
        power = np.float32((self.length + 1) ** self.config.length_penalty)
        just = [(scores[at] / power, ids[at, self.prompt :], True) for at in range(count) if ended[at]]
        self.finished = sorted([*self.finished, *just], key=lambda each: -each[0])[:count]

    def _look_ahead(self) -> None:
        """Whether the best running beam could still become better than the worst hypothesis."""
        config = self.config
        never = config.early_stopping == "never" and config.length_penalty > 0
        length = self.limit if never else self.length
        possible = self.scores[0] / np.float32(length**config.length_penalty)
        worst = self.finished[-1][0] if self._is_full else NEVER
        self.improvable = self.improvable and bool(possible > worst)

    @property
    def _is_full(self) -> bool:
        return all(real for _, _, real in self.finished)

    def hypotheses(self) -> list[Hypothesis]:
        """The best `num_return_sequences`, the best first."""
        best = self.finished[: self.config.num_return_sequences]
        return [Hypothesis(tuple(tokens.tolist()), float(score)) for score, tokens, real in best if real]


def _drawn(scores: Array, count: int, random: np.random.Generator) -> Array:
    """Places drawn without putting back, by Gumbel noise; the first drawn first."""
    noisy = scores + random.gumbel(size=scores.shape)
    best = np.argpartition(-noisy, count - 1)[:count]
    return best[np.argsort(-noisy[best], kind="stable")]
