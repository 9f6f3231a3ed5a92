"""bfloat16 graphs as CPUs can run them: in float32, rounded behind every node. Their speed says nothing."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from wherry.bundle import SUFFIXES
from wherry_exporter.storage import save


@contextmanager
def runnable(graphs: Mapping[str, Path]) -> Iterator[Mapping[str, Path]]:
    """The graphs themselves, or in the place of bfloat16 ones such as give the same, but for the order of sums.

    Keys and values that are kept between steps are as they come.

    Args:
        graphs: role to file.
    """
    if not all(path.stem.endswith(SUFFIXES["bf16"]) for path in graphs.values()):
        yield graphs
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = {role: Path(folder) / path.name for role, path in graphs.items()}
        save((_in_float32(ir.load(path)) for path in graphs.values()), paths.values())
        yield paths


def _in_float32(model: ir.Model) -> ir.Model:
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            _widen(value)
    for node in list(model.graph.all_nodes()):
        given = [value for value in node.outputs if value.dtype == ir.DataType.BFLOAT16]
        for value in given:
            value.dtype = ir.DataType.FLOAT
            if not value.is_graph_output():
                _round(node, value)
        if "to" in node.attributes and node.attributes["to"].as_int() == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
    return model


def _widen(value: ir.Value) -> None:
    if value.dtype == ir.DataType.BFLOAT16:
        value.dtype = ir.DataType.FLOAT
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)


def _round(node: ir.Node, value: ir.Value) -> None:
    """Lead a node's output to bfloat16 and back."""
    down = ir.node("Cast", [value], attributes={"to": ir.DataType.BFLOAT16})
    up = ir.node("Cast", down.outputs, attributes={"to": ir.DataType.FLOAT})
    down.outputs[0].dtype, up.outputs[0].dtype = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    down.outputs[0].name, up.outputs[0].name = f"{value.name}_bfloat16", f"{value.name}_rounded"
    value.replace_all_uses_with(up.outputs[0])
    down.replace_input_with(0, value)
    assert node.graph is not None
    node.graph.insert_after(node, [down, up])
