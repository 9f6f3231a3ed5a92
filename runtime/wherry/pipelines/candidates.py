"""Labels that a caller thinks up, and the sentences they are put into. What every zero-shot pipeline shares."""

from collections.abc import Sequence
from typing import Any

from wherry.errors import InputError
from wherry.pipelines.base import Array, as_texts


def checked_labels(candidate_labels: Any) -> list[str]:
    """Labels as a list; a str holds several between commas.

    Raises:
        InputError: there are none, or others than str.
    """
    if isinstance(candidate_labels, str):
        candidate_labels = [name for part in candidate_labels.split(",") if (name := part.strip())]
    names, _ = as_texts(candidate_labels, what="candidate label")
    if not names or not all(names):
        raise InputError("candidate_labels must name at least one label, and none may be empty")
    return names


def hypotheses(names: Sequence[str], template: str) -> list[str]:
    """The sentence for each label.

    Raises:
        InputError: the template has no place for a label.
    """
    if "{}" not in template:
        raise InputError(f"hypothesis_template has no {{}} where the label goes: {template!r}")
    return [template.replace("{}", name) for name in names]


def best_first(scores: Array, names: Sequence[str]) -> list[dict[str, Any]]:
    """`[{"score", "label"}]` of a score for each label."""
    ranked = sorted(zip(scores, names, strict=True), key=lambda pair: -pair[0])
    return [{"score": float(score), "label": name} for score, name in ranked]
