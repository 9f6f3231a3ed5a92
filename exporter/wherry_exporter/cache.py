"""Caches of keys and values: their sizes in a model, their names and axes in a graph."""

from typing import Any

from torch import Tensor

from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import BATCH, PAST, TOTAL

Pairs = list[tuple[Tensor, Tensor]]
"""Key and value of each layer, (batch, heads, sequence, size) each."""


def pairs_of(cache: Any) -> Pairs:
    """The keys and values in a cache of transformers."""
    return [(layer.keys, layer.values) for layer in cache.layers]


def layer_shapes(model: Any, past: Any) -> list[tuple[int, int, int]]:
    """Key/value heads, key size and value size of each layer of a cache that a model gave.

    Raises:
        ExportError: it holds something else.
    """
    layers = getattr(past, "layers", None) or []
    if not layers or not all(isinstance(getattr(layer, "keys", None), Tensor) for layer in layers):
        raise ExportError(f"{type(model).__name__} keeps a state between steps that is not keys and values alone")
    return [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers]


def cache_axes(
    shapes: list[tuple[int, int, int]], kind: str = "", past: str = PAST, present: str = TOTAL
) -> tuple[list[str], dict[str, tuple[int | str, ...]]]:
    """Names of the caches, and their axes as inputs and outputs; `kind` goes between layer and key or value."""
    names: list[str] = []
    axes: dict[str, tuple[int | str, ...]] = {}
    for layer, (heads, *sizes) in enumerate(shapes):
        for part, size in zip(("key", "value"), sizes, strict=True):
            name = f"{layer}.{kind}{part}"
            names.append(name)
            axes[f"past_key_values.{name}"] = (BATCH, heads, past, size)
            axes[f"present.{name}"] = (BATCH, heads, present, size)
    return names, axes
