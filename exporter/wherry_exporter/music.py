"""A model that makes music of a text to three graphs: its encoder of text, its decoder, and its codec's own decoder.

The decoder writes a token of every codebook in a step, rows of a text's codebooks one after another in the batch
(MusicGen, https://arxiv.org/abs/2306.05284); the codec makes a waveform of them (EnCodec,
https://arxiv.org/abs/2210.13438). Names are optimum's and transformers.js's.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.onnx.ops import symbolic_multi_out

from wherry_exporter.convert import OPSET, Traced, convert, name_axes
from wherry_exporter.inputs import BATCH
from wherry_exporter.load import Checkpoint
from wherry_exporter.pair import plain_encoder_and_decoder

FRAMES = 12
"""Of codes that a codec is traced with."""


class Codec(nn.Module):
    """Codes (1, batch, codebooks, frames) to a waveform (batch, channels, samples)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.codec, self.channels = model.audio_encoder, int(model.decoder.config.audio_channels)

    def forward(self, audio_codes: Tensor) -> Tensor:
        parts = [audio_codes[:, :, first :: self.channels] for first in range(self.channels)]  # left and right in turn
        return torch.cat([self.codec.decode(part, [None]).audio_values for part in parts], 1)


def some_codes(model: Any, batch: int, frames: int) -> Tensor:
    """Codes of chance, (1, batch, codebooks, frames)."""
    random, decoder = torch.Generator().manual_seed(frames), model.decoder
    return torch.randint(decoder.config.vocab_size, (1, batch, decoder.num_codebooks, frames), generator=random)


def text_to_codes(checkpoint: Checkpoint) -> Traced:
    model: Any = checkpoint.model
    graphs = plain_encoder_and_decoder(checkpoint).graphs
    _count_texts(graphs["decoder_model_merged"].graph)
    codec, books = Codec(model), int(model.decoder.num_codebooks)
    with _of_any_length(codec):
        decode = convert(
            codec,
            {"audio_codes": some_codes(model, 2, FRAMES)},
            {"audio_codes": {1: Dim(BATCH), 3: Dim.AUTO}},
            ["audio_codes"],
            ["audio_values"],
        )
    return Traced(
        {
            "text_encoder": graphs["encoder_model"],
            "decoder_model_merged": graphs["decoder_model_merged"],
            "encodec_decode": name_axes(
                decode,
                {
                    "audio_codes": (1, BATCH, books, "num_frames"),
                    "audio_values": (BATCH, codec.channels, "num_samples"),
                },
            ),
        }
    )


def _count_texts(graph: ir.Graph) -> None:
    """Ask the mask of the texts how many there are, not an empty cache: transformers.js gives that a row a codebook."""
    (mask,) = (value for value in graph.inputs if value.name == "encoder_attention_mask")
    for node in graph:
        source = node.inputs[0] if node.op_type == "Shape" else None
        if source is not None and str(source.name).startswith("past_") and node.attributes.get_int("end", 0) == 1:
            node.replace_input_with(0, mask)


@contextmanager
def _of_any_length(codec: Codec) -> Iterator[None]:
    """Let a codec's recurrences be operators, where they would be one step after another, and padding be numbers.

    What its convolutions are padded with so that strides come out even is none where there are no strides.
    """
    with ExitStack() as stack:
        for module in codec.codec.decoder.modules():
            if isinstance(module, nn.LSTM):
                stack.enter_context(patch.object(module, "forward", _recurrence(module)))
            elif hasattr(module, "padding_total"):
                stack.enter_context(patch.dict(module._buffers))
                numbers = {"padding_total": int(module._buffers.pop("padding_total"))}
                stack.enter_context(patch.dict(module.__dict__, numbers, _get_extra_padding_for_conv1d=lambda _: 0))
        yield


def _recurrence(module: nn.LSTM) -> Callable[[Tensor], tuple[Tensor, None]]:
    """An LSTM of one direction, (sequence, batch, size) in and out, as https://onnx.ai/onnx/operators/onnx__LSTM.html."""
    layers = [
        (
            _gates(getattr(module, f"weight_ih_l{layer}"))[None],
            _gates(getattr(module, f"weight_hh_l{layer}"))[None],
            torch.cat([_gates(getattr(module, f"bias_{kind}_l{layer}")) for kind in ("ih", "hh")])[None],
        )
        for layer in range(module.num_layers)
    ]

    def forward(states: Tensor) -> tuple[Tensor, None]:
        for weights in layers:
            length, batch, size = *states.shape[:2], module.hidden_size
            states = symbolic_multi_out(
                "LSTM",
                [states, *weights],
                {"hidden_size": size},
                dtypes=[states.dtype] * 3,
                shapes=[[length, 1, batch, size], [1, batch, size], [1, batch, size]],
                version=OPSET,
            )[0][:, 0]
        return states, None

    return forward


def _gates(weights: Tensor) -> Tensor:
    """Input, forget, cell and output, as torch has them, in the order of ONNX: input, output, forget, cell."""
    given, forgotten, cell, told = weights.detach().chunk(4)
    return torch.cat([given, told, forgotten, cell])
