"""Spares torch.onnx its second trace of programs that consist of operators it translates as they are.

Before it translates, it traces a program once more to take apart what it has no translation for. For most models that
changes nothing and takes longer than the first trace. Knows nothing of what a program computes.
"""

from types import BuiltinFunctionType
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

aten = torch.ops.aten

TRANSLATED = """
__and__ _to_copy abs add addmm arange baddbmm bitwise_and bitwise_not bmm cat clamp clone contiguous conv1d conv2d cos
cumsum detach div embedding expand flatten full full_like ge gelu group_norm gt index layer_norm le lift_fresh_copy
linear log lt matmul max_pool2d mean mul neg new_ones ones permute pow relu repeat reshape rsqrt
scaled_dot_product_attention select sigmoid silu sin slice softmax split stack sub sum sym_size tanh to transpose
type_as unbind unsqueeze view where zeros zeros_like
"""
"""Operators that a second trace leaves as they are, or turns into what is easily had without it."""

UNTRANSLATED = ("__and__.Scalar", "conv1d.padding", "conv2d.padding", "split.sizes", "view.dtype")
"""Their overloads for which that does not hold."""


def spare_second_trace(program: ExportedProgram) -> None:
    """Let a program be taken for decomposed if it consists of such operators alone."""
    module = program.graph_module
    if sum(isinstance(inner, GraphModule) for inner in module.modules()) > 1:  # branches and loops
        return
    if all(map(_is_translated, module.graph.nodes)):
        for node in module.graph.nodes:
            _simplify(node)
        module.recompile()
        vars(program)["run_decompositions"] = lambda *_: program


def _is_translated(node: Node) -> bool:
    target: Any = node.target
    if node.op != "call_function" or isinstance(target, BuiltinFunctionType):
        return True
    if target == aten.dropout.default:
        return not node.args[2]
    namespace, _, name = str(getattr(target, "name", str)()).partition("::")
    if namespace != "aten" or name in UNTRANSLATED:
        return namespace == "onnx_symbolic"
    return name.partition(".")[0] in TRANSLATED.split()


def _simplify(node: Node) -> None:
    """What has no translation of its own: conversions become casts, or copies where the type stays."""
    target: Any = node.target
    if target == aten.detach.default:
        source: Any = node.args[0]
        node.meta = source.meta | node.meta  # transformers leaves it out where it replaces `detach_`
    elif target == aten.__and__.Tensor:
        node.target = aten.bitwise_and.Tensor
    elif target == aten.dropout.default:
        node.target, node.args = aten.clone.default, node.args[:1]
    elif getattr(target, "overloadpacket", None) == aten.to:
        source = node.args[0]
        same = node.meta["val"].dtype == source.meta["val"].dtype
        node.target = aten.clone.default if same else aten._to_copy.default
        node.args, node.kwargs = (source,), {} if same else {"dtype": node.meta["val"].dtype}
