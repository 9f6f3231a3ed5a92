"""Holds what a model draws at random at zero, in the original and in a graph, so that the two can be compared."""

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
    """While it is open, torch draws zeros from the normal distribution. Gives a list that gathers what was drawn."""
    drawn: list[Tensor] = []

    def zeros(*shape: Any, **options: Any) -> Tensor:
        drawn.append(torch.zeros(*shape, **options))
        return drawn[-1]

    def zeros_like(tensor: Tensor, **options: Any) -> Tensor:
        drawn.append(torch.zeros_like(tensor, **options))
        return drawn[-1]

    with patch.object(torch, "randn", zeros), patch.object(torch, "randn_like", zeros_like):
        yield drawn


@contextmanager
def stilled(path: Path) -> Iterator[Path]:
    """A copy of a graph that has zeros where the graph draws from the normal distribution."""
    model = ir.load(path)
    for node in list(model.graph):
        if node.op_type == "RandomNormalLike":
            source = node.inputs[0]
            zeros = ir.node("Sub", [source, source])
            model.graph.insert_before(node, zeros)
            node.outputs[0].replace_all_uses_with(zeros.outputs[0])
            model.graph.remove(node, safe=True)
    with tempfile.TemporaryDirectory() as scratch:
        ir.save(model, Path(scratch) / "model.onnx", external_data="weights")
        yield Path(scratch) / "model.onnx"
