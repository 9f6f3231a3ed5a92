"""An encoder with a decoder to two graphs: the encoder's, and one decoder's for its first step and all later ones."""

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from wherry_exporter.cache import Pairs, cache_axes, layer_shapes, pairs_of
from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.inputs import BATCH, SEQUENCE, axes_of, free_axes, input_names, parameters_of
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.merge import merge_cross_attention
from wherry_exporter.seq2seq import encoder_decoder_of

ENCODER_SEQUENCE = "encoder_sequence_length"


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

    def __init__(self, model: Any, kind: type[Any]) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, encoder_hidden_states: Tensor) -> Pairs:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.model(
            decoder_input_ids=encoder_hidden_states.new_zeros(encoder_hidden_states.shape[0], 1, dtype=torch.int64),
            encoder_outputs=self.kind(last_hidden_state=encoder_hidden_states),
            past_key_values=cache,
            use_cache=True,
        )
        return pairs_of(cache.cross_attention_cache)


class _CrossDecoder(nn.Module):
    """A decoder's step on cached keys and values of the encoder's states, which it needs the shape of alone."""

    def __init__(self, model: Any, kind: type[Any], size: int, *, masked: bool) -> None:
        super().__init__()
        self.model, self.kind, self.size, self.masked = model, kind, size, masked

    def forward(self, input_ids: Tensor, encoder_attention_mask: Tensor, past: Pairs, cross: Pairs) -> Any:
        cache = EncoderDecoderCache(DynamicCache(past), DynamicCache(cross))
        cache.is_updated = dict.fromkeys(range(len(cross)), True)
        states = cross[0][0].new_zeros(input_ids.shape[0], cross[0][0].shape[2], self.size)
        output = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=self.kind(last_hidden_state=states),
            past_key_values=cache,
            use_cache=True,
            **({"attention_mask": encoder_attention_mask} if self.masked else {}),
        )
        return output.logits, pairs_of(cache.self_attention_cache)


def fused_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    model = encoder_decoder_of(checkpoint.model)
    encoder_inputs = _encoder_inputs(model)
    with lowered(checkpoint.model, decoder=False) as lowering:
        encoder = _trace_encoder(model, lowering, *encoder_inputs)
        if not lowering.calls:
            raise NotLowered("no layer of the encoder uses transformers' attention interface")
    return _with_decoder(model, encoder, encoder_inputs[1])


def plain_encoder_and_decoder(checkpoint: Checkpoint) -> Traced:
    model = encoder_decoder_of(checkpoint.model)
    encoder_inputs = _encoder_inputs(model)
    encoder = _trace_encoder(model, None, *encoder_inputs)
    return _with_decoder(model, encoder, encoder_inputs[1])


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
        encoded = model.get_encoder()(**inputs)
        trial = model(decoder_input_ids=torch.ones(2, 2, dtype=torch.int64), encoder_outputs=encoded, use_cache=True)
    own = layer_shapes(model, trial.past_key_values.self_attention_cache)
    cross = layer_shapes(model, trial.past_key_values.cross_attention_cache)
    own_names, own_axes = cache_axes(own, "decoder.", "past_decoder_sequence_length", "total_decoder_sequence_length")
    cross_names, cross_axes = cache_axes(cross, "encoder.", ENCODER_SEQUENCE, ENCODER_SEQUENCE)
    states, kind = encoded.last_hidden_state, type(encoded)
    size, longest = states.shape[2], states.shape[1]

    projections = convert(
        _CrossAttention(model, kind),
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
        _CrossDecoder(model, kind, size, masked=masked),
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
