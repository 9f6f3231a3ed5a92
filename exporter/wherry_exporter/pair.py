"""An encoder with a decoder to two graphs: the encoder's, and one decoder's for its first step and all later ones."""

from contextlib import nullcontext
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from wherry_exporter.cache import Pairs, cache_axes, layer_shapes, pairs_of
from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import (
    BATCH,
    SEQUENCE,
    TEXT,
    axes_of,
    free_axes,
    input_names,
    parameters_of,
    random_inputs,
)
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.merge import merge_cross_attention
from wherry_exporter.seq2seq import Step, TokenStep, encoder_decoder_of
from wherry_exporter.sizes import ShortSizes
from wherry_exporter.stepwise import repeat_step
from wherry_exporter.windows import windows_as_masks

ENCODER_SEQUENCE = "encoder_sequence_length"
STATES = 32
"""Of an encoder, as many as a decoder needs to be traced over."""
EMBEDDED = (BATCH, SEQUENCE, "hidden_size")


class _Encoder(nn.Module):
    def __init__(self, model: Any, lowering: Lowering | None) -> None:
        super().__init__()
        self.encoder, self.lowering = model.get_encoder(), lowering

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.lowering:
            self.lowering.begin(inputs.get("attention_mask"))
        sizes = nullcontext() if set(inputs) <= {*TEXT, "inputs_embeds"} else ShortSizes()
        with windows_as_masks(self.encoder), sizes:
            states: Tensor = self.encoder(**inputs).last_hidden_state
        return states


