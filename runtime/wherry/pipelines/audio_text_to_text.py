"""audio-text-to-text: a prompt or a chat with sounds among its words in, the text that goes on out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.audio import load, open_sound
from wherry.audio.features import GemmaFeatures, WhisperFeatures, WholeFeatures, scaled
from wherry.errors import BundleError, InputError
from wherry.generation import GenerationConfig
from wherry.generation.batch import Given
from wherry.pipelines.among_words import AmongWordsPipeline, Mixed
from wherry.pipelines.base import Array
from wherry.pipelines.ctc import LONGEST
from wherry.pipelines.text_generation import is_chat

TAKES = {
    "audioflamingo3": WhisperFeatures,
    "gemma4": GemmaFeatures,
    "glmasr": WhisperFeatures,
    "qwen2_audio": WhisperFeatures,
    "qwen3_asr": WholeFeatures,
    "voxtral": WhisperFeatures,
}
"""Models and what they take of sounds; Whisper's features are those of windows."""
TOGETHER = ("voxtral",)
"""Models where the loudest frame of all windows scales each."""

IN_ONE = ("gemma4", "qwen2_audio")
"""Models that hear one window a sound."""

IN_WINDOWS = 3600
"""Seconds of a sound that is cut, which would fill most models' contexts many times."""
AT_ONCE = 4
"""Windows that run together."""


class AudioTextToTextPipeline(AmongWordsPipeline):
    """`pipe(sound, "<|audio|> What is said?")` is `[{"input_text": ..., "generated_text": text and what follows}]`.

    So is `pipe(chat)`, whose messages hold `{"type": "audio", "audio": sound}` and `{"type": "text", "text": text}`.
    Sounds are as `automatic-speech-recognition` takes them: files, bytes, arrays, or dicts of an array and its rate.

    `pipe.stream(...)` yields pieces of the new text as they come.
    """

    task = "audio-text-to-text"
    kind = "audio"
    things = "sounds"
    tower = "audio_encoder"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        config = self.bundle.config
        model = str(config.get("model_type"))
        if model not in TAKES:
            raise BundleError(f"how {model} takes sounds among words is not known: known are {', '.join(TAKES)}")
        extractor = load(self.bundle.folder)
        if not isinstance(extractor, TAKES[model]):
            raise BundleError(f"{self.bundle.folder}: the feature extractor of its files is not one for {model}")
        self.extractor, self.together, self.alone = extractor, model in TOGETHER, model in IN_ONE
        self.token = int(config.get("audio_token_id") or config.get("audio_token_index") or -1)
        place = self.tokenizer.id_to_token(self.token) if self.token >= 0 else None
        if place is None:
            raise BundleError(f"config.json's audio_token_id is {self.token}, which the tokenizer does not have")
        self.place = place
        marks = (config.get(f"{name}_token_id", config.get(f"{name}_token_index")) for name in ("boa", "eoa"))
        self.begin, self.end = ("" if mark is None else self.tokenizer.id_to_token(int(mark)) or "" for mark in marks)

    def __call__(  # type: ignore[override]
        self,
        audio: Any = None,
        text: Any = None,
        *,
        return_full_text: bool = True,
        truncation: bool = False,
        batch_size: int = 8,
        **options: Any,
    ) -> Any:
        """Continue a prompt or a chat, or each of a list.

        Args:
            audio: of a text: one sound, or a list of as many as it has places; of a list of texts, so for each. Or
                chats.
            text: a prompt with a place for each sound, such as `<|audio|>`, a chat, or a list of either.
            return_full_text: whether the result begins with the prompt or the chat's messages.
            truncation: cut the beginning of a prompt that is too long, up to its first sound at most.
            batch_size: how many sequences run together.
            options: as in text-generation.

        Raises:
            InputError: a sound that cannot be read, more or fewer sounds than places, a prompt that is empty or does
                not fit the model's context, or an unknown option.
            ChatTemplateError: a chat for a model that has no chat template.
        """
        return self.answers(
            audio, text, return_full_text=return_full_text, truncation=truncation, batch_size=batch_size, **options
        )

    def stream(  # type: ignore[override]
        self, audio: Any = None, text: Any = None, *, truncation: bool = False, **options: Any
    ) -> Iterator[str]:
        """Continue one prompt or chat and yield the new text piece by piece. Arguments and errors are as in a call."""
        return self.answered(audio, text, truncation=truncation, **options)

    def encode(self, prompt: Any, config: GenerationConfig, *, truncation: bool) -> tuple[list[int], Given]:
        """The tokens of a prompt, and its embeddings with sounds in their places."""
        text, sounds = (prompt.text, prompt.parts) if isinstance(prompt, Mixed) else self.apart(prompt)
        between = text.split(self.place)
        if len(between) != len(sounds) + 1:
            raise InputError(
                f"the prompt has {len(between) - 1} places for {len(sounds)} sounds: write {self.place} for each of "
                "them"
            )
        features = [self._features(sound, f"sound {number}") for number, sound in enumerate(sounds)]
        written = between[0] + "".join(
            f"{self.begin}{self.place * len(each)}{self.end}{rest}"
            for each, rest in zip(features, between[1:], strict=True)
        )
        row = self.tokens(written, config, special=not is_chat(prompt), truncation=truncation)
        return row, self.embedded(np.array([row]), np.concatenate(features)) if features else {}

    def _features(self, sound: Any, name: str) -> Array:
        """A vector for each token of a sound, in order: float (tokens, size)."""
        opened = open_sound(sound, self.extractor.rate, name)
        in_windows = isinstance(self.extractor, WhisperFeatures)
        samples = opened.samples(IN_WINDOWS if in_windows or self.alone else LONGEST)
        if self.alone and len(samples) > (self.extractor.length or 0):
            seconds, most = (count / self.extractor.rate for count in (len(samples), self.extractor.length or 0))
            raise InputError(f"{name} has {seconds:.1f} seconds, of which this model hears {most:g}: cut it first")
        if isinstance(self.extractor, WhisperFeatures):
            features, mask = self._windows(self.extractor, samples)
        else:
            features, mask = self.extractor([samples]).values()
        graph, found = self.sessions[self.tower], []
        for first in range(0, len(features), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            given = {name: (mask if name.endswith("mask") else features)[rows] for name in graph.inputs}
            found.append(graph.run(given)["audio_features"])
        return np.concatenate(found)

    def _windows(self, extractor: WhisperFeatures, samples: Array) -> tuple[Array, Array]:
        """A sound's spectrograms (windows, mels, frames) in float32, and which of their frames are of the sound."""
        length = extractor.length
        count = max(1, -(-len(samples) // length))
        ends = np.clip(len(samples) - length * np.arange(count), 0, length)
        mask = np.arange(extractor.frames) < -(-ends[:, None] // extractor.hop)
        if self.together:
            found = extractor.log_mel(np.pad(samples, (0, count * length - len(samples))))
            scale = scaled(found, found.max())
            features = scale.reshape(len(scale), count, -1).transpose(1, 0, 2)
        else:
            parts: Sequence[Array] = np.split(samples, range(length, len(samples), length))
            features = extractor(parts)["input_features"]
        return np.ascontiguousarray(features), mask.astype(np.int64)


PIPELINE = AudioTextToTextPipeline
