"""Logits to tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wherry.errors import InputError, SessionError
from wherry.generation.config import GenerationConfig
from wherry.generation.grammar import Constraint
from wherry.generation.processors import Processor, Temperature, TopK, candidates, largest, log_softmax, processors

Array = np.ndarray[Any, Any]

TIES = 14
"""Tokens looked at beyond the likeliest k, for those that are as likely as the last of these count too."""

COLUMNS = 512
"""Of the table that many weights are drawn from."""


@dataclass(frozen=True)
class TokenLogprob:
    """Log-probabilities in the model's own distribution, before any processor.

    Attributes:
        token: the chosen token.
        logprob: its log-probability.
        top: (token, log-probability) of the likeliest tokens, the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Chooser:
    """Chooses a row's tokens one by one, with random numbers of its own: other rows never change what it draws."""

    def __init__(
        self,
        config: GenerationConfig,
        prompt: Sequence[int],
        vocabulary: int,
        index: int = 0,
        constraint: Constraint | None = None,
        further: Sequence[Processor] = (),
    ) -> None:
        """Begin a row.

        Args:
            prompt: its ids so far; those of the decoder where there is an encoder too.
            vocabulary: how many logits a row has.
            constraint: rules out tokens that would break a form.
            index: which of the `num_return_sequences` of this prompt it is; each draws differently.
            further: see `processors`.

        Raises:
            InputError: a token to be favored or forced that the model does not have.
        """
        self.config, self.constraint, self.vocabulary = config, constraint, vocabulary
        self.processors = processors(config, len(prompt), vocabulary, further)
        # The seed that SeedSequence(seed).spawn gives the index-th.
        self.random = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(index,)))
        self.logprobs: list[TokenLogprob] = []
        self.length = len(prompt)
        self.room = np.empty(len(prompt) + min(config.max_new_tokens, 1024), np.int64)
        self.room[: self.length] = prompt

    @property
    def ids(self) -> Array:
        """The prompt and the tokens chosen so far."""
        return self.room[: self.length]

    @property
    def complete(self) -> bool:
        """Whether the row has the form that it must have, and nothing may follow."""
        return self.constraint is not None and self.constraint.complete

    def choose(self, logits: Array) -> int:
        """The next token, from the model's logits: float (vocabulary,), left as they are.

        Raises:
            SessionError: logits that are no numbers.
            InputError: options that rule out every token.
        """
        if self.top is not None:
            logits = np.asarray(logits, np.float32)
            places = candidates(logits, self.top)
            return self._among(places, logits[places])
        token = int(logits.argmax())  # that of one that is no number, if there is any
        self._check(logits.item(token))
        if self.processors or self.config.do_sample or self.constraint is not None:
            token = self._processed(np.array(logits, np.float32))
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.config.logprobs:
            self.logprobs.append(self._logprob(logits, token))
        return self._append(token)

    @cached_property
    def top(self) -> int | None:
        """How many of the likeliest tokens it draws among, whatever the others are; None where all logits count."""
        if self.constraint or self.config.logprobs:
            return None
        behind = self.processors[1:] if isinstance(next(iter(self.processors), None), Temperature) else self.processors
        first = next(iter(behind), None)
        return first.count if isinstance(first, TopK) else None

    @cached_property
    def wanted(self) -> int | None:
        """How many of the likeliest tokens tell the next one nearly always; None where all logits are needed."""
        if self.top is not None:
            return min(self.top + TIES, self.vocabulary)
        plain = not (self.processors or self.config.do_sample or self.config.logprobs or self.constraint)
        return 1 if plain else None

    def pick(self, tokens: Array, logits: Array) -> int | None:
        """The next token from the likeliest ones, `wanted` or more: what `choose` would choose from all.

        Args:
            tokens: (count,) int64, the likeliest first.
            logits: (count,), theirs.

        Returns:
            the token; None, and nothing done, where more tokens may be as likely as the last that counts.

        Raises:
            SessionError: as `choose` does.
        """
        if self.top is None:
            self._check(logits.item(0))
            return self._append(int(tokens[0]))
        last, least = float(logits[min(self.top, self.vocabulary) - 1]), float(logits[-1])
        if len(tokens) < self.vocabulary and last - least <= 1e-6 * abs(last):
            return None
        order = np.argsort(tokens)
        return self._among(tokens[order], logits[order])

    def _among(self, tokens: Array, logits: Array) -> int:
        """Draw among tokens in their order."""
        scores = logits.astype(np.float32)
        self._check(float(scores.max()))
        return self._append(int(tokens[self._processed(scores)]))

    def _check(self, logit: float) -> None:
        if not logit < np.inf and not self.config.remove_invalid_values:
            raise SessionError(
                f"the model gave {logit} for a logit: run it in float32, or pass remove_invalid_values=True"
            )

    def _append(self, token: int) -> int:
        if self.length == self.room.size:
            self.room = np.resize(self.room, 2 * self.room.size)
        self.room[self.length] = token
        self.length += 1
        return token

    def _processed(self, scores: Array) -> int:
        """The place of the chosen one among float32 scores, which are written over."""
        kept = None
        if self.constraint is not None:
            self.constraint.allow(scores)
        with np.errstate(over="ignore", invalid="ignore"):
            for processor in self.processors:
                if isinstance(processor, TopK):
                    kept = processor.kept(scores)
                    scores = scores[kept]
                else:
                    scores = processor(self.ids, scores)
            best = scores.max()
            if not best > -np.inf:
                raise InputError("every token is ruled out: loosen bad_words_ids, suppress_tokens or the like")
            place = self._draw(np.exp(scores - best)) if self.config.do_sample else int(scores.argmax())
        return place if kept is None else int(kept[place])

    def _draw(self, weights: Array) -> int:
        """A column of the weights as a table, then a row: sums over rows are quick."""
        if weights.size <= COLUMNS:
            return self._pick(weights)
        table = np.zeros((-(-weights.size // COLUMNS), COLUMNS), np.float32)
        table.reshape(-1)[: weights.size] = weights
        column = self._pick(table.sum(0))
        return self._pick(table[:, column]) * COLUMNS + column

    def _pick(self, weights: Array) -> int:
        totals = weights.cumsum(dtype=np.float64)
        return int(totals.searchsorted(self.random.random() * totals[-1], side="right"))

    def _logprob(self, logits: Array, token: int) -> TokenLogprob:
        logs = log_softmax(np.asarray(logits, np.float32))
        count = self.config.top_logprobs
        places = largest(logs, count) if count else np.array([], np.int64)
        top = places[np.argsort(-logs[places], kind="stable")[:count]]
        return TokenLogprob(token, float(logs[token]), tuple(zip(top.tolist(), logs[top].tolist(), strict=True)))
