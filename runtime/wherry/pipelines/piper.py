"""Piper's voices: an ONNX file that says phonemes, and a JSON beside it that numbers them."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wherry.audio.phonemes import phonemes
from wherry.errors import BundleError, InputError
from wherry.pipelines.base import Pipeline
from wherry.pipelines.speaking import Spoken, each_text

Array = np.ndarray[Any, Any]

_SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")
_BEGIN, _PAD, _END = "^", "_", "$"


class PiperPipeline(Pipeline):
    """`pipe("text")` is `{"audio", "sampling_rate"}`; a list of texts gives a list, an iterator an iterator.

    A text may be given as phonemes: `{"phonemes": "həlˈoʊ"}`. A text itself needs espeak-ng, of the extra `speech`.
    """

    task = "text-to-audio"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        config = self.bundle.config
        try:
            self.ids = {str(phoneme): [int(each) for each in ids] for phoneme, ids in config["phoneme_id_map"].items()}
            self.rate = int(config["audio"]["sample_rate"])
            self.begin, self.pad, self.end = (self.ids[name] for name in (_BEGIN, _PAD, _END))
            self.voice = str(config.get("espeak", {}).get("voice", "")) if self._by_espeak else ""
            self.speakers = {str(name): int(number) for name, number in (config.get("speaker_id_map") or {}).items()}
            told = config.get("inference") or {}
            names = {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8}
            self.scales = {name: float(told.get(name, default)) for name, default in names.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{self.bundle.folder}: the voice's JSON is not Piper's: {error!r}") from error

    @property
    def _by_espeak(self) -> bool:
        return bool(self.bundle.config.get("phoneme_type", "espeak") == "espeak")

    def __call__(self, text_inputs: Any, *, forward_params: Mapping[str, Any] | None = None, **voice: Any) -> Any:
        """Say one text, or each of several.

        Args:
            forward_params, voice: `speaker`, a name or a number, where the voice has several; `length_scale`, above 1
                for slower; `noise_scale` and `noise_w`, how much the sound and the rhythm vary, 0 for always the same.

        Raises:
            InputError: no text, no espeak-ng for it, or an unknown option.
        """
        given = {**(forward_params or {}), **voice}
        scales = {name: given.pop(name, value) for name, value in self.scales.items()}
        for name, value in scales.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
                raise InputError(f"{name} must be a number from 0 to 100, not {value!r:.80}")
        speaker = self._speaker(given.pop("speaker", None))
        if given:
            raise InputError(f"unknown option {', '.join(map(str, given))}: there are speaker, {', '.join(scales)}")
        feeds = {"scales": np.array(list(scales.values()), np.float32), "sid": np.array([speaker])}
        return each_text(text_inputs, lambda text: self._say(text, feeds), self.ids_of)

    def ids_of(self, item: Any) -> Iterator[list[int]]:
        """The ids of each sentence of a text, or of phonemes given as `{"phonemes": "..."}`."""
        if isinstance(item, Mapping):
            if set(item) != {"phonemes"} or not isinstance(item["phonemes"], str):
                raise InputError(f"a mapping must have 'phonemes', a str, it has {', '.join(map(str, item))}")
            sentences = [item["phonemes"]]
        else:
            sentences = [self._phonemes(each) for each in _SENTENCE.split(item) if each.strip()]
        for sentence in sentences:
            marks = unicodedata.normalize("NFD", sentence)
            known = [self.ids[mark] for mark in marks if mark in self.ids]
            if known:
                yield [*self.begin, *self.pad, *(each for mark in known for each in (*mark, *self.pad)), *self.end]

    def _phonemes(self, text: str) -> str:
        return phonemes(text, self.voice) if self._by_espeak else text

    def _speaker(self, speaker: Any) -> int:
        if speaker is None:
            return 0
        number = self.speakers.get(speaker) if isinstance(speaker, str) else speaker
        count = int(self.bundle.config.get("num_speakers", 1))
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < count:
            names = ", ".join(self.speakers) or f"numbers from 0 to {count - 1}"
            raise InputError(f"the voice has no speaker {speaker!r:.40}: it has {names}")
        return number

    def _say(self, sentences: Sequence[Sequence[int]], feeds: Mapping[str, Array]) -> Spoken:
        sounds = []
        for ids in sentences:
            given = {"input": np.array([ids]), "input_lengths": np.array([len(ids)]), **feeds}
            sounds.append(self.session.run(given, ["output"])["output"].reshape(-1))
        return {"audio": np.concatenate(sounds), "sampling_rate": self.rate}
