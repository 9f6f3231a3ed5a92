"""A torch module and sample inputs to an ONNX graph, through torch.export with the patches that transformers keeps.

Knows nothing of what the module computes. The patches make models traceable and mend what torch.onnx gets wrong; they
are those of `transformers.exporters.OnnxExporter`, used here for modules that are not a whole model.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, partialmethod
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, RuntimeException
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as OrtNotImplemented
from torch import Tensor, nn
from torch._prims_common import is_contiguous_or_false
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from transformers import PreTrainedModel
from transformers.exporters.exporter_dynamo import reset_model_state
from transformers.exporters.exporter_onnx import apply_onnx_ir_fixes, use_experts_implementation
from transformers.exporters.utils import apply_fx_node_fixes, apply_patches, import_dotted_path

from wherry_exporter.errors import ExportError
from wherry_exporter.garbage import garbage_waits
from wherry_exporter.spared import spared
from wherry_exporter.translations import TRANSLATIONS

OPSET = 20

FAILURES = (
    RuntimeError,  # those of torch.export and torch.onnx among them
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    AssertionError,
    ZeroDivisionError,
    NotImplementedError,
    Fail,
    InvalidArgument,
    InvalidGraph,
    OrtNotImplemented,
    RuntimeException,
)
"""What tracing raises for a model that it cannot express, and onnxruntime for a graph that it cannot run."""


@dataclass(frozen=True)
class Traced:
    """A model's graphs in float32.

    Attributes:
        graphs: role to graph: `model`, alone or with `text_model` and `vision_model` or `audio_model`; or
            `encoder_model` and `decoder_model_merged`.
        padding_side: where rows of unlike length in a decoder's batch are padded.
    """

    graphs: Mapping[str, ir.Model]
    padding_side: str = "right"


def convert(
    module: nn.Module,
    inputs: Mapping[str, Any],
    dynamic_shapes: Mapping[str, Any],
    input_names: Sequence[str],
    output_names: Sequence[str] | None = None,
) -> ir.Model:
    """Trace `module(**inputs)`.

    Args:
        dynamic_shapes: as torch.export takes them.
        input_names: of the flattened inputs, in order.
        output_names: of the flattened outputs, in order; None where the module gives them by name, as a dict.

    Raises:
        any of FAILURES: the module cannot be traced.
    """
    with (
        garbage_waits(),
        torch.no_grad(),
        patch("transformers.exporters.utils.import_dotted_path", partial(_loaded, import_dotted_path)),
        apply_patches("dynamo"),
        apply_patches("onnx"),
        reset_model_state(module),
        _experts_together(module),
        _sizes_stay_symbols(module),
        _masks_decided(module),
        patch("transformers.exporters.utils.is_contiguous_or_false", _is_contiguous),
        spared(),
        patch("torch.export._trace.print", lambda *_, **__: None, create=True),  # the graph so far, of a failed trace
    ):
        program = torch.export.export(module, (), dict(inputs), dynamic_shapes=dict(dynamic_shapes), strict=False)
        for node in program.graph_module.graph.nodes:
            for source in node.all_input_nodes:
                source.users.setdefault(node)  # which torch loses for what stood below a `no_grad`
        _unsqueeze_real(program.graph_module)
        apply_fx_node_fixes("onnx", program.graph_module)
        program.graph_module.graph.eliminate_dead_code()
        converted = torch.onnx.export(
            program,
            (),
            input_names=list(input_names),
            output_names=list(program.call_spec.out_spec.context if output_names is None else output_names),
            opset_version=OPSET,
            custom_translation_table=dict(TRANSLATIONS),
            optimize=True,
            verbose=False,
        )
    assert converted is not None
    apply_onnx_ir_fixes(converted)
    model: ir.Model = converted.model
    ClearMetadataAndDocStringPass()(model)  # how torch traced it, which is more than the graph
    return model


def _unsqueeze_real(module: torch.fx.GraphModule) -> None:
    """Give complex tensors a new axis as pairs of real ones: there is no operator that does it as they are."""
    aten, graph = torch.ops.aten, module.graph

    def call(operator: Any, source: torch.fx.Node, *rest: int) -> torch.fx.Node:
        made = graph.call_function(operator, (source, *rest))
        made.meta["val"] = operator(source.meta["val"], *rest)
        return made

    for node in list(graph.nodes):
        if node.target is aten.unsqueeze.default and node.meta["val"].is_complex():
            source, axis = node.args
            with graph.inserting_before(node):
                pairs = call(aten.view_as_real.default, source)
                spread = call(aten.unsqueeze.default, pairs, axis if axis >= 0 else axis - 1)
                node.replace_all_uses_with(call(aten.view_as_complex.default, spread))
            graph.erase_node(node)


@contextmanager
def _experts_together(module: nn.Module) -> Iterator[None]:
    """Let experts that a model would run in a loop over the chosen ones, of which no graph can be made, run at once."""
    with ExitStack() as stack:
        for model in module.modules():
            if isinstance(model, PreTrainedModel) and "eager" in model.get_experts_implementation().values():
                stack.enter_context(use_experts_implementation(model, "grouped_mm"))
            elif type(model).__name__.endswith("Experts"):
                stack.enter_context(patch.object(model, "forward", partial(_every_expert, model, model.forward)))
        stack.enter_context(patch.object(nn.Module, "to", partialmethod(_to, nn.Module.to)))
        yield


def _every_expert(module: Any, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Run each expert, in the order of a loop over those that are hit, on its tokens, which may be none."""
    nonzero = Tensor.nonzero

    def every(tensor: Tensor, **options: Any) -> Any:
        if tensor.ndim > 1 or not isinstance(tensor.shape[0], int):
            return nonzero(tensor, **options)
        count = min(tensor.shape[0], getattr(module, "num_experts", tensor.shape[0]))  # there may be one for padding
        return [[place] for place in range(count)]

    with patch.object(Tensor, "nonzero", every):
        return forward(*given, **named)


