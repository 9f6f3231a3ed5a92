"""What changes a row's logits before its next token is chosen: transformers' processors, in their order, in numpy.

Each takes the ids so far, int64 (sequence,), and the scores, float32 (vocabulary,), and gives new scores; it may change
those it gets. From `TopK` on none looks at ids or at places in the vocabulary: such a processor may as well get the
scores of some tokens only, if all others are ruled out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.generation.config import GenerationConfig

Array = np.ndarray[Any, Any]
Processor = Callable[[Array, Array], Array]

_NEVER = np.float32(-np.inf)
_MOST = float(np.finfo(np.float32).max)
_FEW = 256  # tokens that nearly always are as likely together as top_p asks


def processors(
    config: GenerationConfig, prompt_length: int, vocabulary: int, further: Sequence[Processor] = ()
) -> tuple[Processor, ...]:
    """Those that a configuration needs, in the order of transformers' generate.

    Args:
        prompt_length: how many ids a row has before its first new token.
        vocabulary: how many logits a row has.
        further: those of a caller; they come before those of drawing.

    Raises:
        InputError: a token to be favored or forced that the model does not have.
    """
    found: list[Processor] = []
    ends = _places(config.eos_token_ids, vocabulary)
    if config.sequence_bias:
        found.append(SequenceBias.of(config.sequence_bias, "sequence_bias", vocabulary))
    if config.repetition_penalty != 1:
        found.append(RepetitionPenalty(config.repetition_penalty))
    if config.frequency_penalty or config.presence_penalty:
        found.append(FrequencyPenalty(config.frequency_penalty, config.presence_penalty, prompt_length))
    if config.logit_bias:
        biases: dict[tuple[int, ...], float] = {(token,): bias for token, bias in config.logit_bias.items()}
        found.append(SequenceBias.of(biases, "logit_bias", vocabulary))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGram(config.no_repeat_ngram_size))
    words = [word for word in config.bad_words_ids if len(word) > 1 or word[0] not in config.eos_token_ids]
    if words:
        found.append(SequenceBias.of(dict.fromkeys(words, -np.inf), "bad_words_ids", vocabulary))
    new = config.min_new_tokens
    least = config.min_length if new is None else prompt_length + new
    if least > prompt_length and len(ends):
        found.append(MinLength(least, ends))
    if config.forced_bos_token_id is not None:
        _check("forced_bos_token_id", (config.forced_bos_token_id,), vocabulary)
        found.append(Forced(1, np.array([config.forced_bos_token_id])))
    if config.forced_eos_token_id:
        _check("forced_eos_token_id", config.forced_eos_token_id, vocabulary)
        most = prompt_length + config.max_new_tokens
        most = most if config.max_length is None else min(most, config.max_length)
        found.append(Forced(most - 1, np.array(config.forced_eos_token_id)))
    if config.remove_invalid_values:
        found.append(RemoveInvalid())
    if config.exponential_decay_length_penalty is not None and len(ends):
        start, factor = config.exponential_decay_length_penalty
        found.append(ExponentialDecay(prompt_length + start, factor, ends))
    if config.suppress_tokens:
        found.append(Suppress(_places(config.suppress_tokens, vocabulary)))
    if config.begin_suppress_tokens:
        begin = prompt_length if prompt_length > 1 or config.forced_bos_token_id is None else prompt_length + 1
        found.append(SuppressAtBegin(begin, _places(config.begin_suppress_tokens, vocabulary)))
    found += further
    if config.do_sample:
        found += _warpers(config)
    if config.renormalize_logits:
        found.append(Renormalize())
    return tuple(found)


def _warpers(config: GenerationConfig) -> list[Processor]:
    """Those of drawing; a beam search needs more than the tokens that end a row."""
    keep = 1 if config.num_beams == 1 else max(2, len(config.eos_token_ids) + 1)
    found: list[Processor] = []
    if config.temperature != 1:
        found.append(Temperature(config.temperature))
    if config.top_k:
        found.append(TopK(max(config.top_k, keep)))
    if config.top_p < 1:
        found.append(TopP(config.top_p, keep))
    if config.min_p is not None:
        found.append(MinP(config.min_p, keep))
    if config.typical_p < 1:
        found.append(Typical(config.typical_p, keep))
    if config.epsilon_cutoff:
        found.append(EpsilonCutoff(config.epsilon_cutoff, keep))
    if config.eta_cutoff:
        found.append(EtaCutoff(config.eta_cutoff, keep))
    return found


def largest(scores: Array, count: int) -> Array:
    """Where the `count` largest are, in the order of their places; all that are as large as the last of them too."""
    places = candidates(scores, count)
    found, count = scores[places], min(count, places.size)
    chosen: Array = places[~(found < np.partition(found, -count)[-count])]
    return chosen


def candidates(scores: Array, count: int) -> Array:
    """Where the `count` largest are, and few others, in the order of their places.

    All are there that rounding could make as large as the last of them, and those that are no numbers.
    """
    columns = max(8 * count, 512)
    rows = scores.size // columns
    if rows < 2:
        return np.arange(scores.size)
    # The largest of each column bound the rest from below, and few scores reach that bound.
    bests = scores[: rows * columns].reshape(rows, columns).max(0)
    bests.partition(-count)
    bound = bests.item(-count)
    places: Array = (~(scores < bound - 1e-6 * abs(bound))).nonzero()[0]
    return places


def log_softmax(scores: Array) -> Array:
    """Log-probabilities, float32."""
    shifted: Array = scores - scores.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


@dataclass(frozen=True, eq=False)
class SequenceBias:
    """Adds to the logits of tokens that would complete a sequence; with -inf they never come."""

    singles: tuple[Array, Array]  # tokens that are a sequence by themselves, and biases
    longer: tuple[tuple[Array, Array, Array], ...]  # for each length: the tokens before the last, the last, and biases

    @classmethod
    def of(cls, biases: Mapping[tuple[int, ...], float], name: str, vocabulary: int) -> "SequenceBias":
        """From a mapping; `name` is that of the option, for the error about a token that does not exist."""
        _check(name, [token for sequence in biases for token in sequence], vocabulary)
        groups: dict[int, list[tuple[tuple[int, ...], float]]] = {1: []}
        for sequence, bias in biases.items():
            groups.setdefault(len(sequence), []).append((sequence, bias))
        parts = [
            (np.array([sequence for sequence, _ in group], np.int64).reshape(-1, length), _float32(group))
            for length, group in groups.items()
        ]
        (singles, single_biases), *longer = parts
        return cls((singles[:, 0], single_biases), tuple((ids[:, :-1], ids[:, -1], added) for ids, added in longer))

    def __call__(self, ids: Array, scores: Array) -> Array:
        found = [self.singles]
        for before, last, biases in self.longer:
            if before.shape[1] <= ids.size:
                matches = (before == ids[ids.size - before.shape[1] :]).all(1)
                found.append((last[matches], biases[matches]))
        tokens, places = np.unique(np.concatenate([each for each, _ in found]), return_inverse=True)
        total = np.zeros(tokens.size, np.float32)
        np.add.at(total, places, np.concatenate([biases for _, biases in found]))
        scores[tokens] += total
        return scores


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that are there already less likely, the prompt's too."""

    penalty: float

    def __call__(self, ids: Array, scores: Array) -> Array:
        ids = ids[ids < scores.size]
        found = scores[ids]
        scores[ids] = np.where(found < 0, found * self.penalty, found / self.penalty)
        return scores


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts from new tokens that are there already, for each time and once: OpenAI's two penalties."""

    frequency: float
    presence: float
    prompt_length: int

    def __call__(self, ids: Array, scores: Array) -> Array:
        tokens, counts = np.unique(ids[self.prompt_length :], return_counts=True)
        scores[tokens] -= (counts * self.frequency + self.presence).astype(np.float32)
        return scores


