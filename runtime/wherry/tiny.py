"""Graphs of one node, written by hand as protobuf, so that the package onnx is not needed for them."""

from collections.abc import Mapping, Sequence

FLOAT, INT64, FLOAT16 = 1, 7, 10
"""Element types of onnx.TensorProto."""


def graph(
    operator: str,
    inputs: Mapping[str, tuple[int, int]],
    outputs: Mapping[str, tuple[int, int]],
    attributes: Mapping[str, int] | None = None,
    initializers: Mapping[str, Sequence[int]] | None = None,
) -> bytes:
    """An ONNX model of one node, opset 18.

    Args:
        operator: of ONNX's own operator set.
        inputs, outputs: name to (element type, rank); every axis may have any size.
        attributes: integers by name.
        initializers: further inputs of the node, behind the others: int64 vectors by name.
    """
    constants = initializers or {}
    node = b"".join(_bytes(1, name.encode()) for name in (*inputs, *constants))
    node += b"".join(_bytes(2, name.encode()) for name in outputs) + _bytes(4, operator.encode())
    for name, number in (attributes or {}).items():
        node += _bytes(5, _bytes(1, name.encode()) + _number(3, number) + _number(20, 2))
    body = _bytes(1, node) + _bytes(2, operator.encode())
    for name, values in constants.items():
        vector = _number(1, len(values)) + _number(2, INT64) + b"".join(_number(7, each) for each in values)
        body += _bytes(5, vector + _bytes(8, name.encode()))
    body += b"".join(_bytes(11, _value(name, *kind)) for name, kind in inputs.items())
    body += b"".join(_bytes(12, _value(name, *kind)) for name, kind in outputs.items())
    return _number(1, 9) + _bytes(7, body) + _bytes(8, _number(2, 18))


def _value(name: str, kind: int, rank: int) -> bytes:
    shape = b"".join(_bytes(1, _bytes(2, f"{name}{axis}".encode())) for axis in range(rank))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, shape)))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number & (1 << 64) - 1)


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


NEGATE = graph("Neg", {"x": (FLOAT, 1)}, {"y": (FLOAT, 1)})
"""Gives its input with the other sign: enough to see whether an execution provider works."""