def _to(module: nn.Module, to: Callable[..., nn.Module], *given: Any, **named: Any) -> nn.Module:
    """Leave a module alone that is to get the type that it has."""
    same = len(given) == 1 and not named and all(parameter.dtype == given[0] for parameter in module.parameters())
    return module if same else to(module, *given, **named)


@contextmanager
def _masks_decided(module: nn.Module) -> Iterator[None]:
    """Let it be known how likely EoMT's layers mask their queries, which decides what they run."""
    with ExitStack() as stack:
        for inner in module.modules():
            if (likely := inner._buffers.get("attn_mask_probs")) is not None:
                stack.enter_context(patch.dict(vars(inner), {"attn_mask_probs": likely.tolist()}))
        yield


@contextmanager
def _sizes_stay_symbols(module: nn.Module) -> Iterator[None]:
    """Let what modules make of sizes be symbols, where it would be constants: Python's `len` and `int`, and tensors."""
    with ExitStack() as stack:
        for name, swapped in (("tensor", _tensor), ("as_tensor", _tensor), ("linspace", _linspace)):
            stack.enter_context(patch.object(torch, name, partial(swapped, getattr(torch, name))))
        stack.enter_context(patch.object(torch, "max_pool1d", _max_pool1d))
        split = Tensor.split
        stack.enter_context(patch.object(Tensor, "split", lambda *given, **named: _split(split, *given, **named)))
        for name in {type(inner).__module__ for inner in module.modules()}:
            source = sys.modules[name]
            stack.enter_context(patch.object(source, "len", _length, create=True))
            stack.enter_context(patch.object(source, "int", _Integer, create=True))
            if hasattr(source, "torch_int"):
                stack.enter_context(patch.object(source, "torch_int", _Integer))
        yield


