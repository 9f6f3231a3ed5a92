"""Weights of one matrix product in a few bits, a scale for each block along the input axis, as MatMulNBits takes them.

Five ways to choose levels and scales: `rtn` rounds to nearest; `k-quant` and `hqq` fit scales and zero points to the
weights; `imatrix` and `gptq` fit them to what the product makes of real activations. Knows no graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
ROWS = 128
"""Outputs whose scales are looked for at once: few enough to stay in the processor's cache."""
GRID = 1e-3
"""Of a step, how far from it a value may be that was a whole number of steps before it was rounded to a float."""


@dataclass(frozen=True)
class Blocks:
    """A quantized weight: `(levels - zero_points) * scales` is nearly the weight.

    Attributes:
        levels: uint8 (outputs, blocks, block size), each below 2 ** bits; beyond the last input they are padding.
        scales: float32 (outputs, blocks).
        zero_points: uint8 or float32 (outputs, blocks); None where all are in the middle, 2 ** (bits - 1).
    """

    levels: Array
    scales: Array
    zero_points: Array | None


@dataclass(frozen=True)
class Moments:
    """What is known of the activations that a weight is multiplied with.

    Attributes:
        squares: float32 (inputs,), the mean square of each input.
        products: float64 (inputs, inputs), the mean of each token's outer product with itself; None where only `gptq`
            would need it.
        tokens: how many.
    """

    squares: Array
    products: Array | None
    tokens: int


class Algorithm(Protocol):
    """How levels and scales are chosen."""

    def __call__(self, weight: Array, bits: int, size: int, *, symmetric: bool, moments: Moments | None) -> Blocks:
        """Quantize.

        Args:
            weight: float32 (inputs, outputs).
            bits: 4 or 8.
            size: inputs that share a scale.
            symmetric: whether zero points are left out.
            moments: of the activations; `imatrix` and `gptq` need them.
        """


def dequantized(blocks: Blocks, inputs: int, bits: int) -> Array:
    """The weight that is left, float32 (inputs, outputs)."""
    zero = np.float32(2 ** (bits - 1)) if blocks.zero_points is None else blocks.zero_points[..., None]
    weight = (blocks.levels.astype(np.float32) - zero) * blocks.scales[..., None]
    return np.asarray(weight.reshape(len(weight), -1)[:, :inputs].T)


def _blocked(weight: Array, size: int) -> Array:
    """(outputs, blocks, size), with zeros after the last input."""
    rows = np.pad(weight.T, ((0, 0), (0, -len(weight) % size)))
    return rows.reshape(len(rows), -1, size)


def _rounded(blocks: Array, bits: int, scales: Array, zero_points: Array | None) -> Array:
    zero = 2 ** (bits - 1) if zero_points is None else zero_points[..., None]
    return np.clip(np.round(blocks / scales[..., None]) + zero, 0, 2**bits - 1).astype(np.uint8)


def _symmetric_scales(blocks: Array, bits: int, importance: Array | None = None) -> Array:
    """The scale for each block; with the importance of each input, (blocks, size), the best of several."""
    place = np.abs(blocks).argmax(-1)[..., None]
    extreme = np.take_along_axis(blocks, place, -1)[..., 0]  # goes to the lowest level, which is one further out
    extreme = np.where(extreme == 0, 1, extreme)
    lowest = -np.float32(2 ** (bits - 1))
    if importance is None:
        return np.asarray(extreme / lowest, np.float32)
    best = np.empty(extreme.shape, np.float32)
    stretches = np.linspace(0.7, 1.1, 7, dtype=np.float32)
    for first in range(0, len(blocks), ROWS):
        part = slice(first, first + ROWS)
        scales = extreme[part] / (lowest * stretches[:, None, None])
        losses = np.empty(scales.shape, np.float32)
        for number, scale in enumerate(scales[..., None]):
            levels = np.rint(blocks[part] / scale).clip(lowest, -lowest - 1)
            losses[number] = (np.square(levels * scale - blocks[part]) * importance).sum(-1)
        best[part] = np.take_along_axis(scales, losses.argmin(0)[None], 0)[0]
    return best