@dataclass(frozen=True)
class NoRepeatNGram:
    """No token that would repeat a sequence of `size` tokens."""

    size: int

    def __call__(self, ids: Array, scores: Array) -> Array:
        starts = ids.size - self.size + 1  # where a whole sequence starts, the first of those that are not
        matches = np.arange(max(starts, 0))
        for offset in reversed(range(self.size - 1)):
            matches = matches[ids[matches + offset] == ids[starts + offset]]
        banned = ids[matches + self.size - 1]
        scores[banned[banned < scores.size]] = _NEVER
        return scores


@dataclass(frozen=True, eq=False)
class MinLength:
    """No end before there are `length` tokens."""

    length: int
    ends: Array

    def __call__(self, ids: Array, scores: Array) -> Array:
        if ids.size < self.length:
            scores[self.ends] = _NEVER
        return scores


@dataclass(frozen=True, eq=False)
class Forced:
    """One of these tokens and no other after `length` tokens."""

    length: int
    tokens: Array

    def __call__(self, ids: Array, scores: Array) -> Array:
        if ids.size == self.length:
            scores[:] = _NEVER
            scores[self.tokens] = 0
        return scores


@dataclass(frozen=True)
class RemoveInvalid:
    """Zero for what is no number, the greatest number for what is infinite."""

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        np.nan_to_num(scores, copy=False, nan=0.0, posinf=_MOST, neginf=-_MOST)
        return scores


@dataclass(frozen=True, eq=False)
class ExponentialDecay:
    """Makes an end likelier with each token after `start`."""

    start: int
    factor: float
    ends: Array

    def __call__(self, ids: Array, scores: Array) -> Array:
        if ids.size > self.start:
            found = scores[self.ends]
            added = np.abs(found) * np.float32(self.factor ** (ids.size - self.start) - 1)
            scores[self.ends] = found + np.where(np.isfinite(found), added, 0)
        return scores


@dataclass(frozen=True, eq=False)
class Suppress:
    """Tokens that never come."""

    tokens: Array

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        scores[self.tokens] = _NEVER
        return scores


@dataclass(frozen=True, eq=False)
class SuppressAtBegin:
    """Tokens that do not come right after `length` tokens."""

    length: int
    tokens: Array

    def __call__(self, ids: Array, scores: Array) -> Array:
        if ids.size == self.length:
            scores[self.tokens] = _NEVER
        return scores


