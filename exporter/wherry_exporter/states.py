"""What a decoder keeps between its steps: keys and values, which grow with every token, and states, which do not.

One that keeps nothing of its own can be given the tokens so far. Seen by running the model; knows no architecture.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import BATCH, PAST, TOTAL, parameters_of

NAMES = {
    "keys": ("past_key_values.{}.key", "present.{}.key"),
    "values": ("past_key_values.{}.value", "present.{}.value"),
    "conv_states": ("past_conv.{}", "present_conv.{}"),
    "recurrent_states": ("past_recurrent.{}", "present_recurrent.{}"),
}
"""Fields of a layer of transformers' caches, and what they are as inputs and outputs of a graph."""
DIGITS = (65536, 256, 1)
"""What the digits of a token count, each of which is exact in every type of float."""


@dataclass(frozen=True)
class Kept:
    """One tensor that a layer keeps.

    Attributes:
        past: its name as an input of the graph.
        present: its name as an output.
        layer: which layer keeps it.
        field: under which name.
        index: its key, where that is a dictionary.
        shape: of one row; None for the axis that grows.
    """

    past: str
    present: str
    layer: int
    field: str
    index: int | None
    shape: tuple[int | None, ...]

    @property
    def grows(self) -> bool:
        return None in self.shape

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """The names of its axes as an input and as an output."""
        return {
            name: (BATCH, *(length if size is None else size for size in self.shape))
            for name, length in ((self.past, PAST), (self.present, TOTAL))
        }


class Keeping:
    """What is kept, as a list of tensors.

    Attributes:
        kept: what each of them is.
    """

    kept: Sequence[Kept]

    def zeros(self, batch: int, length: int) -> list[Tensor]:
        """What is kept after that many tokens, in zeros."""
        return [torch.zeros(batch, *(length if size is None else size for size in kept.shape)) for kept in self.kept]

    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """Names of the axes of all inputs and outputs."""
        return {name: axes for kept in self.kept for name, axes in kept.axes().items()}


class States(Keeping):
    """What one model keeps, layer by layer.

    Attributes:
        argument: by which name the model takes its cache.
    """

    def __init__(self, model: Any) -> None:
        """Run the model.

        Raises:
            ExportError: the model keeps nothing, or nothing that can be told.
        """
        with torch.no_grad():
            output = model(input_ids=torch.ones(1, 2, dtype=torch.int64), use_cache=True)
        self.argument, self.cache = cache_of(model, output)
        if self.cache is None:
            raise ExportError(f"{type(model).__name__} keeps no cache between steps that its forward gives and takes")
        self.kept = [kept for number, layer in enumerate(self.cache.layers) for kept in _kept_by(number, layer)]
        if not self.kept:
            raise ExportError(f"{type(model).__name__} keeps no tensors in the layers of its cache")

    @property
    def grows(self) -> bool:
        """Whether all that is kept are keys and values."""
        return all(kept.grows for kept in self.kept)

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """The model's cache after some tokens, with these tensors in it."""
        cache = copy(self.cache)
        cache.layers = [_fresh(layer) for layer in self.cache.layers]
        for kept, tensor in zip(self.kept, tensors, strict=True):
            layer = cache.layers[kept.layer]
            if kept.index is None:
                setattr(layer, kept.field, tensor)
            else:
                getattr(layer, kept.field)[kept.index] = tensor.clone()  # states are written in place
        return cache

    def tensors(self, cache: Any) -> list[Tensor]:
        """What is kept in a cache."""
        found = []
        for kept in self.kept:
            value = getattr(cache.layers[kept.layer], kept.field)
            found.append(value if kept.index is None else value[kept.index])
        return found


class Reading(Keeping):
    """The tokens so far, as a list of one tensor, for a model that reads all of them again in every step."""

    def __init__(self) -> None:
        self.kept = [Kept("past_tokens", "present_tokens", 0, "", None, (1, None, len(DIGITS)))]

    def ids(self, tensors: Sequence[Tensor]) -> Tensor:
        """The tokens that were kept, (batch, tokens)."""
        return (tensors[0][:, 0].to(torch.int64) * torch.tensor(DIGITS)).sum(-1)

    def tensors(self, ids: Tensor) -> list[Tensor]:
        """Tokens to be kept."""
        digits = [ids.div(count, rounding_mode="floor").remainder(256) for count in DIGITS]
        return [torch.stack(digits, -1)[:, None].to(torch.float32)]


def cache_of(model: Any, output: Any) -> tuple[str, Any]:
    """A model's cache in what it gives, and by which name it takes it; nothing where it keeps none."""
    takes = parameters_of(model)
    caches = ((name, value) for name, value in output.items() if name in takes and hasattr(value, "layers"))
    return next(caches, ("", None))


def _kept_by(number: int, layer: Any) -> Iterator[Kept]:
    for field, (past, present) in NAMES.items():
        value = getattr(layer, field, None)
        if isinstance(value, Tensor):
            heads, _, size = value.shape[1:]
            yield Kept(past.format(number), present.format(number), number, field, None, (heads, None, size))
        elif isinstance(value, dict):
            for index, tensor in value.items():
                name = f"{number}.{index}" if index else str(number)
                if tensor is not None:
                    shape = tuple(tensor.shape[1:])
                    yield Kept(past.format(name), present.format(name), number, field, index, shape)


def _fresh(layer: Any) -> Any:
    """A layer to be filled. One that would forget keys beyond its window keeps them all: the mask hides them."""
    if isinstance(layer, LinearAttentionLayer):
        made = copy(layer)
        made.conv_states, made.recurrent_states = dict(layer.conv_states), dict(layer.recurrent_states)
        return made
    if isinstance(layer, DynamicLayer) and layer.is_initialized:
        plain = DynamicLayer()
        plain.dtype, plain.device, plain.is_initialized = layer.dtype, layer.device, True
        return plain
    return copy(layer)
