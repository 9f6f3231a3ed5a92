"""A checkpoint's torch module to ONNX graphs, with the names and axes that the ecosystem knows.

Three shapes of model: one that runs in one go, a decoder with past_key_values, and an encoder with a decoder. A model
may be traced in several ways; which of them serves is seen by measuring, not decided here. Knows no architecture, no
precision and no file.
"""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache

from wherry_exporter.cache import Pairs, cache_axes, cache_shapes, pairs_of
from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.inputs import (
    BATCH,
    PAST,
    SEQUENCE,
    TEXT,
    TOTAL,
    axes_of,
    free_axes,
    input_names,
    parameters_of,
    random_inputs,
)
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.pair import fused_encoder_and_decoder, plain_encoder_and_decoder
from wherry_exporter.tasks import TASKS, shape_of
from wherry_exporter.towers import parts_of


def ways(checkpoint: Checkpoint) -> dict[str, Callable[[Checkpoint], Traced]]:
    """The ways to trace a checkpoint, the one that gives the fastest graph first.

    A way gives float32 graphs or raises `NotLowered`, `ExportError` or one of `convert.FAILURES`.
    """
    shape = shape_of(checkpoint.task, checkpoint.model)
    if shape == "decoder":
        return {"fused": _fused_decoder, "plain": _plain_decoder}
    if shape == "encoder-decoder":
        return {"fused": fused_encoder_and_decoder, "plain": plain_encoder_and_decoder}
    sized = not set(input_names(checkpoint.model)) <= set(TEXT)
    return {"fused": _fused_model, "plain": _plain_model, **({"of one size": _fixed_model} if sized else {})}


def output_names(checkpoint: Checkpoint) -> list[str]:
    """Which of a model's outputs become outputs of its graph: those of its task, else every tensor it gives."""
    inputs = random_inputs(checkpoint.model, input_names(checkpoint.model), batch=2, scale=1, seed=0)
    with torch.no_grad():
        outputs = checkpoint.model(**inputs)
    given = [name for name, value in outputs.items() if isinstance(value, Tensor)]
    return [name for name in TASKS[checkpoint.task].outputs if name in given] or given


class _Model(nn.Module):
    def __init__(self, model: Any, outputs: list[str], lowering: Lowering | None) -> None:
        super().__init__()
        self.model, self.outputs, self.lowering = model, outputs, lowering

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        if self.lowering:
            self.lowering.begin(inputs.get("attention_mask"))
        outputs = self.model(**inputs)
        return tuple(outputs[name] for name in self.outputs)


def _fused_model(checkpoint: Checkpoint) -> Traced:
    parts = parts_of(checkpoint)
    mixed = {role for role, part in parts.items() if _attends_to_two(input_names(part.model))}
    if mixed == set(parts):
        raise NotLowered("it attends to text and to something else, and one attention_mask is not for both")
    return Traced(
        {
            role: _plain_graph(part) if role in mixed else _fused_graph(part, checkpoint.model)
            for role, part in parts.items()
        }
    )


def _plain_model(checkpoint: Checkpoint) -> Traced:
    return Traced({role: _plain_graph(part) for role, part in parts_of(checkpoint).items()})


def _fixed_model(checkpoint: Checkpoint) -> Traced:
    return Traced({role: _plain_graph(part, sizes=False) for role, part in parts_of(checkpoint).items()})


def _attends_to_two(names: list[str]) -> bool:
    return "attention_mask" in names and not set(names) <= set(TEXT)


def _fused_graph(part: Checkpoint, whole: Any) -> ir.Model:
    outputs, traced_with = output_names(part), free_axes(part.model, input_names(part.model))
    with lowered(whole, decoder=False) as lowering:
        graph = _trace_model(part.model, outputs, traced_with, lowering)
        if not lowering.calls:
            raise NotLowered("no layer uses transformers' attention interface")
    return graph


def _plain_graph(part: Checkpoint, *, sizes: bool = True) -> ir.Model:
    traced_with = free_axes(part.model, input_names(part.model), sizes=sizes)
    return _trace_model(part.model, output_names(part), traced_with, None)


def _trace_model(model: Any, outputs: list[str], traced_with: Any, lowering: Lowering | None) -> ir.Model:
    shapes, inputs = traced_with
    graph = convert(_Model(model, outputs, lowering), {"inputs": inputs}, {"inputs": shapes}, list(shapes), outputs)
    return name_axes(graph, {name: axes_of(model, name) for name in shapes})


class _FusedDecoder(nn.Module):
    def __init__(self, model: Any, lowering: Lowering) -> None:
        super().__init__()
        self.model, self.lowering = model, lowering

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, Pairs]:
        self.lowering.begin(attention_mask, past)
        positions = _positions(attention_mask, input_ids.shape[1])
        output = self.model(input_ids=input_ids, position_ids=positions, use_cache=False)
        if len(self.lowering.present) != len(past):
            count = len(self.lowering.present)
            raise NotLowered(f"{count} of {len(past)} layers use transformers' attention interface")
        return output.logits, self.lowering.present


class _PlainDecoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.takes = model, set(parameters_of(model))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, Pairs]:
        cache = DynamicCache(past)
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}
        if "position_ids" in self.takes:
            inputs["position_ids"] = _positions(attention_mask, input_ids.shape[1])
        output = self.model(**inputs, use_cache=True)
        return output.logits, pairs_of(cache)


def _positions(attention_mask: Tensor, length: int) -> Tensor:
    """Position of each new token among the real ones of its row."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:]


def _fused_decoder(checkpoint: Checkpoint) -> Traced:
    shapes = cache_shapes(checkpoint.model)
    with lowered(checkpoint.model, decoder=True) as lowering:
        graph = _trace_decoder(_FusedDecoder(checkpoint.model, lowering), shapes)
    return Traced({"model": graph}, padding_side="right")


def _plain_decoder(checkpoint: Checkpoint) -> Traced:
    model = checkpoint.model
    return Traced({"model": _trace_decoder(_PlainDecoder(model), cache_shapes(model))}, padding_side="left")


def _trace_decoder(module: nn.Module, shapes: list[tuple[int, int, int]]) -> ir.Model:
    ids = torch.ones(2, 3, dtype=torch.int64)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, -1] = 0
    past = [(torch.zeros(2, heads, 4, key), torch.zeros(2, heads, 4, value)) for heads, key, value in shapes]
    batch, cached = Dim(BATCH), {0: Dim(BATCH), 2: Dim(PAST)}
    dynamic = {
        "input_ids": {0: batch, 1: Dim.DYNAMIC},
        "attention_mask": {0: batch, 1: Dim.DYNAMIC},
        "past": [(cached, cached) for _ in shapes],
    }
    names, axes = cache_axes(shapes)
    graph = convert(
        module,
        {"input_ids": ids, "attention_mask": mask, "past": past},
        dynamic,
        ["input_ids", "attention_mask", *(f"past_key_values.{name}" for name in names)],
        ["logits", *(f"present.{name}" for name in names)],
    )
    return name_axes(graph, {"input_ids": (BATCH, SEQUENCE), "attention_mask": (BATCH, TOTAL), **axes})
