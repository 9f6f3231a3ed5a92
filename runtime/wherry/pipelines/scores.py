"""Logits of a classifier as labels and scores, best first. What every pipeline that classifies shares."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.errors import InputError
from wherry.pipelines.base import Array, labels, sigmoid, softmax


def _as_they_are(logits: Array) -> Array:
    return logits


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}


def function(bundle: Bundle, asked: str | None) -> Callable[[Array], Array]:
    """What makes scores of logits: the function asked for, or as transformers decides, by problem type and labels.

    Raises:
        InputError: an unknown function.
    """
    if asked is not None and asked not in FUNCTIONS:
        raise InputError(f"unknown function_to_apply '{asked}': choose one of {', '.join(FUNCTIONS)}")
    count = len(bundle.config.get("id2label") or (0, 1))
    kind = bundle.config.get("problem_type")
    if kind == "regression":
        told = "none"
    elif kind == "multi_label_classification" or count == 1:
        told = "sigmoid"
    else:
        told = "softmax"
    return FUNCTIONS[asked or told]


def checked_count(top_k: int | None) -> int | None:
    """`top_k`, where it makes sense.

    Raises:
        InputError: it is less than 1.
    """
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k must be at least 1, not {top_k}")
    return top_k


def ranked(bundle: Bundle, scores: Array, top_k: int | None) -> list[dict[str, Any]]:
    """The best `top_k` labels, or all, for scores of shape (labels,)."""
    names = labels(bundle, len(scores))
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [{"label": names[index], "score": float(scores[index])} for index in order]
