"""How right answers are: accuracy, F1 of entities, word error rate, perplexity, as sums over rows. Knows no model."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Metric:
    """One figure made of counts that add up over rows.

    Attributes:
        name: as reports have it.
        value: of the summed counts.
        worsened: by how much a figure is worse than another: (reference, value) to the loss, at best 0 or below.
    """

    name: str
    value: Callable[[Array], float]
    worsened: Callable[[float, float], float]


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", lambda counts: _share(counts[0], counts[1]), lambda reference, value: reference - value),
        Metric(
            "f1",
            lambda counts: _share(2 * counts[0], counts[:3].sum() + counts[0]),
            lambda reference, value: reference - value,
        ),
        Metric("wer", lambda counts: _share(counts[0], counts[1]), lambda reference, value: value - reference),
        Metric(
            "perplexity",
            lambda counts: math.exp(_share(counts[0], counts[1])),
            lambda reference, value: value / reference - 1,
        ),
    )
}
"""Counts: (right, rows); (right, wrong and missed entities); (errors, words); (negative log-likelihood, tokens).

Perplexity is worsened by a share of itself, the others by their difference.
"""


def surprise(logits: Array, tokens: Array) -> Array:
    """Counts for perplexity: logits (n, vocabulary) for the tokens (n,) that came."""
    scores = logits.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    chosen = scores[np.arange(len(scores)), tokens]
    return np.array([(np.log(np.exp(scores).sum(-1)) - chosen).sum(), len(tokens)])


def word_errors(expected: str, found: str) -> Array:
    """Counts for the word error rate: insertions, deletions and substitutions; case and punctuation do not count."""
    wanted, given = words(expected), words(found)
    row = list(range(len(given) + 1))
    for number, word in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for at, other in enumerate(given, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (word != other))
    return np.array([row[-1], len(wanted)])


def words(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return re.sub(r"[^\w\s']|_", " ", text.lower()).split()


def entity_counts(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> Array:
    """Counts for F1: entities are the same where start, end and label are."""
    wanted, given = ({(each["start"], each["end"], each["label"]) for each in spans} for spans in (expected, found))
    both = len(wanted & given)
    return np.array([both, len(given) - both, len(wanted) - both])


def entities(text: str, offsets: Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Spans of neighbouring tokens with one label, whether it is marked B- and I- or not; `O` is none.

    Args:
        text: what the offsets point into.
        offsets: int64 (tokens, 2), characters; a token of no characters is none of the text.
        labels: of each token.
    """
    spans: list[dict[str, Any]] = []
    last = None
    for (start, end), label in zip(offsets.tolist(), labels, strict=True):
        if start == end:
            continue
        kind = label[2:] if label.startswith(("B-", "I-")) else label
        joined = spans and last == kind and (not label.startswith("B-") or text[start - 1 : start].isalnum())
        if kind == "O":
            last = None
            continue
        if joined:
            spans[-1]["end"] = end
        else:
            spans.append({"start": start, "end": end, "label": kind})
        last = kind
    return spans
