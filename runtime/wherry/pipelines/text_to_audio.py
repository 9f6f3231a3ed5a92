"""text-to-audio: a text in, speech out, by VITS; others are in `piper`, VITS too, in `speecht5` and in `music`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wherry.audio.phonemes import phonemes
from wherry.bundle import Bundle
from wherry.errors import BundleError, InputError
from wherry.pipelines.base import Pipeline
from wherry.pipelines.music import MusicPipeline
from wherry.pipelines.piper import PiperPipeline
from wherry.pipelines.speaking import Spoken, each_text
from wherry.pipelines.speecht5 import SpeechT5Pipeline
from wherry_tokenization.characters import Characters

Array = np.ndarray[Any, Any]


class VitsPipeline(Pipeline):
    """`pipe("text")` is `{"audio": float32 (samples,), "sampling_rate"}`; a list of texts gives a list.

    Noise is drawn anew in every run, so two of them differ. Voices that say phonemes need espeak-ng (extra `speech`),
    or get them as `{"phonemes": "..."}`.
    """

    task = "text-to-audio"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        rate = self.bundle.config.get("sampling_rate")
        if self.bundle.config.get("model_type") != "vits" or type(rate) is not int:
            raise BundleError(
                f"{self.bundle.folder} is a {self.bundle.config.get('model_type')}: of models that speak wherry "
                "runs VITS, Piper's voices, SpeechT5 and MusicGen"
            )
        self.characters, self.rate = Characters.load(self.bundle.folder), rate

    def __call__(self, text_inputs: Any) -> Any:
        """Say one text, or each of several.

        Raises:
            InputError: no text, or one that the voice cannot say.
        """
        return each_text(text_inputs, self._say, self._ids)

    def _ids(self, item: Any) -> Iterator[Array]:
        characters = self.characters
        if isinstance(item, Mapping):
            if set(item) != {"phonemes"} or not isinstance(item["phonemes"], str) or not characters.phonemes:
                raise InputError("a mapping must have 'phonemes', a str, and the voice must say phonemes")
            text = item["phonemes"]
        else:
            text = characters.prepared(item)
            text = phonemes(text, "en-us") if characters.phonemes else text
        ids = characters.encode(text)
        if ids.size:
            yield ids

    def _say(self, texts: Sequence[Array]) -> Spoken:
        (ids,) = texts
        feeds = {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]}
        return {"audio": self.session.run(feeds, ["waveform"])["waveform"][0], "sampling_rate": self.rate}


def open_pipeline(bundle: Bundle, **options: Any) -> Pipeline:
    """The pipeline that fits."""
    graphs = bundle.variant(options.get("precision")).graphs
    if "encodec_decode" in graphs:
        return MusicPipeline(bundle, **options)
    if "encoder_model" in graphs:
        return SpeechT5Pipeline(bundle, **options)
    return PiperPipeline(bundle, **options) if "phoneme_id_map" in bundle.config else VitsPipeline(bundle, **options)


PIPELINE = open_pipeline
