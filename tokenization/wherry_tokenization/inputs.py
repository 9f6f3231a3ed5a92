"""Check what callers pass to the tokenizer, and say which element is wrong.

Knows nothing of how text is tokenized.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry_tokenization.errors import TokenizerError

TokenIds = Sequence[int] | NDArray[np.integer[Any]]


def text_columns(texts: Any, pairs: Any) -> list[list[str]]:
    """The texts, and their pairs where there are any, as lists of one length; one text is a batch of one."""
    columns = [_column("texts", texts)]
    if pairs is not None:
        columns.append(_column("pairs", pairs))
        if len(columns[0]) != len(columns[1]):
            raise TokenizerError(f"{len(columns[0])} texts but {len(columns[1])} pairs; pass one pair per text")
    return columns


def _column(name: str, texts: Any) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Sequence | np.ndarray) or isinstance(texts, bytes | bytearray):
        raise TokenizerError(f"{name} is of type {type(texts).__name__}; pass a str or a list of str")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TokenizerError(f"{name}[{position}] is of type {type(text).__name__}; pass a str or a list of str")
    return list(texts)


def refuse_invalid_unicode(columns: Sequence[Sequence[str]]) -> None:
    """Raise for the first text that holds half of a surrogate pair."""
    for name, column in zip(("texts", "pairs"), columns, strict=False):
        for position, text in enumerate(column):
            try:
                text.encode()
            except UnicodeEncodeError as exc:
                raise TokenizerError(
                    f"{name}[{position}] is not valid Unicode: a lone surrogate at character {exc.start};"
                    " decode its bytes with errors='replace'"
                ) from exc


def checked_ids(ids: Any, where: str) -> list[int]:
    """Token ids as a list of Python ints."""
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
            raise TokenizerError(
                f"{where} is an array of shape {ids.shape} and type {ids.dtype}; pass a row of integers"
            )
        values: list[int] = ids.astype(np.int64).tolist()
        return values
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes):
        raise TokenizerError(f"{where} is of type {type(ids).__name__}; pass a list of token ids")
    return [checked_id(token_id, f"{where}[{position}]") for position, token_id in enumerate(ids)]


def checked_id(token_id: Any, where: str) -> int:
    """One token id as a Python int."""
    try:
        return operator.index(token_id)
    except TypeError as exc:
        raise TokenizerError(f"{where} is of type {type(token_id).__name__}, not a token id") from exc
