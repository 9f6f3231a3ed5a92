"""Turn the encodings of the Rust tokenizer into padded int64 arrays.

Knows nothing of text, files or special token names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry_tokenization.errors import TokenizerError

Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Encoding:
    """A batch of texts as arrays; every array but the last two is (batch, sequence).

    `offsets`, where asked for, is (batch, sequence, 2): the characters of the text each token stands for.
    `lengths` counts the real tokens of each row; `truncated` marks the rows that lost some of their text.
    """

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64
    special_tokens_mask: NDArray[np.bool_]
    offsets: Int64 | None
    lengths: Int64
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Int64, length: int) -> "Encoding":
        """Some of the rows, and of those the first `length` columns."""
        return Encoding(
            input_ids=self.input_ids[rows, :length],
            attention_mask=self.attention_mask[rows, :length],
            token_type_ids=self.token_type_ids[rows, :length],
            special_tokens_mask=self.special_tokens_mask[rows, :length],
            offsets=None if self.offsets is None else self.offsets[rows, :length],
            lengths=self.lengths[rows],
            truncated=self.truncated[rows],
        )


@dataclass(frozen=True)
class Padding:
    """How rows of unequal length become one array."""

    side: str
    token_id: int
    width: int | None
    multiple_of: int | None


@dataclass(frozen=True)
class Frame:
    """How many special tokens stand before and after a text by itself, where all have type 0."""

    before: int
    after: int


def frame_of(encoding: Any) -> Frame | None:
    """The frame that an encoding of a text by itself shows; None where it shows none, or types other than 0."""
    owners = encoding.sequence_ids
    if 0 not in owners or any(encoding.type_ids):
        return None
    before = owners.index(0)
    return Frame(before, len(owners) - before - owners.count(0))


def assemble(
    encodings: Sequence[Any],
    kept: Sequence[list[int] | None],
    truncated: Sequence[bool],
    padding: Padding,
    frame: Frame | None,
    *,
    offsets: bool,
) -> Encoding:
    """Lay the encodings out as arrays.

    `kept` names, per row, the tokens to keep; None keeps all. With a `frame` rows need not be asked what is special.
    """

    def rows(name: str) -> list[list[Any]]:
        values = [getattr(encoding, name) for encoding in encodings]
        return [row if keep is None else [row[i] for i in keep] for row, keep in zip(values, kept, strict=True)]

    def spread(values: Iterable[int], fill: int) -> Int64:
        array = np.full((len(ids), width), fill, np.int64)
        array[real] = np.fromiter(values, np.int64, total)
        return array

    ids = rows("ids")
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    total = int(lengths.sum())
    width = max(int(lengths.max(initial=0)), padding.width or 0)
    if padding.multiple_of:
        width = -(-width // padding.multiple_of) * padding.multiple_of
    columns, ends = np.arange(width), lengths[:, None]
    if padding.side == "left":
        columns = columns - (width - ends)
    real = (columns >= 0) & (columns < ends)
    if frame is None:
        types = spread(chain.from_iterable(rows("type_ids")), 0)
        special = spread(chain.from_iterable(rows("special_tokens_mask")), 1).astype(np.bool_)
    else:
        types = np.zeros(real.shape, np.int64)
        special = (columns < frame.before) | (columns >= ends - frame.after)
    spans = None
    if offsets:
        spans = np.zeros((len(ids), width, 2), np.int64)
        pairs = chain.from_iterable(chain.from_iterable(rows("offsets")))
        spans[real] = np.fromiter(pairs, np.int64, 2 * total).reshape(total, 2)
    return Encoding(
        input_ids=spread(chain.from_iterable(ids), padding.token_id),
        attention_mask=real.astype(np.int64),
        token_type_ids=types,
        special_tokens_mask=special,
        offsets=spans,
        lengths=lengths,
        truncated=np.array(truncated, np.bool_),
    )


def kept_tokens(encoding: Any, limit: int, side: str, strategy: str, row: int) -> list[int] | None:
    """The positions that stay when a row is cut to `limit` tokens by a strategy; None where all stay.

    Special tokens stay, so `limit` must leave room for them.
    """
    if len(encoding) <= limit:
        return None
    sequence_of = encoding.sequence_ids
    first = [i for i, sequence in enumerate(sequence_of) if sequence == 0]
    second = [i for i, sequence in enumerate(sequence_of) if sequence == 1]
    special = [i for i, sequence in enumerate(sequence_of) if sequence is None]
    keep_first, keep_second = len(first), len(second)
    if strategy == "longest_first":
        keep_first, keep_second = _longest_first(len(first), len(second), limit - len(special))
    elif strategy == "only_first":
        keep_first = limit - len(special) - len(second)
    else:
        keep_second = limit - len(special) - len(first)
    if min(keep_first, keep_second) < 0:
        raise TokenizerError(
            f"row {row} has {len(encoding)} tokens, and truncation={strategy!r} cannot bring it down to {limit}; "
            "shorten the text that stays whole"
        )
    if side == "left":
        return sorted(special + first[len(first) - keep_first :] + second[len(second) - keep_second :])
    return sorted(special + first[:keep_first] + second[:keep_second])


def refuse_longer(encodings: Sequence[Any], limit: int) -> None:
    """Raise for the first row of more than `limit` tokens."""
    for row, encoding in enumerate(encodings):
        if len(encoding) > limit:
            raise TokenizerError(
                f"row {row} has {len(encoding)} tokens, but the limit is {limit}; shorten the text or allow truncation"
            )


def refuse_padded(encoding: Encoding) -> None:
    """Raise where the rows are not all as wide as the array."""
    width = encoding.input_ids.shape[1]
    if (encoding.lengths != width).any():
        shortest = int(encoding.lengths.min())
        raise TokenizerError(f"rows of {shortest} to {width} tokens make no array; encode with padding=True")


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text stay, by the same rule as the tokenizers library."""
    if second == 0:
        return min(first, room), 0
    shorter = min(first, second)
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room // 2 + room % 2
    return (shorter, longer) if first <= second else (longer, shorter)
