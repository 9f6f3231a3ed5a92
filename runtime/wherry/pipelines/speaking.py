"""What pipelines that speak share: one text, a list of them, or an iterator whose results come as they are ready."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from wherry.errors import InputError

Ids = TypeVar("Ids")
Spoken = dict[str, Any]
"""`{"audio": float32 (samples,), "sampling_rate"}`."""


def each_text(inputs: Any, say: Callable[[list[Ids]], Spoken], ids_of: Callable[[Any], Iterable[Ids]]) -> Any:
    """Say one text, or each of several.

    Args:
        say: what a text's ids sound like.
        ids_of: a text's ids, sentence by sentence; none where there is nothing to say.

    Raises:
        InputError: something that is no text, or nothing to say.
    """

    def said(item: Any, name: str) -> Spoken:
        if not isinstance(item, str | Mapping):
            raise InputError(f"{name} is a {type(item).__name__}, not a str")
        ids = list(ids_of(item))
        if not ids:
            raise InputError(f"{name} has nothing to say: no character of it is known to the voice")
        return say(ids)

    if isinstance(inputs, str | Mapping):
        return said(inputs, "the text")
    if not isinstance(inputs, Iterable):
        raise InputError(f"a text must be a str or a list of str, not {type(inputs).__name__}")
    results = (said(item, f"text {number}") for number, item in enumerate(inputs))
    return list(results) if isinstance(inputs, list | tuple) else results