def _asymmetric(blocks: Array, bits: int) -> tuple[Array, Array]:
    """Scales and zero points that span each block and zero."""
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scales = (high - low) / np.float32(2**bits - 1)
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    return scales, np.round(-low / scales).astype(np.uint8)


def on_grid(weight: Array, bits: int, size: int) -> Blocks | None:
    """The levels of a weight that has few enough already, such as a GPTQ checkpoint's; None for others.

    Args:
        weight: float32 (inputs, outputs).
        bits: of a level.
        size: inputs that share a scale.
    """
    blocks = _blocked(weight, size)
    rows = blocks.reshape(-1, size)
    if _steps(rows[:: max(1, len(rows) // ROWS)], bits) is None or (found := _steps(rows, bits)) is None:
        return None
    levels, scales, half = *found, 2 ** (bits - 1)
    turned = (levels.max(-1) >= half) & (levels.min(-1) > -half)  # one further up than down: by a scale below zero
    levels, scales = np.where(turned[:, None], -levels, levels), np.where(turned, -scales, scales)
    even = levels.min() >= -half and levels.max() < half
    points = None if even else np.maximum(-levels.min(-1), 0)
    levels += half if points is None else points[:, None]
    shape = blocks.shape[:2]
    return Blocks(
        levels.astype(np.uint8).reshape(blocks.shape),
        scales.astype(np.float32).reshape(shape),
        None if points is None else points.astype(np.uint8).reshape(shape),
    )


def _steps(rows: Array, bits: int) -> tuple[Array, Array] | None:
    """Each row's values as whole steps from zero, and the step; None if any row has none that `bits` can count."""
    most = 2**bits - 1
    largest = np.abs(rows).max(-1, keepdims=True)
    gaps = np.diff(np.sort(np.concatenate([rows, np.zeros_like(largest)], -1), -1), axis=-1)
    gaps = np.where(gaps > largest / (2 * most), gaps, np.inf).min(-1)
    steps, levels = np.where(np.isfinite(gaps), gaps, 1), np.zeros(rows.shape, np.int16)
    left = np.arange(len(rows))
    for part in range(1, most + 1):  # the smallest distance between two values may be several steps
        units = rows[left] / (steps[left, None] / part)
        whole = np.rint(units)
        span = np.maximum(whole.max(-1), 0) - np.minimum(whole.min(-1), 0)
        fits = (np.abs(units - whole).max(-1) < part * GRID) & (span <= most)
        done = left[fits]
        levels[done], left = whole[fits], left[~fits]
        steps[done] /= part
        if not len(left):
            furthest = np.abs(levels).argmax(-1)[:, None]
            counted = np.take_along_axis(levels, furthest, -1)[:, 0]
            exact = np.take_along_axis(rows, furthest, -1)[:, 0] / np.where(counted, counted, 1)
            return levels, np.where(counted, exact, 1)
    return None


def rtn(weight: Array, bits: int, size: int, *, symmetric: bool, moments: Moments | None) -> Blocks:  # noqa: ARG001
    """Round to nearest."""
    blocks = _blocked(weight, size)
    scales, zero_points = (_symmetric_scales(blocks, bits), None) if symmetric else _asymmetric(blocks, bits)
    return Blocks(_rounded(blocks, bits, scales, zero_points), scales, zero_points)


def k_quant(weight: Array, bits: int, size: int, *, symmetric: bool, moments: Moments | None) -> Blocks:  # noqa: ARG001
    """llama.cpp's search for the scale and minimum of each block, as onnxruntime has it; always asymmetric."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    blocks = _blocked(weight, size)
    with np.errstate(divide="ignore", invalid="ignore"):  # a block of one value has no slope, and keeps its first fit
        levels, scales, zero_points = quant_tensor_k_quant_cpu(blocks, bits, size)
    shape = blocks.shape[:2]
    return Blocks(
        levels.reshape(blocks.shape).astype(np.uint8),
        scales.reshape(shape).astype(np.float32),
        zero_points.reshape(shape),
    )


def hqq(weight: Array, bits: int, size: int, *, symmetric: bool, moments: Moments | None) -> Blocks:  # noqa: ARG001
    """Half-quadratic quantization (https://mobiusml.github.io/hqq_blog) by onnxruntime; always with float zero points.

    The closest of the four to the weights themselves; onnxruntime computes with its float zero points more slowly.
    """
    import torch
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, HQQWeightOnlyQuantizer

    quantizer = HQQWeightOnlyQuantizer(HQQWeightOnlyQuantConfig(block_size=size, bits=bits))
    rows = torch.from_numpy(np.ascontiguousarray(weight.T))
    levels, scales, zero_points = (value.numpy() for value in quantizer.quantize_internal(rows, bits, group_size=size))
    return Blocks(levels.astype(np.uint8).reshape(len(rows), -1, size), scales, zero_points)


def imatrix(weight: Array, bits: int, size: int, *, symmetric: bool, moments: Moments | None) -> Blocks:
    """Round to nearest, with the scale at which each block loses least where activations are large.

    llama.cpp calls the mean squares of the activations an importance matrix. Asymmetric blocks are those of `rtn`.
    """
    if not symmetric:
        return rtn(weight, bits, size, symmetric=False, moments=None)
    assert moments is not None
    blocks = _blocked(weight, size)
    scales = _symmetric_scales(blocks, bits, _importance(moments, size))
    return Blocks(_rounded(blocks, bits, scales, None), scales, None)


def _importance(moments: Moments, size: int) -> Array:
    """The mean square of each input, float32 (blocks, size); 0 for those after the last."""
    return np.pad(moments.squares, (0, -len(moments.squares) % size)).reshape(-1, size)


def gptq(weight: Array, bits: int, size: int, *, symmetric: bool, moments: Moments | None) -> Blocks:
    """Each input's rounding error is made good by the inputs after it (Frantar et al., https://arxiv.org/abs/2210.17323).

    The matrix of the activations' second moments is damped by the ratio of inputs to tokens, so that few tokens correct
    little instead of being learned by heart.
    """
    assert moments is not None
    inputs, outputs = weight.shape
    assert moments.products is not None
    mean = moments.products
    importance = _importance(moments, size)
    damping = np.clip(inputs / moments.tokens, 0.01, 1.0) * max(float(mean.diagonal().mean()), 1e-12)
    inverse = np.linalg.inv(mean + damping * np.eye(inputs))
    upper = np.linalg.cholesky(inverse).T.astype(np.float32)
    left = weight.astype(np.float32)  # what is yet to be rounded, errors of what is rounded included
    count = len(importance)
    levels = np.full((outputs, count, size), 2 ** (bits - 1), np.uint8)
    scales, zero_points = np.ones((outputs, count), np.float32), np.zeros((outputs, count), np.uint8)
    zero: Any = 2 ** (bits - 1)
    for block in range(count):
        first, last = block * size, min((block + 1) * size, inputs)
        part = _blocked(left[first:last], size)
        if symmetric:
            scales[:, block] = _symmetric_scales(part, bits, importance[block : block + 1])[:, 0]
        else:
            scale, points = _asymmetric(part, bits)
            scales[:, block], zero_points[:, block] = scale[:, 0], points[:, 0]
            zero = points[:, 0].astype(np.float32)
        scale = scales[:, block]
        errors = np.empty((last - first, outputs), np.float32)
        for row in range(first, last):
            level = np.clip(np.round(left[row] / scale) + zero, 0, 2**bits - 1)
            levels[:, block, row - first] = level
            errors[row - first] = (left[row] - (level - zero) * scale) / upper[row, row]
            left[row + 1 : last] -= np.outer(upper[row, row + 1 : last], errors[row - first])
        left[last:] -= upper[first:last, last:].T @ errors
    return Blocks(levels, scales, None if symmetric else zero_points)


BY_NAME: Mapping[str, Algorithm] = {"imatrix": imatrix, "rtn": rtn, "k-quant": k_quant, "hqq": hqq, "gptq": gptq}


def packed(values: Array, bits: int) -> Array:
    """uint8 values along the last axis, two of 4 bits to a byte, the first in the low half."""
    if bits == 8:
        return values
    even = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, values.shape[-1] % 2)])
    return np.asarray(even[..., 0::2] | (even[..., 1::2] << 4))
