"""Results for people, one function for each kind of result, and for programs. Knows nothing of pipelines."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wherry.commands.common import table

BAR = 20
"""Characters of a bar for a score of one."""


def plain(value: Any) -> Any:
    """A result as JSON has it: arrays become lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value


def readable(task: str, given: str, result: Any) -> str:
    """What a task made of one input, for people."""
    return READERS[task](given, result)


def _vectors(given: str, result: Any) -> str:
    vector = result.reshape(-1, result.shape[-1])
    start = ", ".join(f"{value:.4f}" for value in vector[0, :6])
    return f"{given}\n  {' x '.join(map(str, result.shape))} floats: [{start}, ...]"


def _scores(given: str, result: Any) -> str:
    ranked = [result] if isinstance(result, dict) else result
    width = max(20, *(len(each["label"]) for each in ranked))
    lines = [
        f"  {each['label']:<{width}} {each['score']:.4f} {'#' * round(each['score'] * BAR)}".rstrip() for each in ranked
    ]
    return "\n".join([given, *lines])


def _texts(_given: str, result: Any) -> str:
    return "\n".join(str(next(iter(each.values()))) for each in result)


def _entities(given: str, result: Any) -> str:
    if not result:
        return f"{given}\n  nothing found"
    name = "entity" if "entity" in result[0] else "entity_group"
    rows = [["label", "text", "score", "from", "to"]]
    rows += [
        [each[name], given[each["start"] : each["end"]], f"{each['score']:.4f}", str(each["start"]), str(each["end"])]
        for each in result
    ]
    return f"{given}\n{table(rows)}"


READERS: Mapping[str, Callable[[str, Any], str]] = {
    "feature-extraction": _vectors,
    "sentence-embeddings": _vectors,
    "text-classification": _scores,
    "token-classification": _entities,
    "text-generation": _texts,
    "text2text-generation": _texts,
    "summarization": _texts,
    "translation": _texts,
    "image-classification": _scores,
}
