"""The pooling of sentence embeddings in the graph itself, so that a device gives a vector a text and not one a token.

Named `sentence_embedding`, as sentence-transformers and optimum name it.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from wherry.pooling import Pooling

NAME = "sentence_embedding"


def add_pooling(model: ir.Model, pooling: Pooling) -> None:
    """Give a graph that is told of padding one more output, (batch, size): what `Pooling.apply` makes of its first."""
    graph = model.graph
    states, mask = graph.outputs[0], next((value for value in graph.inputs if value.name == "attention_mask"), None)
    if mask is None:
        return
    nodes: list[ir.Node] = []
    constants: dict[str, ir.Value] = {}

    def constant(name: str, content: Any) -> ir.Value:
        if name not in constants:
            array, full = np.asarray(content), f"{NAME}.{name}"
            tensor = ir.tensor(array, name=full)
            constants[name] = graph.initializers[full] = ir.Value(
                name=full, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        return constants[name]

    def node(operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        made = ir.node(operator, inputs, attributes=attributes, name=f"{NAME}.{len(nodes)}")
        made.outputs[0].name = f"{NAME}.value_{len(nodes)}"
        made.outputs[0].dtype = ir.DataType.BOOL if operator == "Equal" else ir.DataType.FLOAT
        nodes.append(made)
        return made.outputs[0]

    one, second = constant("one", np.float32(1)), constant("second", [1])
    real = node("Cast", mask, to=ir.DataType.FLOAT)
    if pooling.mode == "max":
        seen = node("Equal", node("Unsqueeze", real, constant("last", [2])), one)
        vectors = node(
            "ReduceMax", node("Where", seen, states, constant("least", np.float32(-np.inf))), second, keepdims=0
        )
    else:
        count = node("ReduceSum", real, second, keepdims=1)
        if pooling.mode == "mean":
            weights = node("Div", real, node("Max", count, one))
        else:  # of the first token or the last one all
            place = node("CumSum", real, constant("axis", 1))
            chosen = node("Equal", place, one if pooling.mode == "cls" else count)
            weights = node("Mul", node("Cast", chosen, to=ir.DataType.FLOAT), real)
        vectors = node("Squeeze", node("MatMul", node("Unsqueeze", weights, second), states), second)
    if pooling.normalize:
        length = node("ReduceL2", vectors, second, keepdims=1)
        vectors = node("Div", vectors, node("Max", length, constant("tiny", np.float32(1e-12))))
    vectors.name, vectors.dtype = NAME, ir.DataType.FLOAT
    assert states.shape is not None
    vectors.shape = ir.Shape([states.shape[0], states.shape[2]])
    graph.extend(nodes)
    graph.outputs.append(vectors)
