"""Tokenize the beginnings of long texts, where what is left off cannot change the tokens that are kept.

Knows nothing of special tokens or padding.
"""

from collections.abc import Callable, Sequence
from typing import Any

_CHARACTERS_PER_TOKEN = 6
_FEWEST_CHARACTERS, _MOST_CHARACTERS = 1_024, 262_144
_SETTLED_TOKENS = 128
"""This many tokens past the last kept one put the cut out of its reach, even inside one word. They are more than
the 100 characters up to which WordPiece splits a word, so a longer word is never taken for a shorter one."""

Row = tuple[str, ...]


def encode_beginnings(
    rows: Sequence[Row], room: int, encode: Callable[[Sequence[Row]], list[Any]]
) -> tuple[list[Row], list[Any]]:
    """Encode as much of each text as decides its first `room` tokens.

    Most texts need one pass. What turns out to have fewer tokens for its characters, such as long runs of spaces, is
    encoded again, with four times as many each time, until `_MOST_CHARACTERS` bound the work.

    Returns:
        the rows as far as they were encoded, and their encodings.
    """
    size = max(_CHARACTERS_PER_TOKEN * (room + _SETTLED_TOKENS), _FEWEST_CHARACTERS)
    begun, encodings = [tuple(text[:size] for text in row) for row in rows], [None] * len(rows)
    unsettled = list(range(len(rows)))
    while unsettled:
        for at, encoding in zip(unsettled, encode([begun[at] for at in unsettled]), strict=True):
            encodings[at] = encoding
        if size >= _MOST_CHARACTERS:
            break
        unsettled = [at for at in unsettled if not _is_settled(rows[at], size, encodings[at], room)]
        size = min(4 * size, _MOST_CHARACTERS)
        for at in unsettled:
            begun[at] = tuple(text[:size] for text in rows[at])
    return begun, encodings


def _is_settled(row: Row, size: int, encoding: Any, room: int) -> bool:
    if max(map(len, row)) <= size:
        return True
    owners = encoding.sequence_ids
    return all(len(text) <= size or owners.count(number) >= room + _SETTLED_TOKENS for number, text in enumerate(row))
