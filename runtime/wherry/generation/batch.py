"""Sequences that a decoder's graph runs together: what every kind of batch does, and what they share."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from wherry.devices import onnxruntime
from wherry.session import Session

Array = np.ndarray[Any, Any]
Given = Mapping[str, Array]
"""Inputs of a graph by name, a row for each sequence (positions of images: behind their first axis)."""

TOKENS = ("inputs_embeds", "per_layer_inputs", "position_ids", "token_type_ids")
"""Those that tell of a prompt's tokens, and are not given again in later steps."""


class Batch(Protocol):
    """Sequences that are decoded together.

    Attributes:
        rows: how many there are.
        joins: whether rows may be added to others that have tokens of another number already.
        chunks: whether a row's tokens can be read in parts, moved in and out, and cut; those methods work only then.
    """

    rows: int
    joins: bool
    chunks: bool

    def add(self, ids: Array, given: Given | None = None, *, logits: bool = True) -> Array | None:
        """Read (new, length) tokens as new rows, behind those there are; gives (new, vocabulary) logits if wanted.

        `given` is what else the graph takes of each row, such as `encoder_hidden_states` (1, states, size), or is told
        of its tokens: `inputs_embeds` (1, length, size), `per_layer_inputs` (1, length, layers, size), `token_type_ids`
        (1, length), `position_ids` (3, 1, length).
        """

    def extend(self, ids: Array, *, logits: bool = True) -> Array | None:
        """Read (1, length) more tokens of the last row."""

    def step(self, tokens: Sequence[int]) -> Array:
        """Read a token of each of the first rows; gives (tokens, vocabulary) logits, overwritten by the next step."""

    def best(self, tokens: Sequence[int], count: int) -> tuple[Array, Array] | None:
        """Like `step`, where only the likeliest tokens and their logits need to come back, the likeliest first.

        (tokens, count) each. None, and nothing done, where all logits come for nothing.
        """

    def logits(self) -> Array:
        """All logits of the last step, once more, where only the `best` were looked at."""

    def verify(self, tokens: Array) -> Array:
        """Read several tokens of the only row; gives (tokens, vocabulary) logits, behind each of them."""

    def cut(self, row: int, length: int) -> None:
        """Forget a row's tokens from `length` on."""

    def read(self, row: int, length: int) -> list[Array]:
        """A copy of the keys and values of a row's first tokens, (heads, length, size) each."""

    def insert(self, arrays: Sequence[Array]) -> None:
        """Add a row that begins with what `read` gave."""

    def reserve(self, capacity: int) -> None:
        """See to it that rows have room for so many tokens."""

    def keep(self, order: Array, since: int = 0) -> None:
        """Make row `order[i]` row i: drops, moves and repeats rows. All are alike before the token `since`."""


def bind(binding: Any, session: Session, feeds: Mapping[str, Array]) -> None:
    """Bind arrays, as the graph's inputs have them, without a copy where they already are so."""
    for name, array in feeds.items():
        if name in session.inputs:
            given = np.ascontiguousarray(array, dtype=session.inputs[name].dtype)
            binding.bind_ortvalue_input(name, onnxruntime().OrtValue.ortvalue_from_numpy(given))
