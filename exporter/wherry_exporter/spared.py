"""Spares torch.onnx what changes nothing and takes longer than what it does: the graphs are the same.

A trace keeps of every node where in the sources it comes from, and how it lies in memory, and runs the parts of
attention for the shape of what that gives. Before a program is translated, it is traced once more to take apart what
has no translation, run for the types of what is changed, and compiled; all translations are read, and their sources
with them; behind that every rule of rewriting is tried on every node. Knows nothing of what a program computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import BuiltinFunctionType
from typing import Any
from unittest.mock import patch

import torch
from onnx_ir.convenience import get_const_tensor
from onnxscript.rewriter import RewriteRule
from onnxscript.rewriter.rules.common._no_op import rules as rules_of_no_ops
from onnxscript.values import TracedOnnxFunction
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.onnx._internal._lazy_import import onnxscript_apis  # type: ignore[attr-defined]
from torch.onnx._internal.exporter import _fx_passes
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.onnx._internal.fx.passes import type_promotion

from wherry_exporter.rewrites import simplify

aten = torch.ops.aten


@contextmanager
def spared() -> Iterator[None]:
    """Let torch.export and torch.onnx do without all that, as far as a program allows."""
    with (
        patch("torch.fx.config.do_not_emit_stack_traces", True),
        patch("torch.fx.experimental.proxy_tensor._extract_tensor_metadata", lambda _: None),
        _attention_whole(),
        patch.object(onnxscript_apis, "get_torchlib_ops", _translations),
        patch.object(type_promotion._TypePromotionInterpreter, "run_node", _promote),
        patch.object(_fx_passes, "decompose_with_registry", _decompose),
        patch.object(_fx_passes, "remove_assertion_nodes", _remove_assertions),
        patch.object(RewriteRule, "try_rewrite", _try_rewrite),
    ):
        yield


@contextmanager
def _attention_whole() -> Iterator[None]:
    attention: Any = aten.scaled_dot_product_attention.default
    with patch.dict(attention.py_kernels, {DispatchKey.CompositeImplicitAutograd: _attend}):
        attention._dispatch_cache.clear()
        yield
    attention._dispatch_cache.clear()


def _attend(query: Tensor, key: Tensor, value: Tensor, *given: Any, **named: Any) -> Tensor:
    """Tell the shape of what attention gives, for which its parts would be run."""
    if statically_known_true(query.shape[0] == value.shape[0]):
        return query.new_empty(*query.shape[:-1], value.shape[-1])
    attended: Tensor = aten._scaled_dot_product_attention_math.default(query, key, value, *given, **named)[0]
    return attended


_get_translations = onnxscript_apis.get_torchlib_ops


@cache
def _translations() -> Any:
    """Read once, not for every graph, and none from its source, of which but the domain is asked, and not used."""
    with patch.object(TracedOnnxFunction, "function_ir"):
        return _get_translations()


def _promote(interpreter: Any, node: Node) -> Any:
    """Mend the types that a node takes; what it gives is known from the trace, for it stays what it was."""
    with interpreter._set_current_node(node):
        rule = type_promotion.get_type_promotion_rule(node, interpreter.type_promotion_table)
        if rule:
            interpreter._maybe_promote_node(node, rule)
    known = node.op == "call_function" and "val" in node.meta
    return node.meta["val"] if known else Interpreter.run_node(interpreter, node)


_take_apart = _fx_passes.decompose_with_registry


def _decompose(program: ExportedProgram, registry: ONNXRegistry) -> ExportedProgram:
    """Take a program for decomposed if it consists of translated operators alone."""
    module = program.graph_module
    if sum(isinstance(inner, GraphModule) for inner in module.modules()) > 1:  # branches
        return _take_apart(program, registry)
    simplify(module.graph)
    if all(_is_translated(node, registry) for node in module.graph.nodes):
        return program
    return _take_apart(program, registry)


_remove = _fx_passes.remove_assertion_nodes


def _remove_assertions(module: GraphModule) -> GraphModule:
    with patch.object(GraphModule, "recompile"):  # it is read, not run
        return _remove(module)


_rewrite = RewriteRule.try_rewrite
CLIPS = ("FuseMinMaxToClip", "FuseMaxMinToClip", "FuseSuccessiveMin", "FuseSuccessiveMax")
"""Rules that name bounds by what they are of, so that of two pairs for the same tensor one goes missing."""
NO_OPS = rules_of_no_ops.rules
"""Rules that take what is near a neutral element for it: an epsilon of 1e-8 for nothing."""
NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


def _is(value: Any, number: int) -> bool:
    found = None if value is None else get_const_tensor(value)
    return found is not None and bool((found.numpy() == number).all())


def _try_rewrite(rule: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
    """Leave nodes alone whose operator is not the first one that a rule is about, and those that it would change."""
    if rule.name in CLIPS or not rule._target_pattern.output_nodes[0].op.matches(node.op_type):
        return None
    if (
        rule in NO_OPS
        and node.op_type in NEUTRAL
        and not any(_is(value, NEUTRAL[node.op_type]) for value in node.inputs)
    ):
        return None
    return _rewrite(rule, model, graph, node, **options)


def _is_translated(node: Node, registry: ONNXRegistry) -> bool:
    target: Any = node.target
    if node.op != "call_function" or isinstance(target, BuiltinFunctionType):
        return True
    if not isinstance(node.target, OpOverload):
        return target in registry.functions
    if target == aten.batch_norm.default and (node.args[3] is None or node.args[5]):
        return False  # by the mean and variance of the batch itself
    if target == aten.rsub.Scalar and node.meta["val"].dtype != node.args[0].meta["val"].dtype:  # type: ignore[union-attr]
        return False
    known = target.namespace == "onnx_symbolic" or target.name() in registry.functions
    traced = "val" in node.meta or target == aten.detach.default  # transformers puts nodes in the place of others
    return known and traced and not target._schema.is_mutable
