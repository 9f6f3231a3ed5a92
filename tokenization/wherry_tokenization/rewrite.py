"""Rewrite a template's syntax tree so that it pays for its work as it runs.

Knows nothing of values or limits: it only puts the filters `__tick`, `__glance` and `__weigh` where work is
repeated, or where Jinja would compile an operation straight into Python.
"""

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

TICK, GLANCE, WEIGH = "__tick", "__glance", "__weigh"

_UNNEEDED = (nodes.Block, nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)
_NODES_PER_UNIT = 4
_CHARACTERS_PER_UNIT = 16


class PayingTransformer(NodeTransformer):
    """Loops and macros tick for what stands in them; operands are glanced at or weighed before use."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        tick = _tick(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(tick, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._body_ticks(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._body_ticks(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        equality = all(operand.op in ("eq", "ne") for operand in node.ops)
        if equality and any(_is_plain(side) for side in sides):
            return node  # comparing with a short constant is over after its length
        pay = GLANCE if _is_plain(node.expr) else WEIGH
        node.expr = _paid(node.expr, WEIGH)
        for operand in node.ops:
            operand.expr = _paid(operand.expr, pay)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_paid(part, WEIGH) for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _paid(node.node, GLANCE)
        elif not isinstance(node.arg, nodes.Const):
            node.arg = _paid(node.arg, WEIGH)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _paid(node.key, WEIGH)
        return node

    def generic_visit(self, node: nodes.Node, *args: object, **kwargs: object) -> nodes.Node:
        if isinstance(node, _UNNEEDED):
            raise SecurityError(f"the statement {type(node).__name__.lower()} is not allowed (line {node.lineno})")
        return super().generic_visit(node, *args, **kwargs)

    def _body_ticks(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        tick = _tick(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return node


def _tick(node: nodes.Node) -> nodes.Filter:
    """An expression that is true, and pays for one run over all that stands in the node."""
    texts = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
    constants = sum(len(const.value) for const in node.find_all(nodes.Const) if isinstance(const.value, str))
    count = sum(1 for _ in node.find_all(nodes.Node))
    units = 1 + count // _NODES_PER_UNIT + (texts + constants) // _CHARACTERS_PER_UNIT
    return _paid(nodes.Const(units, lineno=node.lineno), TICK)


def _paid(expression: nodes.Expr, filter_name: str) -> nodes.Filter:
    return nodes.Filter(expression, filter_name, [], [], None, None, lineno=expression.lineno)


def _is_plain(expression: nodes.Expr) -> bool:
    """Whether this is a constant, or an empty list or object."""
    empty = isinstance(expression, nodes.List | nodes.Dict | nodes.Tuple) and not expression.items
    return isinstance(expression, nodes.Const) or empty
