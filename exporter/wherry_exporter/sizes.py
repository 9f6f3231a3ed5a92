"""Ends a trace that would take too long for what a model's layers make of the size of its images or sounds."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wherry_exporter.errors import ExportError

FORMULA = 24
"""Operations on an input's sizes that a term of one axis may take: convolutions come to a few, a sum of several feature
maps has as many terms, and shifted windows come to ever more."""


class ShortSizes(TorchFunctionMode):
    """Ends a trace in which reasoning about the sizes of images or sounds would take minutes."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        sizes: Any = output.shape if isinstance(output, Tensor) else ()
        for size in sizes:
            if not isinstance(size, torch.SymInt):
                continue
            axis = size.node.expr
            if any(term.count_ops() > FORMULA for term in (axis.args if axis.is_Add else (axis,))):
                raise ExportError("its layers make of the input's size a formula too long to trace")
        return output