class _CrossAttention(nn.Module):
    """The keys and values that a decoder's cross-attention makes of the encoder's states."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, encoder_hidden_states: Tensor) -> Pairs:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        rows = self.step.rows * encoder_hidden_states.shape[0]
        inputs = {
            name: torch.zeros(rows, *value.shape[1:], dtype=value.dtype) for name, value in self.step.inputs.items()
        }
        self.step(inputs, encoder_hidden_states, None, cache)
        return pairs_of(cache.cross_attention_cache)


class _CrossDecoder(nn.Module):
    """A decoder's step on cached keys and values of the encoder's states, which it needs the shape of alone."""

    def __init__(self, model: nn.Module, step: Step, size: int, *, masked: bool) -> None:
        super().__init__()
        self.model, self.step, self.size, self.masked = model, step, size, masked

    def forward(self, inputs: dict[str, Tensor], encoder_attention_mask: Tensor, past: Pairs, cross: Pairs) -> Any:
        cache = EncoderDecoderCache(DynamicCache(past), DynamicCache(cross))
        cache.is_updated = dict.fromkeys(range(len(cross)), True)
        key = cross[0][0]
        states = key.new_zeros(key.shape[0], key.shape[2], self.size)
        outputs = self.step(inputs, states, encoder_attention_mask if self.masked else None, cache)
        return *outputs, pairs_of(cache.self_attention_cache)


def fused_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    return _traced(checkpoint, fused=True)


def plain_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    return _traced(checkpoint)


def encoder_of_one_size_and_decoder(checkpoint: Checkpoint) -> Traced:
    return _traced(checkpoint, sizes=False)


def stepwise_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    """With a decoder as transformers has it for one token at a time; its graph repeats that over its tokens."""
    return _traced(checkpoint, stepwise=True)


def _traced(checkpoint: Checkpoint, *, fused: bool = False, sizes: bool = True, stepwise: bool = False) -> Traced:
    model = encoder_decoder_of(checkpoint.model)
    shapes, inputs = _encoder_inputs(model, sizes=sizes)
    with torch.no_grad():
        encoded = model.get_encoder()(**{name: value[:1] for name, value in inputs.items()})
    step = TokenStep(model, type(encoded), 1 if stepwise else 3)
    states = encoded.last_hidden_state[:, :STATES].repeat(2, 1, 1)
    if not stepwise and not _takes_several(step, states):
        raise NotLowered("its decoder computes something else of several tokens at once")
    if fused:
        with lowered(checkpoint.model, decoder=False) as lowering:
            encoder = _trace_encoder(model, lowering, shapes, inputs)
            if not lowering.calls:
                raise NotLowered("no layer of the encoder uses transformers' attention interface")
    else:
        encoder = _trace_encoder(model, None, shapes, inputs)
    aligned = bool(getattr(model.generation_config, "alignment_heads", None))
    decoder = trace_decoder(model, step, states, masked="attention_mask" in inputs, stepwise=stepwise, aligned=aligned)
    return Traced({"encoder_model": encoder, "decoder_model_merged": decoder})


def _takes_several(step: Step, states: Tensor) -> bool:
    """Whether a decoder makes the same of several tokens at once as of one after another."""
    at_once, one_by_one = (EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in range(2))
    with torch.no_grad():
        expected = [
            step({name: value[:, at : at + 1] for name, value in step.inputs.items()}, states, None, one_by_one)[0]
            for at in range(3)
        ]
        found = step(step.inputs, states, None, at_once)[0]
    return torch.allclose(found, torch.cat(expected, 1), rtol=1e-3, atol=1e-3)


def _encoder_inputs(model: Any, *, sizes: bool) -> tuple[dict[str, dict[int, Any]], dict[str, Tensor]]:
    encoder = model.get_encoder()
    if model.main_input_name == "inputs_embeds":
        text = random_inputs(model, ["input_ids", "attention_mask"], batch=2, scale=1, seed=0)
        embeddings = model.get_input_embeddings()(text["input_ids"]).detach()
        inputs = {"inputs_embeds": embeddings, "attention_mask": text["attention_mask"]}
        return {name: {0: Dim(BATCH), 1: Dim.AUTO} for name in inputs}, inputs
    names = [name for name in input_names(model) if name in parameters_of(encoder)]
    return free_axes(encoder, names, sizes=sizes)


def _trace_encoder(
    model: Any, lowering: Lowering | None, shapes: dict[str, dict[int, Any]], inputs: dict[str, Tensor]
) -> ir.Model:
    encoder = convert(
        _Encoder(model, lowering), {"inputs": inputs}, {"inputs": shapes}, list(shapes), ["last_hidden_state"]
    )
    axes = {name: EMBEDDED if name == "inputs_embeds" else axes_of(model, name) for name in shapes}
    return name_axes(encoder, {**axes, "last_hidden_state": (BATCH, ENCODER_SEQUENCE, "hidden_size")})


def trace_decoder(
    model: nn.Module, step: Step, states: Tensor, *, masked: bool, stepwise: bool = False, aligned: bool = False
) -> ir.Model:
    """One decoder graph for the first step and all later ones.

    The decoder's cross-attention keys and values are computed in the first step, where `use_cache_branch` is false, and
    handed back as `present.N.encoder.key` and `.value`; later steps take them as they are.

    Args:
        model: what `step` runs.
        states: of the encoder, for a batch of two.
        masked: whether the decoder takes `encoder_attention_mask`.
        stepwise: whether `step` takes one token, which the graph repeats for each of its tokens.
        aligned: whether the graph also gives `cross_attentions.N`, how much of each state each token attends to.
    """
    batch, trial = Dim(BATCH), EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad():
        step(step.inputs, states, None, trial)
    own = layer_shapes(model, trial.self_attention_cache)
    cross = layer_shapes(model, trial.cross_attention_cache)
    own_names, own_axes = cache_axes(own, "decoder.", "past_decoder_sequence_length", "total_decoder_sequence_length")
    cross_names, cross_axes = cache_axes(
        cross, "encoder.", "past_encoder_sequence_length", "present_encoder_sequence_length"
    )
    size, longest = states.shape[2], states.shape[1]

    projections = convert(
        _CrossAttention(model, step),
        {"encoder_hidden_states": states},
        {"encoder_hidden_states": {0: batch, 1: Dim.AUTO}},
        ["encoder_hidden_states"],
        [f"present.{name}" for name in cross_names],
    )
    past = [(torch.zeros(2, heads, 4, key), torch.zeros(2, heads, 4, value)) for heads, key, value in own]
    fixed = [
        (torch.randn(2, heads, longest, key), torch.randn(2, heads, longest, value)) for heads, key, value in cross
    ]
    cached = {0: batch, 2: Dim.AUTO}
    mask = torch.ones(2, longest, dtype=torch.int64)
    mask[1, -1] = 0
    free = {
        name: {0: batch if step.rows == 1 else step.rows * batch}
        | {at: Dim.AUTO for at, axis in enumerate(step.axes[name]) if at and isinstance(axis, str) and not stepwise}
        for name in step.inputs
    }
    decoder = convert(
        _CrossDecoder(model, step, size, masked=masked),
        {"inputs": dict(step.inputs), "encoder_attention_mask": mask, "past": past, "cross": fixed},
        {
            "inputs": free,
            "encoder_attention_mask": {0: batch, 1: Dim.AUTO},
            "past": [(cached, cached) for _ in own],
            "cross": [(cached, cached) for _ in cross],
        },
        [
            *step.inputs,
            "encoder_attention_mask",
            *(f"past_key_values.{name}" for name in own_names),
            *(f"past_key_values.{name}" for name in cross_names),
        ],
        [*step.outputs, *(f"present.{name}" for name in own_names)],
    )
    if stepwise:
        decoder = repeat_step(name_axes(decoder, own_axes), encoded=True)
    attentions = [_attention(decoder.graph, layer) for layer in range(len(cross))] if aligned else []
    decoder = merge_cross_attention(decoder, projections, cross_names, masked=masked)
    decoder.graph.outputs.extend(attentions)
    axes: dict[str, tuple[int | str, ...]] = {
        **step.axes,
        "encoder_hidden_states": (BATCH, ENCODER_SEQUENCE, size),
        **({"encoder_attention_mask": (BATCH, ENCODER_SEQUENCE)} if masked else {}),
        **own_axes,
        **cross_axes,
    }
    return name_axes(decoder, axes)


def _attention(graph: ir.Graph, layer: int) -> ir.Value:
    """What the softmax of a layer's cross-attention gives, named for an output: (batch, heads, tokens, states).

    Raises:
        ExportError: no softmax follows the layer's keys.
    """
    values = [value for value in graph.inputs if value.name == f"past_key_values.{layer}.encoder.key"]
    for value in values:
        for use in value.uses():
            found = use.node.outputs[0]
            if use.node.op_type == "Softmax" and found.shape is not None:
                found.name = f"cross_attentions.{layer}"
                found.shape = ir.Shape([BATCH, found.shape[1], SEQUENCE, ENCODER_SEQUENCE])
                return found
            if use.node.op_type in ("Reshape", "Transpose", "Mul", "MatMul", "Add"):
                values.append(found)
    raise ExportError(f"the cross-attention of layer {layer} is not in the decoder's graph")
