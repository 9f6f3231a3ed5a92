"""The pooling that is part of a graph gives what the runtime's gives."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from wherry.pooling import Pooling
from wherry_exporter.pooled import NAME, add_pooling

STATES = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
LENGTHS = np.array([7, 3, 1])
RIGHT = (np.arange(7) < LENGTHS[:, None]).astype(np.int64)


def graph() -> ir.Model:
    """One that gives its states as they come."""
    states, mask = (
        ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(["batch", "sequence", *rest]))
        for name, kind, rest in (("states", ir.DataType.FLOAT, [5]), ("attention_mask", ir.DataType.INT64, []))
    )
    same = ir.node("Identity", [states])
    same.outputs[0].name, same.outputs[0].type, same.outputs[0].shape = "last_hidden_state", states.type, states.shape
    inner = ir.Graph([states, mask], same.outputs, nodes=[same], opset_imports={"": 20}, name="graph")
    return ir.Model(inner, ir_version=10)


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "last"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("mask", [RIGHT, RIGHT[:, ::-1]], ids=["right", "left"])
def test_pooling_in_the_graph_is_that_of_the_runtime(mode, normalize, mask):
    pooling = Pooling(mode, normalize)
    model = graph()
    add_pooling(model, pooling)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    assert [port.name for port in session.get_outputs()] == ["last_hidden_state", NAME]
    (found,) = session.run([NAME], {"states": STATES, "attention_mask": np.ascontiguousarray(mask)})
    np.testing.assert_allclose(found, pooling.apply(STATES, mask), rtol=1e-5, atol=1e-6)
