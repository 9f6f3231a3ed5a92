"""The graphs of a variant on disk, each with its weights beside it, which onnxruntime maps instead of parsing.

What several graphs hold alike is there once. Knows nothing of what the graphs compute.
"""

from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from wherry.session import thread_count

SMALLEST = 256
"""Bytes of a weight that are kept in the graph itself."""
WORTH = 4_000_000
"""Bytes that a graph has to share with those before it for it to read their files."""

IN_FLIGHT = 2**27
"""Bytes of weights that are put in order at once."""

Stored = dict[bytes, ir.ExternalTensor]


def save(graphs: Iterable[ir.Model], paths: Collection[Path]) -> None:
    """Write graphs of one variant, one after another; they are not changed.

    Weights of a graph that one before it has too, byte for byte, are read from that one's file where it pays.

    Args:
        graphs: may be made one by one.
        paths: where each goes, all in one folder.
    """
    stored: Stored = {}
    for graph, path in zip(graphs, paths, strict=True):
        remove(path)
        _save(graph, path, stored, several=len(paths) > 1)


def remove(path: Path) -> None:
    """Remove a graph and the file of its weights."""
    for file in path.parent.glob(path.name + "*"):
        file.unlink()


def _save(model: ir.Model, path: Path, stored: Stored, *, several: bool) -> None:
    values = [
        (value, value.const_value)
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > SMALLEST
    ]
    digests = [_digest(tensor) if several else b"" for _, tensor in values]
    shared = [stored.get(digest) for digest in digests]
    if sum(place.nbytes for place in shared if place is not None) < WORTH:
        shared = [None] * len(values)
    own = [_in_rows(tensor) for (_, tensor), place in zip(values, shared, strict=True) if place is None]
    written = iter(
        ir.external_data.convert_tensors_to_external(
            own, path.parent, f"{path.name}_data", max_workers=thread_count(), max_in_flight_bytes=IN_FLIGHT
        )
        if own
        else []
    )
    try:
        for (value, tensor), digest, place in zip(values, digests, shared, strict=True):
            value.const_value = found = next(written) if place is None else _again(place, tensor)
            stored.setdefault(digest, found)
        ir.save(model, path)
    finally:
        for value, tensor in values:
            value.const_value = tensor


def _in_rows(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor that is in the order of its elements once it is written: numpy writes others by the element."""
    if tensor.numpy().flags.c_contiguous:
        return tensor
    return ir.LazyTensor(
        lambda: ir.tensor(_rows(tensor)), tensor.dtype, ir.Shape(tensor.shape.numpy()), name=tensor.name
    )


def _rows(tensor: ir.TensorProtocol) -> np.ndarray[Any, Any]:
    """The elements of a tensor in order."""
    array = tensor.numpy()
    if array.ndim == 2 and array.dtype == np.float32 and array.flags.f_contiguous:  # torch transposes faster
        return torch.from_numpy(array).contiguous().numpy()
    return np.ascontiguousarray(array)


def _digest(tensor: ir.TensorProtocol) -> bytes:
    return sha256(_rows(tensor).reshape(-1).view(np.uint8).data).digest()


def _again(place: ir.ExternalTensor, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """What is stored at a place, under another name and shape."""
    shape, name = ir.Shape(tensor.shape.numpy()), str(tensor.name)
    return ir.ExternalTensor(
        place.location, place.offset, place.length, tensor.dtype, shape=shape, name=name, base_dir=place.base_dir
    )
