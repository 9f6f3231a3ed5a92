"""text-to-audio by SpeechT5: a text and a voice in, a spectrogram frame by frame, and a vocoder's waveform of it out.

Ao et al., https://arxiv.org/abs/2110.07205; the loop is that of transformers' `generate_speech`.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.errors import BundleError, InputError
from wherry.models import open_model
from wherry.pipelines.base import Array, TextPipeline
from wherry.pipelines.speaking import Spoken, each_text
from wherry.pipelines.steps import Steps
from wherry.session import Session


class SpeechT5Pipeline(TextPipeline):
    """`pipe("text", speaker_embeddings=voice, vocoder="bundles/hifigan")` is `{"audio", "sampling_rate"}`.

    `audio` is float32 (samples,); a list of texts gives a list. The model drops some of what it has said by chance, so
    two runs differ.
    """

    task = "text-to-audio"
    roles = ("encoder_model", "decoder_model_merged", "decoder_postnet")

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        names = ("num_mel_bins", "reduction_factor", "speaker_embedding_dim", "max_text_positions")
        told = [bundle.config.get(name) for name in (*names, "max_speech_positions")]
        if not all(type(number) is int and number > 0 for number in told):
            raise BundleError(f"{bundle.folder}/config.json must tell {', '.join(names)} and max_speech_positions")
        self.bins, self.factor, self.voice_size, self.longest_text, self.longest = map(int, told)  # type: ignore[arg-type]
        self._opening = {name: value for name, value in options.items() if name != "precision"}
        self._vocoders: dict[str, tuple[Session, int]] = {}

    def __call__(
        self,
        text_inputs: Any,
        *,
        speaker_embeddings: Any,
        vocoder: str | Path | None = None,
        threshold: float = 0.5,
        minlenratio: float = 0.0,
        maxlenratio: float = 20.0,
    ) -> Any:
        """Say one text, or each of several.

        Args:
            speaker_embeddings: the voice: floats (size,) or (1, size), such as an x-vector's 512, or a `.npy` file.
            vocoder: the bundle of a SpeechT5HifiGan, or what `pipeline` takes as a model.
            threshold: speech ends where the probability that it does is so high.
            minlenratio: at least so many frames a token.
            maxlenratio: at most so many.

        Raises:
            InputError: no text, one too long for the model, no voice or vocoder, or an option out of range.
            BundleError: the vocoder is none, or one for other spectrograms.
        """
        if vocoder is None:
            raise InputError("SpeechT5 gives a spectrogram: pass vocoder=, a bundle of its SpeechT5HifiGan")
        ratios = (minlenratio, maxlenratio)
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in (threshold, *ratios)):
            raise InputError("threshold, minlenratio and maxlenratio must be numbers")
        if not 0 <= minlenratio <= maxlenratio:
            raise InputError(f"minlenratio {minlenratio} and maxlenratio {maxlenratio} must be in order, not below 0")
        voice, (session, rate) = self._voice(speaker_embeddings), self._vocoder(vocoder)

        def say(texts: list[Array]) -> Spoken:
            (ids,) = texts
            least, most = (int(len(ids[0]) * ratio / self.factor) for ratio in ratios)
            spectrum = self._spectrum(ids, voice, threshold, least, max(most, 1))
            smoothed = self.sessions["decoder_postnet"].run({"spectrogram": spectrum})["smoothed_spectrogram"]
            return {"audio": session.run({"spectrogram": smoothed})["waveform"][0], "sampling_rate": rate}

        return each_text(text_inputs, say, self._ids)

    def _ids(self, item: Any) -> Iterator[Array]:
        if not isinstance(item, str):
            raise InputError(f"the text is a {type(item).__name__}, not a str")
        if not item.strip():
            return
        ids = self.tokenizer.encode([item]).input_ids
        if ids.shape[1] > self.longest_text:
            raise InputError(f"a text has {ids.shape[1]} tokens, the model takes {self.longest_text}: cut it up")
        yield ids

    def _voice(self, given: Any) -> Array:
        if isinstance(given, str | Path):
            try:
                given = np.load(given, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                reason = getattr(error, "strerror", None) or "it holds no plain array of numbers"
                raise InputError(f"{given} is no .npy file of a voice that can be read: {reason}") from error
        try:
            voice = np.asarray(given, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"speaker_embeddings must be floats, not {type(given).__name__}") from error
        if voice.shape not in ((self.voice_size,), (1, self.voice_size)) or not np.isfinite(voice).all():
            raise InputError(f"speaker_embeddings must be {self.voice_size} finite floats, not of shape {voice.shape}")
        return voice.reshape(1, -1)

    def _vocoder(self, model: str | Path) -> tuple[Session, int]:
        """The vocoder's graph, opened once, and the rate of its waveforms in Hz."""
        key = str(model)
        if key not in self._vocoders:
            bundle = open_model(model, task="text-to-audio")
            variant = bundle.variant(None)
            bundle.check(variant)
            rate, bins = bundle.config.get("sampling_rate"), bundle.config.get("model_in_dim")
            if "model" not in variant.graphs or type(rate) is not int or bins != self.bins:
                raise BundleError(f"{bundle.folder} is no vocoder of spectrograms of {self.bins} bins")
            self._vocoders[key] = Session(bundle.folder / variant.graphs["model"], **self._opening), rate
        return self._vocoders[key]

    def _spectrum(self, ids: Array, voice: Array, threshold: float, least: int, most: int) -> Array:
        """All frames before they are smoothed, float32 (1, frames, bins)."""
        encoded = self.session.run({"input_ids": ids})
        given = {
            "encoder_hidden_states": encoded["encoder_outputs"],
            "encoder_attention_mask": encoded["encoder_attention_mask"],
            "speaker_embeddings": voice,
        }
        step = Steps(self.sessions["decoder_model_merged"], given, 1)
        most, wanted = min(most, self.longest), most
        frames = np.zeros((1, most + 1, self.bins), np.float32)
        spectrum = np.empty((1, most * self.factor, self.bins), np.float32)
        for at in range(1, most + 1):
            found, probability = step({"output_sequence": frames[:, :at]}, ["spectrum", "prob"])
            spectrum[0, (at - 1) * self.factor : at * self.factor] = found
            frames[0, at] = found[-1]
            if at >= least and float(probability.sum()) >= threshold:
                return spectrum[:, : at * self.factor]
        if most < wanted:
            warnings.warn(f"speech was cut after {most * self.factor} frames, all that the model can say", stacklevel=7)
        return spectrum
