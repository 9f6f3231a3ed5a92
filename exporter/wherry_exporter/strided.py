"""Positions of Funnel's kind, of tokens whose number is halved from block to block, as a trace has them.

The model reckons them with Python's lists, which fix a length. Those positions are as far from each other in all of a
block, so where they begin, how far they are apart and how many there are says the same of any length. Knows no
architecture, but what its methods are called.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn


@contextmanager
def strided_positions(model: nn.Module) -> Iterator[None]:
    """For the time of a trace, swap the method that gives positions, where they are relative ones."""
    with ExitStack() as stack:
        for module in model.modules():
            structure: Any = getattr(module, "attention_structure", None)
            if hasattr(structure, "stride_pool_pos") and structure.config.attention_type == "relative_shift":
                stack.enter_context(patch.object(structure, "get_position_embeds", partial(_positions, structure)))
        yield


@dataclass(frozen=True)
class _Places:
    """Positions as far from each other.

    Attributes:
        first: the first one.
        step: how far they are apart.
        count: how many there are.
    """

    first: int
    step: int
    count: Any

    def pooled(self, *, apart: bool, truncated: bool) -> "_Places":
        """Every second one; with the first `apart`, a new one before them, and the last cut off if `truncated`."""
        if not apart:
            return _Places(self.first, 2 * self.step, (self.count + 1) // 2)
        return _Places(1 - 2 * self.step, 2 * self.step, (self.count - int(truncated)) // 2 + 1)

    def distances(self, other: "_Places", shift: int) -> Tensor:
        """From these to the `other` ones, the largest first, as the model has them."""
        start = other.first - self.first
        most = start + shift * other.count * self.step
        least = other.first - self.first - self.step * (self.count - 1)
        found: Tensor = most - self.step * torch.arange((most - least) // self.step + 1)
        return found


def _positions(module: Any, length: Any, dtype: torch.dtype, device: torch.device) -> list[list[Tensor | None]]:
    """Sines and cosines (distances, size) for each block: of its tokens among each other, and to those before it."""
    config = module.config
    half = config.d_model // 2
    rates = 1 / (10000 ** (torch.arange(half, device=device).to(dtype) / half))

    def waves(distances: Tensor) -> Tensor:
        angles = distances.to(device, dtype)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1)

    places, found = _Places(0, 1, length), []
    for block in range(config.num_blocks):
        before, places = (
            places,
            places.pooled(apart=config.separate_cls, truncated=config.truncate_seq) if block else places,
        )
        found.append([waves(places.distances(places, 1)), waves(before.distances(places, 2)) if block else None])
    return found
