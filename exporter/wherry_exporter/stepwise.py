"""A decoder's graph for one token to one for any number of them, in a Loop. Knows nothing of what a step computes."""

from typing import Any

import numpy as np
import onnx_ir as ir

from wherry_exporter.inputs import BATCH, SEQUENCE

PLACES = "position_ids"
"""Of the tokens, (3, batch, sequence), where a model is told them."""


def repeat_step(step: ir.Model, *, encoded: bool = False) -> ir.Model:
    """The graph that runs `step` for each of its tokens; the weights are around the Loop, not in it.

    Args:
        step: takes one token, the attention_mask of all tokens up to it, perhaps its place, and what was kept; gives
            logits, and what is to be kept, in the order in which it takes it. It is used up.
        encoded: whether the mask is an encoder's instead, and what follows what was kept is of the encoder too: the
            same for every token.
    """
    body = step.graph
    token, mask, *others = body.inputs
    logits, *present = body.outputs
    places = [value for value in others if value.name == PLACES]
    others = [value for value in others if value.name != PLACES]
    past, fixed = others[: len(present)], others[len(present) :]
    inputs = [_port(value) for value in body.inputs]
    by_name = {value.name: value for value in inputs}
    inputs[0].shape = ir.Shape([BATCH, SEQUENCE, *list(token.shape or ())[2:]])
    given = [by_name[value.name] for value in past]
    kept = [_port(value) for value in present]
    weights = list(body.initializers.values())
    body.initializers.clear()
    inner = (value for node in body.all_nodes() for value in node.outputs)
    for value in {*body.inputs, *inner}:  # names that nothing around the Loop will have
        value.name = f"step.{value.name}"

    around, within, last = ir.tape.Tape(), ir.tape.Tape(), ir.tape.Tape()
    zero, one = (around.initializer(ir.tensor(np.array([at])), f"steps.{at}") for at in (0, 1))
    axis = {"start": 1, "end": 2}
    count = _op(around, "count", "Shape", inputs[0], **axis)
    trips = _op(around, "trips", "Squeeze", count)

    turn = ir.val("step.turn", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    going = ir.val("step.going", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    place = _op(within, "place", "Unsqueeze", turn, zero)
    token.replace_all_uses_with(_op(within, "token", "Gather", inputs[0], place, axis=1))
    for value in places:
        port = by_name[PLACES]
        port.shape = ir.Shape([*list(value.shape or ())[:-1], SEQUENCE])
        value.replace_all_uses_with(_op(within, "at", "Gather", port, place, axis=2))
    if encoded:
        for value, port in zip((mask, *fixed), (inputs[1], *inputs[2 + len(past) :]), strict=True):
            value.replace_all_uses_with(port)
    else:
        before = _op(around, "before", "Sub", _op(around, "total", "Shape", inputs[1], **axis), count)
        seen = _op(within, "seen", "Add", before, _op(within, "after", "Add", place, one))
        mask.replace_all_uses_with(_op(within, "mask", "Slice", inputs[1], zero, seen, one))
    row = _op(last, "row", "Squeeze", logits, one)
    row.type, row.shape = logits.type, ir.Shape([BATCH, (logits.shape or [None])[-1]])
    on = _op(last, "on", "Identity", going)
    on.type, on.shape = going.type, going.shape

    nodes = list(body)
    body.remove(nodes)
    for ports in (body.inputs, body.outputs):
        ports.clear()
    repeated = ir.Graph(
        [turn, going, *past], [on, *present, row], nodes=[*within.nodes, *nodes, *last.nodes], name="step"
    )
    rows = ir.Value(name="steps.rows")
    around.op_multi_out("Loop", [trips, None, *given], {"body": repeated}, outputs=[*kept, rows])
    found = ir.Value(name="logits", type=logits.type, shape=ir.Shape([BATCH, SEQUENCE, row.shape[-1]]))
    around.op("Transpose", [rows], {"perm": [1, 0, 2]}, output=found)
    graph = ir.Graph(
        inputs,
        [found, *kept],
        nodes=around.nodes,
        initializers=[*weights, *around.initializers],
        name=body.name,
        opset_imports=step.opset_imports,
    )
    return ir.Model(graph, ir_version=step.ir_version, functions=list(step.functions.values()))


def _op(tape: Any, name: str, operator: str, *given: ir.Value, **attributes: int) -> ir.Value:
    made: ir.Value = tape.op(operator, given, attributes, output=ir.Value(name=f"steps.{name}"))
    return made


def _port(value: ir.Value) -> ir.Value:
    return ir.val(str(value.name), type=value.type, shape=value.shape)
