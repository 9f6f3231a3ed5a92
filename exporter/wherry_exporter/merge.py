"""Two graphs to one: a decoder's step, and the projections of the encoder's states that only its first step needs.

The If that optimum and transformers.js know as `use_cache_branch` holds nothing but those projections, so the decoder's
weights and nodes are there once. In later steps it gives caches of length 0, as in optimum's own graphs, and the
attention takes the cached keys and values as they came: what an If hands on is always a copy.
"""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from wherry_exporter.fuse import transpose_keys
from wherry_exporter.parted import find_attentions, part_attentions


def merge_cross_attention(step: ir.Model, projections: ir.Model, names: Sequence[str], *, masked: bool) -> ir.Model:
    """A decoder graph that computes its cross-attention keys and values when `use_cache_branch` is false.

    Args:
        step: takes `past_key_values.NAME` of each name.
        projections: takes `encoder_hidden_states`, gives `present.NAME` of each name.
        names: such as `0.encoder.key`.
        masked: whether `step` takes `encoder_attention_mask`; an unused one is dropped otherwise.
    """
    graph, branch = step.graph, projections.graph
    inputs = {str(value.name): value for value in graph.inputs}
    if not masked:
        graph.inputs.remove(inputs["encoder_attention_mask"])
    states = ir.Input("encoder_hidden_states", type=ir.TensorType(ir.DataType.FLOAT), shape=branch.inputs[0].shape)
    chosen = ir.Input("use_cache_branch", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([1]))

    given = [inputs[f"past_key_values.{name}"] for name in names]
    transpose_keys(graph)
    RemoveUnusedNodesPass()(step)
    attentions = find_attentions(graph, given)
    then_branch = _kept(given) if attentions is None else _none(given)

    branch.inputs[0].replace_all_uses_with(states)
    branch.inputs.clear()
    branch.name = "computed"
    for node in branch:
        node.name = f"cross.{node.name}"
        for value in node.outputs:
            value.name = f"cross.{value.name}"
    for value in list(branch.initializers.values()):
        branch.initializers.pop(str(value.name))
        value.name = f"cross.{value.name}"
        graph.register_initializer(value)
    branches = [ir.AttrGraph("then_branch", then_branch), ir.AttrGraph("else_branch", branch)]
    choice = ir.Node("", "If", [chosen], branches, num_outputs=len(names), name="cross_attention_keys_and_values")
    for name, value, output in zip(names, given, choice.outputs, strict=True):
        output.name, output.type, output.shape = f"present.{name}", value.type, value.shape
        if attentions is not None:  # onnxruntime lets values of one symbolic size share memory
            output.shape, value.shape = _long(value, "present_length"), _long(value, "past_length")
        else:
            for use in list(value.uses()):
                if use.node.graph is not then_branch:
                    use.node.replace_input_with(use.idx, output)
    graph.insert_before(graph[0], choice)
    if attentions is not None:
        part_attentions(graph, attentions, given, choice.outputs)
        RemoveUnusedNodesPass()(step)
    graph.inputs.extend([states, chosen])
    graph.outputs.extend(choice.outputs)
    for ports in (graph.inputs, graph.outputs):
        ordered = sorted(ports, key=_place)
        ports.clear()
        ports.extend(ordered)
    return step


def _kept(caches: Sequence[ir.Value]) -> ir.Graph:
    """A branch that hands the caches back."""
    return _branch([ir.node("Identity", [value]) for value in caches], [])


def _none(caches: Sequence[ir.Value]) -> ir.Graph:
    """A branch that gives no keys and values: caches of length 0."""
    zero, axis = (ir.node("Constant", [], {"value_ints": [number]}) for number in (0, 2))
    zero.outputs[0].name, axis.outputs[0].name = "kept.zero", "kept.axis"
    bounds = [zero.outputs[0], zero.outputs[0], axis.outputs[0]]
    return _branch([ir.node("Slice", [value, *bounds]) for value in caches], [zero, axis])


def _long(cache: ir.Value, length: str) -> ir.Shape:
    assert cache.shape is not None
    batch, heads, _, size = cache.shape
    return ir.Shape([batch, heads, length, size])


def _branch(nodes: Sequence[ir.Node], constants: Sequence[ir.Node]) -> ir.Graph:
    for number, node in enumerate(nodes):
        node.outputs[0].name = f"kept.{number}"
        source = node.inputs[0]
        node.outputs[0].type = None if source is None else source.type
    return ir.Graph([], [node.outputs[0] for node in nodes], nodes=[*constants, *nodes], name="kept")


def _place(port: ir.Value) -> tuple[int | str, ...]:
    """Caches go last, layer by layer, a decoder's own before the encoder's: optimum passes them in that order."""
    kind, *rest = str(port.name).split(".")
    return (1, int(rest[0]), *rest[1:]) if kind in ("past_key_values", "present") else (0,)
