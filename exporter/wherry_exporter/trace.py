"""A checkpoint's torch module to ONNX graphs, with the names and axes that the ecosystem knows.

Three shapes of model: one that runs in one go, a decoder with past_key_values, and an encoder with a decoder. A model
may be traced in several ways; which of them serves is seen by measuring, not decided here. Knows no architecture, no
precision and no file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from wherry_exporter.convert import convert, name_axes
from wherry_exporter.errors import ExportError
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
from wherry_exporter.merge import merge_cross_attention
from wherry_exporter.tasks import TASKS, shape_of

ENCODER_SEQUENCE = "encoder_sequence_length"
Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Traced:
    """A model's graphs in float32.

    Attributes:
        graphs: role to graph: `model`, or `encoder_model` and `decoder_model_merged`.
        padding_side: where rows of unlike length in a decoder's batch are padded.
    """

    graphs: Mapping[str, ir.Model]
    padding_side: str = "right"


def ways(checkpoint: Checkpoint) -> dict[str, Callable[[Checkpoint], Traced]]:
    """The ways to trace a checkpoint, the one that gives the fastest graph first.

    A way gives float32 graphs or raises `NotLowered`, `ExportError` or one of `convert.FAILURES`.
    """
    shape = shape_of(checkpoint.task, checkpoint.model)
    if shape == "decoder":
        return {"fused": _fused_decoder, "plain": _plain_decoder}
    if shape == "encoder-decoder":
        return {"fused": _fused_encoder_and_decoder, "plain": _plain_encoder_and_decoder}
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
    model = checkpoint.model
    names = input_names(model)
    if "attention_mask" in names and not set(names) <= set(TEXT):
        raise NotLowered("it attends to text and to something else, and one attention_mask is not for both")
    outputs, traced_with = output_names(checkpoint), free_axes(model, names)
    with lowered(model, decoder=False) as lowering:
        graph = _trace_model(model, outputs, traced_with, lowering)
        if not lowering.calls:
            raise NotLowered("no layer uses transformers' attention interface")
    return Traced({"model": graph})


def _plain_model(checkpoint: Checkpoint) -> Traced:
    model = checkpoint.model
    traced_with = free_axes(model, input_names(model))
    return Traced({"model": _trace_model(model, output_names(checkpoint), traced_with, None)})


def _fixed_model(checkpoint: Checkpoint) -> Traced:
    model = checkpoint.model
    traced_with = free_axes(model, input_names(model), sizes=False)
    return Traced({"model": _trace_model(model, output_names(checkpoint), traced_with, None)})


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
        return output.logits, _pairs(cache)


def _positions(attention_mask: Tensor, length: int) -> Tensor:
    """Position of each new token among the real ones of its row."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:]


def _pairs(cache: Any) -> Pairs:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _fused_decoder(checkpoint: Checkpoint) -> Traced:
    shapes = cache_shapes(checkpoint.model)
    with lowered(checkpoint.model, decoder=True) as lowering:
        graph = _trace_decoder(_FusedDecoder(checkpoint.model, lowering), shapes)
    return Traced({"model": graph}, padding_side="right")


def _plain_decoder(checkpoint: Checkpoint) -> Traced:
    model = checkpoint.model
    return Traced({"model": _trace_decoder(_PlainDecoder(model), cache_shapes(model))}, padding_side="left")


def cache_shapes(model: Any) -> list[tuple[int, int, int]]:
    """Key/value heads, key size and value size of each layer's cache, seen by running the model.

    Raises:
        ExportError: the model keeps no keys and values, or no such cache for each layer.
    """
    with torch.no_grad():
        past = model(input_ids=torch.ones(1, 2, dtype=torch.int64), use_cache=True).past_key_values
    return _layer_shapes(model, past)


