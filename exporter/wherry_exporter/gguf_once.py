"""GGUF files read once: transformers reads all that one tells four times, through slices of a mapped file."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """One that slices a plain array, which takes less than half the time of slicing numpy's mapped one."""

    @property
    def data(self) -> Any:
        return self._data

    @data.setter
    def data(self, mapped: Any) -> None:
        self._data = np.asarray(mapped)


@contextmanager
def read_once() -> Iterator[None]:
    """Let transformers, which asks gguf for its reader and for tensors' names anew, find ones that remember."""
    names = cache(gguf.get_tensor_name_map)
    with patch.object(gguf, "GGUFReader", cache(_Reader)), patch.object(gguf, "get_tensor_name_map", names):
        yield
