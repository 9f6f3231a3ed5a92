"""Keys and values of the beginnings of texts, kept for prompts that begin alike: a system prompt is read once."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class PrefixCache:
    """A bounded store; what was not asked for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self.entries: OrderedDict[bytes, tuple[Array, list[Array]]] = OrderedDict()

    def find(self, prompt: Array) -> list[Array] | None:
        """Keys and values of the longest known beginning of a prompt, but for its last token, which is always read.

        Returns:
            one (heads, length, size) array for each key and value of each layer; None where nothing is known.
        """
        best, length = b"", 0
        for key, (ids, _) in self.entries.items():
            common = _common(ids, prompt[:-1])
            if common > length:
                best, length = key, common
        if not length:
            return None
        self.entries.move_to_end(best)
        return [array[:, :length] for array in self.entries[best][1]]

    def add(self, ids: Array, arrays: Sequence[Array]) -> None:
        """Keep what belongs to tokens, in place of what is known of their beginning."""
        size = sum(array.nbytes for array in arrays)
        if size > self.max_bytes:
            return
        for key, (known, _) in list(self.entries.items()):
            common = _common(known, ids)
            if common == len(known):
                self._forget(key)
            elif common == len(ids):
                return  # a longer text that begins with these is there
        while self.bytes + size > self.max_bytes:
            self._forget(next(iter(self.entries)))
        self.entries[ids.tobytes()] = (ids.copy(), list(arrays))
        self.bytes += size

    def _forget(self, key: bytes) -> None:
        _, arrays = self.entries.pop(key)
        self.bytes -= sum(array.nbytes for array in arrays)


def _common(one: Array, other: Array) -> int:
    """How many tokens two texts have in common at their beginning."""
    size = min(len(one), len(other))
    unlike = np.flatnonzero(one[:size] != other[:size])
    return int(unlike[0]) if len(unlike) else size
