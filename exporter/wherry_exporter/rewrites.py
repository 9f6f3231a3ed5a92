"""Operators of a trace that others stand for, so that it need not be taken apart for them. Changes no value.

torch takes a whole program apart by tracing it again, which takes longer than the first time.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.fx import Graph, Node

aten = torch.ops.aten

SAME: Mapping[Any, Any] = {
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.min.other: aten.minimum.default,
    aten.max.other: aten.maximum.default,
}
"""Operators that are others by another name."""
FRESH = {
    *(aten.matmul.default, aten.linear.default, aten.layer_norm.default, aten.softmax.int, aten.batch_norm.default),
    *(aten.conv1d.default, aten.conv2d.default, aten.conv2d.padding, aten.scaled_dot_product_attention.default),
}
"""Operators made of others that never give back what they take."""


def simplify(graph: Graph) -> None:
    """Put operators that are translated in the place of those that are not, where they give the same."""
    _keep_what_is_written_over(graph)
    for node in graph.nodes:
        if node.op == "call_function" and (rewrite := REWRITES.get(getattr(node.target, "overloadpacket", None))):
            rewrite(node)
        node.target = SAME.get(node.target, node.target)


def _keep_what_is_written_over(graph: Graph) -> None:
    """Where a tensor is changed in place, give a new one to all that comes behind, if nothing else shares its memory.

    It shares none if the operator that made it gives a tensor of its own, and none behind that gives a view of it.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        new = _without_writing(node)
        if new is None:
            continue
        written, place = node.args[0], places[node]
        before = [user for user in written.users if places[user] < place]
        given = any(user.op == "output" for user in written.users)  # whose name is known elsewhere too
        if not given and all(map(_gives_its_own, [written, *before])):
            node.target = new
            written.replace_all_uses_with(node, delete_user_cb=lambda user, place=place: places[user] > place)


def _without_writing(node: Node) -> OpOverload[Any, Any] | None:
    """The operator that gives what another would write over its first argument, such as `add` of `add_`."""
    target = node.target
    if not isinstance(target, OpOverload) or not target._schema.is_mutable or not target._opname.endswith("_"):
        return None
    new = getattr(getattr(aten, target._opname[:-1], None), target._overloadname, None)
    tensors = [each for each in node.args if isinstance(each, Node)]
    alike = {each.meta["val"].dtype for each in tensors if isinstance(each.meta.get("val"), torch.Tensor)}
    return new if isinstance(new, OpOverload) and len(alike) == 1 else None  # else its type would be another


def _gives_its_own(node: Node) -> bool:
    """Whether nothing that a node gives shares memory with what it takes."""
    target = node.target
    if not isinstance(target, OpOverload) or any(each.alias_info for each in target._schema.returns):
        return False
    return target in FRESH or not target.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


def _convert(node: Node) -> None:
    """Conversions are casts, or copies where the type stays."""
    source: Any = node.args[0]
    same = node.meta["val"].dtype == source.meta["val"].dtype
    node.target = aten.clone.default if same else aten._to_copy.default
    node.args, node.kwargs = (source,), {} if same else {"dtype": node.meta["val"].dtype}


def _drop(node: Node) -> None:
    """Nothing is dropped but in training."""
    if not node.args[2]:
        node.target, node.args = aten.clone.default, node.args[:1]


def _detach(node: Node) -> None:
    """transformers leaves out what is known of it where it replaces `detach_`."""
    source: Any = node.args[0]
    node.meta = source.meta | node.meta


def _pad(node: Node) -> None:
    """Padding that keeps the size, or none, in numbers; where it is not the same on both sides it stays as it is."""
    if node.target != aten.conv2d.padding:
        return
    defaults = [None, None, None, [1, 1], "valid", [1, 1], 1]
    values: list[Any] = [*node.args, *defaults[len(node.args) :]]
    kernel = values[1].meta["val"].shape[2:]
    total = (
        [0, 0] if values[4] == "valid" else [(size - 1) * step for size, step in zip(kernel, values[5], strict=True)]
    )
    if not any(each % 2 for each in total):
        values[4] = [each // 2 for each in total]
        node.target, node.args = aten.conv2d.default, tuple(values)


def _transpose(node: Node) -> None:
    """A transposed convolution of any number of axes."""
    axes = node.meta["val"].ndim - 2
    defaults = [None, None, None, [1] * axes, [0] * axes, [0] * axes, 1, [1] * axes]
    values: list[Any] = [*node.args, *defaults[len(node.args) :]]
    data, weight, bias, stride, padding, more, groups, dilation = values
    node.target = aten.convolution.default
    node.args = (data, weight, bias, stride, padding, dilation, True, more, groups)


def _pool(node: Node) -> None:
    """The average of all that there is."""
    if list(node.args[1]) == [1, 1]:  # type: ignore[arg-type]
        node.target, node.args = aten.mean.dim, (node.args[0], [-2, -1], True)


REWRITES: Mapping[Any, Callable[[Node], None]] = {
    aten.to: _convert,
    aten.dropout: _drop,
    aten.detach: _detach,
    aten.conv2d: _pad,
    aten.conv_transpose1d: _transpose,
    aten.conv_transpose2d: _transpose,
    aten.adaptive_avg_pool2d: _pool,
}
