"""Series that a model takes as a list, as TimesFM does, as a trace has them: rows of one length.

Such models fill up each series by itself, in a loop that would fix their number. Knows no architecture, but what its
methods are called.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def series_together(model: nn.Module) -> Iterator[None]:
    """For the time of a trace, swap what takes the series one by one."""
    with ExitStack() as stack:
        if hasattr(model, "horizon_len") and hasattr(model, "_preprocess"):
            stack.enter_context(patch.object(model, "_preprocess", partial(_filled, model)))
            stack.enter_context(patch.object(model, "forward", partial(_forecast, model.forward)))
            inner: Any = getattr(model, "model", None)
            if hasattr(inner, "_update_running_stats"):
                stack.enter_context(patch.object(inner, "forward", partial(_measured, inner, inner.forward)))
        yield


def _forecast(forward: Callable[..., Any], past_values: Tensor, **named: Any) -> Any:
    """Give the model a list of one: (time, batch), for it cuts off what comes first."""
    return forward([past_values.T], **named)


def _filled(
    model: Any, inputs: Sequence[Tensor], freq: Any = None, context_len: int | None = None
) -> tuple[Tensor, ...]:
    """Fill up series.

    Returns:
        zeros and the series behind them, (batch, context); 1 where the zeros are, (batch, context + horizon); and the
        frequencies, (batch, 1), where the model asks for some.
    """
    (series,) = inputs
    length, rows = series.shape
    missing = (context_len or model.context_len) - length
    found = functional.pad(series.T, (missing, 0))
    filled = functional.pad(torch.zeros(rows, length + model.horizon_len), (missing, 0), value=1)
    if freq is None:
        return found, filled
    kinds = freq if isinstance(freq, Tensor) else torch.zeros(rows)
    return found, filled, kinds.to(torch.int32)[:, None]


def _measured(
    model: Any, forward: Callable[..., Any], past_values: Tensor, past_values_padding: Tensor, **named: Any
) -> Any:
    """Take the running means and deviations from sums over all patches, not from a loop, as long as the context."""
    patches = past_values.reshape(past_values.shape[0], -1, model.config.patch_length)
    real = (past_values_padding[:, : past_values.shape[1]] < 0.5).to(patches.dtype).reshape(patches.shape)
    count = real.sum(2).cumsum(1).clamp(min=1)
    means = (patches * real).sum(2).cumsum(1) / count
    squares = (patches.square() * real).sum(2).cumsum(1) / count
    deviations = (squares - means.square()).clamp(min=0).sqrt()
    found = iter(zip(means.unbind(1), deviations.unbind(1), strict=True))

    def update(seen: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return seen, *next(found)

    with patch.object(model, "_update_running_stats", update):
        return forward(past_values=past_values, past_values_padding=past_values_padding, **named)
