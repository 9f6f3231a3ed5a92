"""A model that speaks frame by frame to three graphs: its encoder, a step of its decoder, and what smooths all frames.

What comes out is a spectrogram; a vocoder, which is a checkpoint of its own, makes a waveform of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.inputs import BATCH
from wherry_exporter.load import Checkpoint
from wherry_exporter.pair import ENCODER_SEQUENCE, trace_decoder

STEPS = 12
"""Of a decoder that is looked at."""


class FrameStep:
    """All frames so far, of which the last counts, to the next ones and the probability that the speech ends there.

    Rows of a batch lie one after another in what it gives, for readers that know no batch take it without that axis.
    """

    outputs: Sequence[str] = ("output_sequence_out", "spectrum", "prob")
    rows = 1

    def __init__(self, model: Any) -> None:
        self.model = model
        self.bins, speaker = int(model.config.num_mel_bins), int(model.config.speaker_embedding_dim)
        self.inputs: Mapping[str, Tensor] = {
            "output_sequence": torch.rand(2, 5, self.bins),
            "speaker_embeddings": torch.rand(2, speaker),
        }
        self.axes: Mapping[str, tuple[int | str, ...]] = {
            "output_sequence": (BATCH, "decoder_sequence_length", self.bins),
            "speaker_embeddings": (BATCH, speaker),
            "output_sequence_out": (BATCH, "decoder_sequence_length + 1", self.bins),
            "spectrum": ("batch_size x reduction_factor", self.bins),
            "prob": ("batch_size x reduction_factor",),
        }

    def __call__(
        self, inputs: Mapping[str, Tensor], states: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, ...]:
        decoder, postnet = self.model.speecht5.decoder, self.model.speech_decoder_postnet
        frames, positions = inputs["output_sequence"], decoder.prenet.encode_positions
        with patch.dict(positions._buffers, {"pe": positions.pe[:, frames.shape[1] - 1 :]}):
            embeddings = decoder.prenet(frames[:, -1:], inputs["speaker_embeddings"])
        output = decoder.wrapped_decoder(
            hidden_states=embeddings,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        last = output.last_hidden_state[:, 0]
        spectrum = postnet.feat_out(last).view(frames.shape[0], -1, self.bins)
        probability = torch.sigmoid(postnet.prob_out(last))
        return torch.cat([frames, spectrum[:, -1:]], 1), spectrum.flatten(0, 1), probability.flatten()


class _Encoder(nn.Module):
    """Tokens to states, and the mask of those that stand for no padding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.padding = model.get_encoder(), model.config.pad_token_id

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        mask = (input_ids != self.padding).to(torch.int64)
        return self.encoder(input_values=input_ids, attention_mask=mask).last_hidden_state, mask


class _Postnet(nn.Module):
    """All frames to the spectrogram."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.postnet = model.speech_decoder_postnet

    def forward(self, spectrogram: Tensor) -> Tensor:
        smoothed: Tensor = self.postnet.postnet(spectrogram)
        return smoothed


def speak(model: Any, ids: Tensor, speaker_embeddings: Tensor, steps: int) -> Tensor:
    """The spectrograms after that many steps, wherever the model would end."""
    ratio = (steps + 0.5) * model.config.reduction_factor / ids.shape[1]
    spectrograms = model.generate_speech(ids, speaker_embeddings, threshold=float("inf"), maxlenratio=ratio)
    return torch.as_tensor(spectrograms).reshape(len(ids), -1, model.config.num_mel_bins)


def with_speech(model: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What all graphs take when they say tokens in a voice of chance."""
    ids = torch.from_numpy(entry["input_ids"])
    voice = torch.randn(len(ids), model.config.speaker_embedding_dim, generator=torch.Generator().manual_seed(len(ids)))
    with torch.no_grad():
        states, mask = _Encoder(model)(ids)
        spectrogram = speak(model, ids, voice, STEPS)
    tensors = {
        "input_ids": ids,
        "speaker_embeddings": voice,
        "output_sequence": spectrogram[:, model.config.reduction_factor - 1 :: model.config.reduction_factor],
        "encoder_hidden_states": states,
        "encoder_attention_mask": mask,
        "use_cache_branch": torch.tensor([False]),
        "spectrogram": spectrogram,
    }
    return {name: value.numpy() for name, value in tensors.items()}


def text_to_frames(checkpoint: Checkpoint) -> Traced:
    model: Any = checkpoint.model
    ids = torch.full((2, 7), model.config.pad_token_id + 1)
    ids[1, -2:] = model.config.pad_token_id
    encoder = convert(
        _Encoder(model),
        {"input_ids": ids},
        {"input_ids": {0: Dim(BATCH), 1: Dim.AUTO}},
        ["input_ids"],
        ["encoder_outputs", "encoder_attention_mask"],
    )
    step, postnet = FrameStep(model), _Postnet(model)
    with torch.no_grad():
        states = model.get_encoder()(ids).last_hidden_state
    decoder = trace_decoder(model, step, states, masked=True)
    smoothing = convert(
        postnet,
        {"spectrogram": torch.rand(2, 9, step.bins)},
        {"spectrogram": {0: Dim(BATCH), 1: Dim.AUTO}},
        ["spectrogram"],
        ["smoothed_spectrogram"],
    )
    return Traced(
        {
            "encoder_model": name_axes(encoder, {"input_ids": (BATCH, ENCODER_SEQUENCE)}),
            "decoder_model_merged": decoder,
            "decoder_postnet": name_axes(smoothing, {"spectrogram": (BATCH, "num_frames", step.bins)}),
        }
    )