@dataclass(frozen=True)
class Temperature:
    """Divides the scores: below 1 makes likely tokens likelier."""

    temperature: float

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        scores /= self.temperature
        return np.minimum(scores, _MOST, out=scores)


@dataclass(frozen=True)
class TopK:
    """Keeps the k likeliest tokens, and those as likely as the last of them."""

    count: int

    def kept(self, scores: Array) -> Array:
        """Which tokens stay, in their order."""
        return largest(scores, self.count)

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        kept = self.kept(scores)
        found = scores[kept]
        scores[:] = _NEVER
        scores[kept] = found
        return scores


@dataclass(frozen=True)
class TopP:
    """Keeps the likeliest tokens that together reach a probability; of equal ones those that come first."""

    share: float
    keep: int

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        best = scores.max()
        total = np.exp(scores - best).sum(dtype=np.float64)
        limit = np.float32(1 - self.share)
        # Where all but few are together too unlikely to stay, only those few need to be in order.
        few, before = max(_FEW, self.keep), np.inf
        while before > limit:
            found = scores[candidates(scores, few)]
            few, before = 8 * few, 1 - np.exp(found - best).sum(dtype=np.float64) / total
        ranked = np.sort(found)
        shares = np.exp(ranked - best) / np.float32(total)
        reached = (before + shares.cumsum(dtype=np.float64)).astype(np.float32)
        removed = max(0, min(int(reached.searchsorted(limit, side="right")), ranked.size - self.keep))
        cut = ranked[removed]
        scores[scores < cut] = _NEVER
        if removed and ranked[removed - 1] == cut:
            surplus = int(np.count_nonzero(ranked[:removed] == cut))
            scores[np.flatnonzero(scores == cut)[-surplus:]] = _NEVER
        return scores


@dataclass(frozen=True)
class MinP:
    """Keeps tokens that are at least `share` times as likely as the likeliest."""

    share: float
    keep: int

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        chances = _softmax(scores)
        removed = chances < np.float32(self.share) * chances.max()
        removed[_first(-chances, self.keep)] = False
        scores[removed] = _NEVER
        return scores


@dataclass(frozen=True)
class Typical:
    """Keeps the tokens whose surprise is nearest to the expected one and that together reach a probability."""

    share: float
    keep: int

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        logs = log_softmax(scores)
        chances = np.exp(logs)
        distances = np.abs(logs + _entropy(logs, chances))
        order = np.argsort(distances)
        reached = chances[order].cumsum(dtype=np.float64).astype(np.float32)
        last = min(int(np.count_nonzero(reached < np.float32(self.share))), scores.size - 1)
        removed = distances > distances[order[last]]
        removed[_first(distances, self.keep)] = False
        scores[removed] = _NEVER
        return scores


@dataclass(frozen=True)
class EpsilonCutoff:
    """Keeps tokens that are at least so likely."""

    cutoff: float
    keep: int

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        return _cut(scores, _softmax(scores), np.float32(self.cutoff), self.keep)


@dataclass(frozen=True)
class EtaCutoff:
    """As EpsilonCutoff, with less where the distribution is flat."""

    cutoff: float
    keep: int

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        logs = log_softmax(scores)
        chances = np.exp(logs)
        eta = min(self.cutoff, np.sqrt(self.cutoff) * np.exp(-_entropy(logs, chances)))
        return _cut(scores, chances, np.float32(eta), self.keep)


@dataclass(frozen=True)
class Renormalize:
    """Log-probabilities of what is left."""

    def __call__(self, ids: Array, scores: Array) -> Array:  # noqa: ARG002
        return log_softmax(scores)


def _softmax(scores: Array) -> Array:
    chances: Array = np.exp(scores - scores.max())
    chances /= np.float32(chances.sum(dtype=np.float64))
    return chances


def _entropy(logs: Array, chances: Array) -> np.float32:
    return np.float32(-(np.maximum(logs, -_MOST) * chances).sum(dtype=np.float64))


def _cut(scores: Array, chances: Array, cutoff: np.float32, keep: int) -> Array:
    removed = chances < cutoff
    removed[largest(scores, keep)] = False
    scores[removed] = _NEVER
    return scores


def _first(values: Array, count: int) -> Array:
    """Where the `count` smallest are; of equal ones those that come first."""
    places = largest(-values, count)
    first: Array = places[np.argsort(values[places], kind="stable")[:count]]
    return first


def _places(tokens: Sequence[int], vocabulary: int) -> Array:
    return np.array([token for token in tokens if token < vocabulary], np.int64)


def _float32(group: list[tuple[tuple[int, ...], float]]) -> Array:
    return np.array([bias for _, bias in group], np.float32)


def _check(name: str, tokens: Sequence[int], vocabulary: int) -> None:
    if tokens and max(tokens) >= vocabulary:
        raise InputError(f"{name} has token {max(tokens)}, but the model's tokens are 0 to {vocabulary - 1}")
