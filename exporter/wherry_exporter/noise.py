"""Takes the chance out of what a model draws, in the original and in a graph, so that the two can be compared.

The normal distribution gives zeros, and dropout that stays on keeps everything.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from torch import Tensor


@contextmanager
def still() -> Iterator[list[Tensor]]:
    """While it is open, torch draws no chance. Gives a list that gathers what was drawn."""
    drawn: list[Tensor] = []

    def zeros(*shape: Any, **options: Any) -> Tensor:
        drawn.append(torch.zeros(*shape, **options))
        return drawn[-1]

    def zeros_like(tensor: Tensor, **options: Any) -> Tensor:
        drawn.append(torch.zeros_like(tensor, **options))
        return drawn[-1]

    def ones_like(tensor: Tensor, **_options: Any) -> Tensor:
        drawn.append(torch.ones_like(tensor))
        return drawn[-1]

    with (
        patch.object(torch, "randn", zeros),
        patch.object(torch, "randn_like", zeros_like),
        patch.object(torch, "bernoulli", ones_like),
    ):
        yield drawn


@contextmanager
def stilled(path: Path) -> Iterator[Path]:
    """A copy of a graph that has zeros where the graph draws; dropout keeps what it draws little for."""
    model = ir.load(path)
    for node in list(model.graph):
        if node.op_type in ("RandomNormalLike", "RandomUniformLike"):
            source = node.inputs[0]
            zeros = ir.node("Sub", [source, source])
            model.graph.insert_before(node, zeros)
            node.outputs[0].replace_all_uses_with(zeros.outputs[0])
            model.graph.remove(node, safe=True)
    with tempfile.TemporaryDirectory() as scratch:
        ir.save(model, Path(scratch) / "model.onnx", external_data="weights")
        yield Path(scratch) / "model.onnx"
