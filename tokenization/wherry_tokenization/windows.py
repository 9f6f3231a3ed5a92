"""Lay a text that is longer than a model takes out as overlapping windows, each a row of its own.

Knows nothing of text, files or special token names.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry_tokenization.encoding import Encoding, Int64
from wherry_tokenization.errors import TokenizerError


@dataclass(frozen=True, eq=False)
class Windows:
    """One text, in windows that overlap; the arrays are (windows, sequence).

    Attributes:
        encoding: the windows as rows, with offsets; special tokens and a text that stays whole are in each.
        inside: which tokens are of the text that is cut into windows.
        words: which word of that text a token is of, counted from 0; -1 where of none.
    """

    encoding: Encoding
    inside: NDArray[np.bool_]
    words: Int64

    def __len__(self) -> int:
        return len(self.encoding)


def cut_into_windows(encoding: Any, sequence: int, max_length: int, stride: int, side: str, pad: int) -> Windows:
    """Windows over the text number `sequence` of an encoding by the Rust tokenizer.

    Args:
        encoding: of the whole text, or of a pair.
        sequence: 0 or 1.
        max_length: the most tokens of a row.
        stride: how many tokens neighbouring windows share.
        side: where the first window is: at the beginning of the text for `right`, at its end for `left`.
        pad: the id that fills rows that are shorter than the longest.
    """
    belongs = np.array([owner == sequence for owner in encoding.sequence_ids], np.bool_)
    count = int(belongs.sum())
    first = int(belongs.argmax()) if count else len(belongs)
    room = max_length - (len(belongs) - count)
    if count > room and room <= stride:
        raise TokenizerError(
            f"max_length={max_length} leaves {max(room, 0)} tokens for a window, which must be more than "
            f"stride={stride}: raise max_length, or shorten what is in every window"
        )
    before, after = np.arange(first), np.arange(first + count, len(belongs))
    places = [
        np.concatenate([before, np.arange(first + start, first + end), after])
        for start, end in _spans(count, room, stride, side)
    ]
    lengths = np.array([len(row) for row in places])
    rows = np.zeros((len(places), lengths.max()), np.int64)
    for row, own in zip(rows, places, strict=True):
        row[: len(own)] = own
    real = np.arange(rows.shape[1]) < lengths[:, None]

    def spread(values: Any, fill: int) -> Int64:
        return np.where(real, np.asarray(values, np.int64)[rows], fill)

    return Windows(
        encoding=Encoding(
            input_ids=spread(encoding.ids, pad),
            attention_mask=real.astype(np.int64),
            token_type_ids=spread(encoding.type_ids, 0),
            special_tokens_mask=spread(encoding.special_tokens_mask, 1).astype(np.bool_),
            offsets=np.asarray(encoding.offsets, np.int64).reshape(-1, 2)[rows] * real[..., None],
            lengths=lengths,
            truncated=np.zeros(len(places), np.bool_),
        ),
        inside=belongs[rows] & real,
        words=spread([-1 if word is None else word for word in encoding.word_ids], -1),
    )


def _spans(count: int, room: int, stride: int, side: str) -> list[tuple[int, int]]:
    """The first and the last token, exclusive, of each window over `count` tokens."""
    if count <= room:
        return [(0, count)]
    windows = -(-(count - room) // (room - stride)) + 1
    starts = [number * (room - stride) for number in range(windows)]
    if side == "right":
        return [(start, min(start + room, count)) for start in starts]
    return [(max(count - start - room, 0), count - start) for start in starts]
