"""A checkpoint's torch module to ONNX graphs, with the names and axes that the ecosystem knows.

Shapes of model: one that runs in one go, a decoder with past_key_values, an encoder with a decoder, a decoder that
sees images or hears sounds, one that speaks, one that composes, and one that writes frame by frame. A model may be
traced in several ways; which of them serves is seen by measuring, not decided here. Knows no architecture, no precision
and no file.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn

from wherry_exporter.audio_language import AUDIO_LANGUAGE
from wherry_exporter.codec import of_any_length
from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.crops import crops_for_all
from wherry_exporter.decoder import fused_decoder, plain_decoder, rereading_decoder, stepwise_decoder
from wherry_exporter.errors import ExportError
from wherry_exporter.forecast import series_together
from wherry_exporter.inputs import TEXT, axes_of, free_axes, input_names, tensors_of
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.music import text_to_codes
from wherry_exporter.pair import (
    encoder_of_one_size_and_decoder,
    fused_encoder_and_decoder,
    plain_encoder_and_decoder,
    stepwise_encoder_and_decoder,
)
from wherry_exporter.sizes import ShortSizes
from wherry_exporter.speech import text_to_frames
from wherry_exporter.stretched import stretched
from wherry_exporter.strided import strided_positions
from wherry_exporter.tasks import TASKS, shape_of
from wherry_exporter.towers import parts_of
from wherry_exporter.transducer import sound_to_tokens
from wherry_exporter.vision_language import VISION_LANGUAGE
from wherry_exporter.windows import windows_as_masks


def ways(checkpoint: Checkpoint) -> Mapping[str, Callable[[Checkpoint], Traced]]:
    """The ways to trace a checkpoint, the one that gives the fastest graph first.

    A way gives float32 graphs or raises `NotLowered`, `ExportError` or one of `convert.FAILURES`.
    """
    shape = shape_of(checkpoint.task, checkpoint.model)
    if shape == "decoder":
        return {
            "fused": lambda checkpoint: Traced({"model": fused_decoder(checkpoint.model)}, padding_side="right"),
            "plain": lambda checkpoint: Traced({"model": plain_decoder(checkpoint.model)}, padding_side="left"),
            "stepwise": lambda checkpoint: Traced({"model": stepwise_decoder(checkpoint.model)}, padding_side="left"),
            "rereading": lambda checkpoint: Traced({"model": rereading_decoder(checkpoint.model)}, padding_side="left"),
        }
    if shape == "vision-language":
        return VISION_LANGUAGE
    if shape == "audio-language":
        return AUDIO_LANGUAGE
    if shape == "speech":
        return {"plain": text_to_frames}
    if shape == "music":
        return {"plain": text_to_codes}
    if shape == "transducer":
        return {"plain": sound_to_tokens}
    sized = not set(input_names(checkpoint.model)) <= set(TEXT)
    if shape == "encoder-decoder":
        return {
            "fused": fused_encoder_and_decoder,
            "plain": plain_encoder_and_decoder,
            **({"of one size": encoder_of_one_size_and_decoder} if sized else {}),
            "stepwise": stepwise_encoder_and_decoder,
        }
    if TASKS[checkpoint.task].auto == "image-text-to-text":
        kind = type(checkpoint.model).__name__
        reason = "it is fed with images first, and its graphs would not generate"
        raise ExportError(f"{kind} cannot be exported for {checkpoint.task}: {reason}")
    return {"fused": _fused_model, "plain": _plain_model, **({"of one size": _fixed_model} if sized else {})}


class _Model(nn.Module):
    """A model that gives the outputs of its task by name, else every tensor that it gives."""

    def __init__(self, part: Checkpoint, lowering: Lowering | None) -> None:
        super().__init__()
        self.model, self.task, self.lowering = part.model, part.task, lowering

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.lowering:
            self.lowering.begin(inputs.get("attention_mask"), patch_mask=inputs.get("pixel_attention_mask"))
        sizes = nullcontext() if set(inputs) <= set(TEXT) else ShortSizes()
        with ExitStack() as stack:
            for swapped in (stretched, crops_for_all, windows_as_masks, strided_positions, series_together):
                stack.enter_context(swapped(self.model))
            stack.enter_context(sizes)
            outputs = tensors_of(self.model(**inputs))
        return {name: outputs[name] for name in TASKS[self.task].outputs if name in outputs} or outputs


def _fused_model(checkpoint: Checkpoint) -> Traced:
    return Traced({role: _fused_graph(part, checkpoint.model) for role, part in parts_of(checkpoint).items()})


def _plain_model(checkpoint: Checkpoint) -> Traced:
    return Traced({role: _plain_graph(part) for role, part in parts_of(checkpoint).items()})


def _fixed_model(checkpoint: Checkpoint) -> Traced:
    return Traced({role: _plain_graph(part, sizes=False) for role, part in parts_of(checkpoint).items()})


def _fused_graph(part: Checkpoint, whole: Any) -> ir.Model:
    traced_with = free_axes(part.model, input_names(part.model))
    with lowered(whole, decoder=False) as lowering:
        graph = _trace_model(part, traced_with, lowering)
        if not lowering.calls:
            raise NotLowered("no layer uses transformers' attention interface")
    return graph


def _plain_graph(part: Checkpoint, *, sizes: bool = True) -> ir.Model:
    traced_with = free_axes(part.model, input_names(part.model), sizes=sizes)
    return _trace_model(part, traced_with, None)


def _trace_model(part: Checkpoint, traced_with: Any, lowering: Lowering | None) -> ir.Model:
    shapes, inputs = traced_with
    with of_any_length(part.model) if part.task == "audio-to-audio" else nullcontext():
        graph = convert(_Model(part, lowering), {"inputs": inputs}, {"inputs": shapes}, list(shapes))
    return name_axes(graph, {name: axes_of(part.model, name) for name in shapes})