def _layer_shapes(model: Any, past: Any) -> list[tuple[int, int, int]]:
    layers = getattr(past, "layers", None) or []
    if not layers or not all(isinstance(getattr(layer, "keys", None), Tensor) for layer in layers):
        raise ExportError(f"{type(model).__name__} keeps a state between steps that is not keys and values alone")
    return [(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers]


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
    names, axes = _cache_axes(shapes)
    graph = convert(
        module,
        {"input_ids": ids, "attention_mask": mask, "past": past},
        dynamic,
        ["input_ids", "attention_mask", *(f"past_key_values.{name}" for name in names)],
        ["logits", *(f"present.{name}" for name in names)],
    )
    return name_axes(graph, {"input_ids": (BATCH, SEQUENCE), "attention_mask": (BATCH, TOTAL), **axes})


def _cache_axes(
    shapes: list[tuple[int, int, int]], kind: str = "", past: str = PAST, present: str = TOTAL
) -> tuple[list[str], dict[str, tuple[int | str, ...]]]:
    """Names of the caches, and their axes as inputs and outputs; `kind` goes between layer and key or value."""
    names: list[str] = []
    axes: dict[str, tuple[int | str, ...]] = {}
    for layer, (heads, *sizes) in enumerate(shapes):
        for part, size in zip(("key", "value"), sizes, strict=True):
            name = f"{layer}.{kind}{part}"
            names.append(name)
            axes[f"past_key_values.{name}"] = (BATCH, heads, past, size)
            axes[f"present.{name}"] = (BATCH, heads, present, size)
    return names, axes


class _Encoder(nn.Module):
    def __init__(self, model: Any, lowering: Lowering | None) -> None:
        super().__init__()
        self.encoder, self.lowering = model.get_encoder(), lowering

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.lowering:
            self.lowering.begin(inputs.get("attention_mask"))
        states: Tensor = self.encoder(**inputs).last_hidden_state
        return states


class _CrossAttention(nn.Module):
    """The keys and values that a decoder's cross-attention makes of the encoder's states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoder_hidden_states: Tensor) -> Pairs:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.model(
            decoder_input_ids=encoder_hidden_states.new_zeros(encoder_hidden_states.shape[0], 1, dtype=torch.int64),
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            past_key_values=cache,
            use_cache=True,
        )
        return _pairs(cache.cross_attention_cache)


class _CrossDecoder(nn.Module):
    """A decoder's step on cached keys and values of the encoder's states, which it needs the shape of alone."""

    def __init__(self, model: Any, size: int, *, masked: bool) -> None:
        super().__init__()
        self.model, self.size, self.masked = model, size, masked

    def forward(self, input_ids: Tensor, encoder_attention_mask: Tensor, past: Pairs, cross: Pairs) -> Any:
        cache = EncoderDecoderCache(DynamicCache(past), DynamicCache(cross))
        cache.is_updated = dict.fromkeys(range(len(cross)), True)
        states = cross[0][0].new_zeros(input_ids.shape[0], cross[0][0].shape[2], self.size)
        output = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            past_key_values=cache,
            use_cache=True,
            **({"attention_mask": encoder_attention_mask} if self.masked else {}),
        )
        return output.logits, _pairs(cache.self_attention_cache)


def _fused_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    model = checkpoint.model
    encoder_inputs = _encoder_inputs(model)
    with lowered(model, decoder=False) as lowering:
        encoder = _trace_encoder(model, lowering, *encoder_inputs)
        if not lowering.calls:
            raise NotLowered("no layer of the encoder uses transformers' attention interface")
    return _with_decoder(model, encoder, encoder_inputs[1])


def _plain_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    encoder_inputs = _encoder_inputs(checkpoint.model)
    encoder = _trace_encoder(checkpoint.model, None, *encoder_inputs)
    return _with_decoder(checkpoint.model, encoder, encoder_inputs[1])


def _encoder_inputs(model: Any) -> tuple[dict[str, dict[int, Any]], dict[str, Tensor]]:
    encoder = model.get_encoder()
    return free_axes(encoder, [name for name in input_names(model) if name in parameters_of(encoder)])


def _trace_encoder(
    model: Any, lowering: Lowering | None, shapes: dict[str, dict[int, Any]], inputs: dict[str, Tensor]
) -> ir.Model:
    encoder = convert(
        _Encoder(model, lowering), {"inputs": inputs}, {"inputs": shapes}, list(shapes), ["last_hidden_state"]
    )
    axes = {name: axes_of(model, name) for name in shapes}
    return name_axes(encoder, {**axes, "last_hidden_state": (BATCH, ENCODER_SEQUENCE, "hidden_size")})


def _with_decoder(model: Any, encoder: ir.Model, inputs: dict[str, Tensor]) -> Traced:
    """The encoder's graph, and one decoder graph for the first step and all later ones.

    The decoder's cross-attention keys and values are computed in the first step, where `use_cache_branch` is false, and
    handed back as `present.N.encoder.key` and `.value`; later steps take them as they are.
    """
    batch = Dim(BATCH)
    with torch.no_grad():
        states = model.get_encoder()(**inputs).last_hidden_state
        trial = _run_decoder(model, torch.ones(2, 2, dtype=torch.int64), states)
    own = _layer_shapes(model, trial.self_attention_cache)
    cross = _layer_shapes(model, trial.cross_attention_cache)
    own_names, own_axes = _cache_axes(own, "decoder.", "past_decoder_sequence_length", "total_decoder_sequence_length")
    cross_names, cross_axes = _cache_axes(cross, "encoder.", ENCODER_SEQUENCE, ENCODER_SEQUENCE)
    size, longest = states.shape[2], states.shape[1]

    projections = convert(
        _CrossAttention(model),
        {"encoder_hidden_states": states},
        {"encoder_hidden_states": {0: batch, 1: Dim.AUTO}},
        ["encoder_hidden_states"],
        [f"present.{name}" for name in cross_names],
    )
    masked = "attention_mask" in inputs
    past = [(torch.zeros(2, heads, 4, key), torch.zeros(2, heads, 4, value)) for heads, key, value in own]
    fixed = [
        (torch.randn(2, heads, longest, key), torch.randn(2, heads, longest, value)) for heads, key, value in cross
    ]
    cached = {0: batch, 2: Dim.AUTO}
    mask = torch.ones(2, longest, dtype=torch.int64)
    mask[1, -1] = 0
    step = convert(
        _CrossDecoder(model, size, masked=masked),
        {
            "input_ids": torch.ones(2, 3, dtype=torch.int64),
            "encoder_attention_mask": mask,
            "past": past,
            "cross": fixed,
        },
        {
            "input_ids": {0: batch, 1: Dim.AUTO},
            "encoder_attention_mask": {0: batch, 1: Dim.AUTO},
            "past": [(cached, cached) for _ in own],
            "cross": [(cached, cached) for _ in cross],
        },
        [
            "input_ids",
            "encoder_attention_mask",
            *(f"past_key_values.{name}" for name in own_names),
            *(f"past_key_values.{name}" for name in cross_names),
        ],
        ["logits", *(f"present.{name}" for name in own_names)],
    )
    decoder = merge_cross_attention(step, projections, cross_names, masked=masked)
    decoder_axes: dict[str, tuple[int | str, ...]] = {
        "input_ids": (BATCH, SEQUENCE),
        "encoder_hidden_states": (BATCH, ENCODER_SEQUENCE, size),
        **({"encoder_attention_mask": (BATCH, ENCODER_SEQUENCE)} if masked else {}),
        **own_axes,
        **cross_axes,
    }
    name_axes(decoder, decoder_axes)
    return Traced({"encoder_model": encoder, "decoder_model_merged": decoder})


def _run_decoder(model: Any, ids: Tensor, states: Tensor) -> Any:
    output = model(decoder_input_ids=ids, encoder_outputs=BaseModelOutput(last_hidden_state=states), use_cache=True)
    return output.past_key_values
