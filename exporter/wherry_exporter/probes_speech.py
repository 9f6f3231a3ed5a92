"""What a model that speaks or writes frame by frame computes, and what its graphs compute on the same inputs.

The decoder is fed with given frames or tokens, so that an early difference does not hide later ones. Knows nothing of
how a graph was made and does not judge what it finds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession

from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import random_inputs
from wherry_exporter.load import Checkpoint
from wherry_exporter.music import Codec, some_codes
from wherry_exporter.noise import still, stilled
from wherry_exporter.probes import (
    Array,
    EncoderDecoderProbe,
    Feed,
    Graphs,
    Opened,
    Pair,
    next_past,
    no_past,
    open_session,
    vectors_of,
)
from wherry_exporter.speech import speak
from wherry_exporter.transducer import Encoder, joined

STEPS = 7
SIZES = ((1, 1.0), (3, 3.0))
"""Batch sizes and what stretches their texts."""
TIMES = ((1, 2.0), (3, 1.0))
"""Batch sizes and what stretches their sounds."""


class SpeechProbe:
    """An encoder of text, a decoder that gives frames over a cache, and what smooths them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model: Any = checkpoint.model
        self.frames, self.feeds, self.expected = [], [], []
        for batch, scale in SIZES:
            feed = random_inputs(self.model, ["input_ids"], batch=batch, scale=scale, seed=batch)
            random = torch.Generator().manual_seed(batch)
            frames = torch.randn(batch, STEPS, self.model.config.num_mel_bins, generator=random)
            feed["speaker_embeddings"] = torch.randn(batch, self.model.config.speaker_embedding_dim, generator=random)
            self.expected.append(self._expected(feed, frames))
            self.frames.append(frames.numpy())
            self.feeds.append({name: value.numpy() for name, value in feed.items()})

    def open(self, graphs: Graphs) -> Sequence[InferenceSession]:
        with ExitStack() as stack:
            roles = ("encoder_model", "decoder_model_merged", "decoder_postnet")
            return [open_session(stack.enter_context(stilled(graphs[role]))) for role in roles]

    def pairs(self, opened: Sequence[InferenceSession]) -> Iterator[tuple[str, Pair]]:
        encoder, decoder, postnet = opened
        for feed, frames, expected in zip(self.feeds, self.frames, self.expected, strict=True):
            states, mask = encoder.run(None, {"input_ids": feed["input_ids"]})
            real = mask.astype(bool)
            yield "encoder_outputs", (expected["encoder_outputs"][real], states[real])
            given = [frames[:, : step + 1] for step in range(STEPS)]
            steps = list(self._steps(decoder, states, mask, feed, given))
            rows, bins = len(frames), frames.shape[2]
            spectrum = np.concatenate([each["spectrum"].reshape(rows, -1, bins) for each in steps], 1)
            yield "spectrum", (expected["spectrum"].reshape(-1, bins), spectrum.reshape(-1, bins))
            prob = np.concatenate([each["prob"].reshape(rows, -1) for each in steps], 1)
            yield "prob", (expected["prob"], prob)
            smoothed = postnet.run(None, {"spectrogram": expected["spectrum"]})[0]
            yield (
                "smoothed_spectrogram",
                (expected["smoothed_spectrogram"].reshape(-1, bins), smoothed.reshape(-1, bins)),
            )

    def losses(self, opened: Sequence[InferenceSession]) -> None:  # noqa: ARG002
        return None

    def racers(self, opened: Sequence[InferenceSession]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        encoder, decoder, postnet = opened
        feed = self.feeds[0]
        ids, speaker = torch.from_numpy(feed["input_ids"]), torch.from_numpy(feed["speaker_embeddings"])

        def run_torch() -> None:
            with still():
                speak(self.model, ids, speaker, STEPS)

        def run_graphs() -> None:
            states, mask = encoder.run(None, {"input_ids": feed["input_ids"]})
            steps = list(self._steps(decoder, states, mask, feed, [None] * STEPS))
            postnet.run(None, {"spectrogram": np.concatenate([each["spectrum"] for each in steps])[None]})

        return run_torch, run_graphs

    def _expected(self, feed: dict[str, torch.Tensor], frames: torch.Tensor) -> Feed:
        """What the original gives for all frames at once."""
        mask = feed["input_ids"] != self.model.config.pad_token_id
        with still():
            output = self.model.speecht5(
                input_values=feed["input_ids"],
                attention_mask=mask.to(torch.int64),
                decoder_input_values=frames,
                speaker_embeddings=feed["speaker_embeddings"],
            )
        spectrum, smoothed, logits = self.model.speech_decoder_postnet(output.last_hidden_state)
        return {
            "encoder_outputs": output.encoder_last_hidden_state.numpy(),
            "spectrum": spectrum.numpy(),
            "prob": torch.sigmoid(logits).numpy(),
            "smoothed_spectrogram": smoothed.numpy(),
        }

    def _steps(
        self, decoder: InferenceSession, states: Array, mask: Array, feed: Feed, frames: Sequence[Array | None]
    ) -> Iterator[Feed]:
        """What each step gives; where there are no frames for it, it goes on from those that came of the one before."""
        names = [port.name for port in decoder.get_outputs()]
        past = no_past(decoder, len(states))
        sequence = np.zeros((len(states), 1, self.model.config.num_mel_bins), np.float32)
        for number, given in enumerate(frames):
            values = decoder.run(
                names,
                {
                    "output_sequence": sequence if given is None else given,
                    "speaker_embeddings": feed["speaker_embeddings"],
                    "encoder_hidden_states": states,
                    "encoder_attention_mask": mask,
                    "use_cache_branch": np.array([number > 0]),
                    **past,
                },
            )
            found = dict(zip(names, values, strict=True))
            past = next_past(past, found, started=number > 0)
            sequence = found["output_sequence_out"]
            yield found


class MusicProbe(EncoderDecoderProbe):
    """An encoder of text, a decoder that gives codes over a cache, and the codec that makes a waveform of them."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        super().__init__(checkpoint, folder)
        codec = Codec(checkpoint.model)
        self.codes = [some_codes(checkpoint.model, batch, frames) for batch, frames in ((1, 40), (3, 17))]
        self.waves = [codec(codes).numpy() for codes in self.codes]

    def open(self, graphs: Graphs) -> Opened:
        self.codec = open_session(graphs["encodec_decode"])
        return super().open({**graphs, "encoder_model": graphs["text_encoder"]})

    def pairs(self, opened: Opened) -> Iterator[tuple[str, Pair]]:
        yield from super().pairs(opened)
        for codes, wave in zip(self.codes, self.waves, strict=True):
            found = self.codec.run(None, {"audio_codes": codes.numpy()})[0]
            yield "audio_values", (wave.reshape(-1, wave.shape[-1]), found.reshape(-1, found.shape[-1]))


class TransducerProbe:
    """An encoder of sounds, and a step from each of its states, fed with given tokens."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model: Any = checkpoint.model
        vocabulary, self.feeds, self.rows, self.expected = self.model.config.vocab_size, [], [], []
        for batch, scale in TIMES:
            feed = random_inputs(self.model.get_encoder(), ["input_features"], batch=batch, scale=scale, seed=batch)
            random = torch.Generator().manual_seed(batch)
            states = Encoder(self.model)(feed)
            rows = torch.randint(vocabulary - 1, (batch, min(STEPS, states.shape[1])), generator=random)
            cache: Any = None
            logits = []
            for step, ids in enumerate(torch.split(rows, 1, 1)):
                output = joined(
                    self.model, states[:, step : step + 1], ids, decoder_cache=cache, use_decoder_cache=True
                )
                cache = output.decoder_cache
                logits.append(output.logits)
            self.feeds.append({name: value.numpy() for name, value in feed.items()})
            self.rows.append(rows.numpy())
            self.expected.append((states.numpy(), torch.cat(logits, 1).numpy()))

    def open(self, graphs: Graphs) -> Sequence[InferenceSession]:
        return [open_session(graphs[role]) for role in ("encoder_model", "decoder_joint")]

    def pairs(self, opened: Sequence[InferenceSession]) -> Iterator[tuple[str, Pair]]:
        encoder, step = opened
        tokens = self.model.config.vocab_size
        for feed, rows, (states, logits) in zip(self.feeds, self.rows, self.expected, strict=True):
            found = encoder.run(None, feed)[0]
            if found.shape != states.shape:
                raise ExportError(
                    f"the encoder's states have shape {found.shape} where the original's is {states.shape}"
                )
            yield "encoder_hidden_states", (vectors_of(states), vectors_of(found))
            steps = np.concatenate(list(self._steps(step, states, rows)), 1)
            yield "logits", (vectors_of(logits[..., :tokens]), vectors_of(steps[..., :tokens]))
            if logits.shape[-1] > tokens:
                yield "duration_logits", (vectors_of(logits[..., tokens:]), vectors_of(steps[..., tokens:]))

    def losses(self, opened: Sequence[InferenceSession]) -> None:  # noqa: ARG002
        return None

    def racers(self, opened: Sequence[InferenceSession]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        encoder, step = opened
        feed, rows = self.feeds[0], self.rows[0]
        tensors = {name: torch.from_numpy(value) for name, value in feed.items()}

        def run_torch() -> None:
            states, cache = Encoder(self.model)(tensors), None
            for at, ids in enumerate(torch.split(torch.from_numpy(rows), 1, 1)):
                cache = joined(
                    self.model, states[:, at : at + 1], ids, decoder_cache=cache, use_decoder_cache=True
                ).decoder_cache

        def run_graphs() -> None:
            for _ in self._steps(step, encoder.run(None, feed)[0], rows):
                pass

        return run_torch, run_graphs

    def _steps(self, step: InferenceSession, states: Array, rows: Array) -> Iterator[Array]:
        """Logits of each token of some rows."""
        past = no_past(step, len(rows))
        for at in range(rows.shape[1]):
            given = {"input_ids": rows[:, at : at + 1], "encoder_hidden_states": states[:, at : at + 1]}
            logits, *kept = step.run(None, given | past)
            past = dict(zip(past, kept, strict=True))
            yield logits