def _tensor(make: Callable[..., Tensor], data: Any, *rest: Any, **options: Any) -> Tensor:
    if not (isinstance(data, list | tuple) and _holds_symbols(data)):
        return make(data, *rest, **options)
    parts = [
        _tensor(make, part) if isinstance(part, list | tuple) else torch.scalar_tensor(part, dtype=torch.int64)
        for part in data
    ]
    return torch.stack(parts).to(options.get("dtype") or torch.int64)


def _linspace(make: Any, start: Any, end: Any, steps: Any, **options: Any) -> Any:
    if not isinstance(steps, torch.SymInt):
        return make(start, end, steps, **options)
    tools: Any = torch
    return start + tools.arange(steps, **options) * ((end - start) / tools.sym_max(steps - 1, 1))


def _max_pool1d(
    tensor: Tensor, size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, *rest: bool
) -> Tensor:
    """In two dimensions, where torch keeps sizes that are symbols."""
    size, stride, padding, dilation = (
        tuple(given) if isinstance(given, list | tuple) else (given,) for given in (size, stride, padding, dilation)
    )
    sizes = ((1, *size), (1, *(stride or size)), (0, *padding), (1, *dilation))
    return torch.max_pool2d(tensor.unsqueeze(-2), *sizes, *rest).squeeze(-2)


def _split(split: Callable[..., Any], tensor: Any, split_size: Any, dim: int = 0) -> Any:
    """Into parts of a symbol's size, which torch would take for as many as there happen to be, and fix it."""
    size = tensor.shape[dim]
    if isinstance(split_size, torch.SymInt) and isinstance(size, torch.SymInt):
        count = size.node.expr / split_size.node.expr
        if count.is_Integer:
            return tensor.unflatten(dim, (int(count), split_size)).unbind(dim)
    return split(tensor, split_size, dim)


def _holds_symbols(data: Any) -> bool:
    if isinstance(data, list | tuple):
        return any(map(_holds_symbols, data))
    return isinstance(data, torch.SymInt)


def _length(sized: Any) -> Any:
    return sized.shape[0] if isinstance(sized, Tensor) else len(sized)


class _IntegerType(type):
    """In the place of `int`, as a function and as a type to ask for."""

    def __call__(cls, *values: Any) -> Any:
        if isinstance(values[0], torch.SymInt | torch.SymFloat):
            return torch.sym_int(values[0])  # type: ignore[no-untyped-call]
        return int(*values)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)


class _Integer(metaclass=_IntegerType):
    pass


def _is_contiguous(tensor: Tensor) -> bool:
    """What the patch of `reshape` asks of every tensor, without recording the arithmetic on sizes in the trace."""
    with disable_proxy_modes_tracing():
        return bool(is_contiguous_or_false(tensor))


def _loaded(find: Callable[..., Any], path: str, **options: Any) -> Any:
    """What a patch is meant for, unless that is in the code of a model that nobody loaded."""
    if path.startswith("transformers.models.") and ".".join(path.split(".")[:4]) not in sys.modules:
        return None
    return find(path, **options)


def name_axes(model: ir.Model, axes: Mapping[str, Sequence[int | str]]) -> ir.Model:
    """Give the axes of inputs and outputs that vary speaking names, after checking that no input was folded away.

    Raises:
        ExportError: an input is gone, or the batch axis of one was fixed.
    """
    graph = model.graph
    values = {str(value.name): value for value in [*graph.inputs, *graph.outputs]}
    lost = sorted(set(axes) - set(values))
    if lost:
        raise ExportError(f"the trace folded {', '.join(lost)} away")
    symbols: dict[str, str] = {}
    for name, wanted in axes.items():
        shape = values[name].shape
        if shape is None:
            continue
        for position, (old, new) in enumerate(zip(shape, wanted, strict=True)):
            if isinstance(new, str) and not isinstance(old, int):
                symbols.setdefault(str(old), new)
            elif isinstance(old, int) and position == 0 and str(new).endswith("batch_size"):
                raise ExportError(f"the trace fixed the batch size of {name} to {old}")
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([symbols.get(str(dim), dim) for dim in value.shape])
    graph.name = "wherry"
    return model
