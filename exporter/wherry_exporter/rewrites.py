"""Operators of a trace that others stand for, so that it need not be taken apart for them. Changes no value.

torch takes a whole program apart by tracing it again, which takes longer than the first time.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import eq
from typing import Any

import torch
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_arg

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

SCATTERED: Mapping[Any, Any] = {
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.select.int: aten.select_scatter.default,
}
"""A slice, and what puts another in its place."""


def simplify(graph: Graph) -> None:
    """Put operators that are translated in the place of those that are not, where they give the same."""
    _keep_what_is_written_over(graph)
    if any(isinstance(node.target, OpOverload) and node.target._schema.is_mutable for node in graph.nodes):
        return  # what is given back as it is, by `dropout` say, may be written over
    for node in graph.nodes:
        if node.op == "call_function" and (rewrite := REWRITES.get(getattr(node.target, "overloadpacket", None))):
            rewrite(node)
        node.target = SAME.get(node.target, node.target)


def _keep_what_is_written_over(graph: Graph) -> None:
    """Where a tensor is changed in place, give a new one to all that comes behind, if nothing else shares its memory.

    It shares none if the operator that made it gives a tensor of its own, and no view of it is read behind.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    for node, place in list(places.items()):
        copies = node.target == aten.copy_.default
        new = None if copies else _without_writing(node)
        if new is None and not copies:
            continue
        views = _views(node.args[0]) if copies else []
        written: Any = views[-1].args[0] if views else node.args[0]
        before = [user for user in written.users if places.get(user, place) < place and user not in views]
        given = any(user.op == "output" for user in written.users)  # whose name is known elsewhere too
        if given or not _is_alone(written) or not all(_is_done(user, places, place) for user in before):
            continue
        if new is not None:
            node.target = new
        value = _scattered(graph, node, views) if copies else node
        if value is not None:
            written.replace_all_uses_with(value, delete_user_cb=lambda user, place=place: places.get(user, 0) > place)


def _is_alone(node: Node) -> bool:
    """Whether nothing else shares the memory of what a node gives, or nobody reads that."""
    if _gives_its_own(node):
        return True
    view = isinstance(node.target, OpOverload) and any(each.alias_info for each in node.target._schema.returns)
    source = node.args[0] if view else None
    return isinstance(source, Node) and len(source.users) == 1 and _is_alone(source)


def _is_done(node: Node, places: Mapping[Node, int], place: int) -> bool:
    """Whether nothing that a node gives shares memory with what it takes, or none of it is read behind a place."""
    if _gives_its_own(node):
        return True
    return all(places.get(user, 0) < place and _is_done(user, places, place) for user in node.users)


def _views(node: Any) -> list[Node]:
    """The slices of slices of a tensor that a node is, from the innermost; only what writes over it reads it."""
    found = []
    while getattr(node, "target", None) in SCATTERED and len(node.users) == 1:
        found.append(node)
        node = node.args[0]
    return found


def _scattered(graph: Graph, node: Any, views: Sequence[Any]) -> Node | None:
    """What a tensor is behind `copy_` into slices of slices of it; None where that changes the shape or type."""
    value: Any = node.args[1]
    old, new = (each.meta.get("val") for each in node.args[:2])
    if old is None or new is None or old.dtype != new.dtype or old.ndim != new.ndim or (views and node.users):
        return None
    if not all(map(statically_known_true, map(eq, old.shape, new.shape))):
        return None
    if not views:
        node.target, node.args = aten.clone.default, (value,)
        return node  # type: ignore[no-any-return]
    with graph.inserting_before(node):
        for view in views:
            whole, *place = view.args
            value = graph.call_function(SCATTERED[view.target], (whole, value, *place))
            value.meta["val"] = whole.meta["val"]
    graph.erase_node(node)
    return value  # type: ignore[no-any-return]


def _without_writing(node: Node) -> OpOverload[Any, Any] | None:
    """The operator that gives what another would write over its first argument, such as `add` of `add_`."""
    target = node.target
    if not isinstance(target, OpOverload) or not target._schema.is_mutable or not target._opname.endswith("_"):
        return None
    written: Any = node.args[0]
    new = getattr(getattr(aten, target._opname[:-1], None), target._overloadname, None)
    if not isinstance(written, Node) or not isinstance(new, OpOverload):  # several at once, or none that gives it
        return None
    if not all("val" in each.meta for each in node.all_input_nodes):
        return None
    given: Any = map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
    result = new(*given[0], **given[1])
    return new if result.dtype == written.meta["val"].dtype else None  # a comparison's would be another


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
    data, size = node.args
    if set(size) == {1}:  # type: ignore[arg-type]
        node.target, node.args = aten.mean.dim, (data, list(range(-len(size), 0)), True)  # type: ignore[arg-type]


REWRITES: Mapping[Any, Callable[[Node], None]] = {
    aten.to: _convert,
    aten.dropout: _drop,
    aten.detach: _detach,
    aten.conv2d: _pad,
    aten.conv_transpose1d: _transpose,
    aten.conv_transpose2d: _transpose,
    aten.adaptive_avg_pool1d: _pool,
    aten.adaptive_avg_pool2d: _pool,
}
