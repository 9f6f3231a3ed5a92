"""Folders that cost nothing to make and that a test may damage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime import InferenceSession

from wherry.bundle import Bundle


@pytest.fixture
def linked(bundle: Callable[[str], Bundle], tmp_path: Path) -> Callable[[str], Path]:
    """A sample's bundle as links to its files, as the hub's cache has it; damage it with `replace`."""

    def link(name: str) -> Path:
        source, folder = bundle(name).folder, tmp_path / name
        for path in source.rglob("*"):
            if path.is_file():
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        return folder

    return link


@pytest.fixture(scope="session")
def replace() -> Callable[[Path, bytes], None]:
    """Puts a file in the place of a link, and leaves what the link led to alone."""

    def put(path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)

    return put


@pytest.fixture(scope="session")
def rows_alike() -> bool:
    """Whether onnxruntime's 4-bit products give a row the same last digits alone and in a batch on this processor."""
    size = 64
    random = np.random.default_rng(0)
    weights = random.integers(0, 256, (size, size // 32, 16), dtype=np.uint8)
    scales = random.random((size, size // 32), dtype=np.float32)
    rows = ir.Value(name="rows", shape=ir.Shape(["rows", size]), type=ir.TensorType(ir.DataType.FLOAT))
    values = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in (("weights", weights), ("scales", scales))
    ]
    settings = {"K": size, "N": size, "bits": 4, "block_size": 32, "accuracy_level": 4}
    product = ir.node("MatMulNBits", [rows, *values], settings, domain="com.microsoft")
    product.outputs[0].type = rows.type
    opsets = {"": 20, "com.microsoft": 1}
    graph = ir.Graph([rows], product.outputs, nodes=[product], initializers=values, opset_imports=opsets)
    session = InferenceSession(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
    given = random.standard_normal((8, size), dtype=np.float32)
    together = session.run(None, {"rows": given})[0]
    alone = [session.run(None, {"rows": row[None]})[0][0] for row in given]
    return bool(np.array_equal(together, alone))
