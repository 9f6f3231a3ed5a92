"""How torch's operators become ONNX's: transformers' table, mended where onnxruntime fails on what it gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.function_libs.torch_lib.ops.core import aten_native_batch_norm, aten_scatter_reduce, aten_view
from onnxscript.onnx_opset import opset18
from transformers.exporters.exporter_onnx import _ONNX_TRANSLATION_TABLE, _aten_index_put, _values_broadcast_to_self

op: Any = opset18


def _index_put(self: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """As transformers has it, and for a mask that is true nowhere: its Gather needs one value at least to draw from."""
    masked = indices[0] is not None and indices[0].dtype == ir.DataType.BOOL
    if masked and not accumulate and not _values_broadcast_to_self(values, self):
        flat = op.Reshape(values, op.Constant(value_ints=[-1]))
        values = op.Concat(flat, op.CastLike(op.Constant(value_floats=[0.0]), values), axis=0)
    return _aten_index_put(self, indices, values, accumulate)


def _squeeze(self: Any, dim: int) -> Any:
    """Nothing where the axis is not of size one, as torch has it; a trace knows an axis of size one as such."""
    if self.shape is not None and self.shape.rank() and self.shape[dim] != 1:
        return op.Identity(self)
    return op.Squeeze(self, op.Constant(value_ints=[dim]))


def _squeeze_all(self: Any) -> Any:
    """The axes that were of size one in the trace: one that varies may be so too, but stays."""
    if self.shape is None:
        return op.Squeeze(self)
    axes = [axis for axis, size in enumerate(self.shape) if size == 1]
    return op.Squeeze(self, op.Constant(value_ints=axes)) if axes else op.Identity(self)


def _batch_norm(
    data: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, _: bool
) -> Any:
    """By the means and variances that were learned."""
    return aten_native_batch_norm(data, weight, bias, mean, variance, training, momentum, eps)[0]


def _rsub(self: Any, other: float, alpha: float = 1) -> Any:
    return op.Sub(other, self if alpha == 1 else op.Mul(self, alpha))


def _scatter_reduce(self: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Any:
    """As torchlib has it, but for means, which ONNX lacks: sums of what comes to a place, by how many those are."""
    if reduce != "mean":
        return aten_scatter_reduce(self, dim, index, src, reduce, include_self)
    zeros = op.Mul(self, op.CastLike(op.Constant(value_float=0.0), self))
    ones = op.Expand(op.CastLike(op.Constant(value_float=1.0), src), op.Shape(index))
    sums, counts = (op.ScatterElements(zeros, index, each, axis=dim, reduction="add") for each in (src, ones))
    one = op.CastLike(op.Constant(value_float=1.0), self)
    if include_self:
        return op.Div(op.Add(self, sums), op.Add(counts, one))
    return op.Where(op.Cast(counts, to=ir.DataType.BOOL.value), op.Div(sums, op.Max(counts, one)), self)


def _weight_norm(direction: Any, length: Any, dim: int = 0) -> Any:
    """https://arxiv.org/abs/1602.07868"""
    others = [axis for axis in range(len(direction.shape)) if axis != dim % len(direction.shape)]
    norm = op.ReduceL2(direction, op.Constant(value_ints=others), keepdims=True)
    return op.Mul(direction, op.Div(length, norm))


TRANSLATIONS: Mapping[Any, Any] = {
    **_ONNX_TRANSLATION_TABLE,
    torch.ops.aten.index_put.default: _index_put,
    torch.ops.aten.squeeze.dim: _squeeze,
    torch.ops.aten.squeeze.default: _squeeze_all,
    torch.ops.aten.batch_norm.default: _batch_norm,
    torch.ops.aten.rsub.Scalar: _rsub,
    torch.ops.aten.scatter_reduce.two: _scatter_reduce,
    torch.ops.aten._weight_norm.default: _weight_norm,
    torch.ops.aten.reshape.default: aten_view,  # which takes an axis of size zero for what it is
}
