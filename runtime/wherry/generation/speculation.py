"""Guesses of the tokens to come: what followed the same tokens earlier in the text (prompt lookup decoding).

Source: https://github.com/apoorvumang/prompt-lookup-decoding
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LONGEST = 3
"""Tokens at the end that are looked for, as many as are found."""


def lookup(ids: Array, count: int) -> Array:
    """The tokens, `count` at most, that came after the latest place where the last ones stood before.

    Args:
        ids: (sequence,) int64.

    Returns:
        (up to count,) int64; none where even the last token is new.
    """
    for size in range(min(LONGEST, len(ids) - 1), 0, -1):
        last = ids[-size:]
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
        places = np.flatnonzero((windows == last).all(1))
        if len(places):
            after = int(places[-1]) + size
            return ids[after : after + count]
    return ids[:0]
