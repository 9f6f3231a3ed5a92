"""A model that makes music of a text to three graphs: its encoder of text, its decoder, and its codec's own decoder.

The decoder writes a token of every codebook in a step, rows of a text's codebooks one after another in the batch
(MusicGen, https://arxiv.org/abs/2306.05284); the codec makes a waveform of them (EnCodec,
https://arxiv.org/abs/2210.13438). Names are optimum's and transformers.js's.
"""

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.codec import of_any_length
from wherry_exporter.convert import Traced, convert, name_axes
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
    with of_any_length(codec.codec.decoder):
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
