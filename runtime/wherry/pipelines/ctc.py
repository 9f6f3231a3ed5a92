"""Speech to text by models that label every frame (CTC): wav2vec2, HuBERT and their kin, and Parakeet."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from wherry.audio import Sound, load
from wherry.audio.features import Known, ParakeetFeatures
from wherry.errors import BundleError, InputError
from wherry.pipelines.base import Pipeline
from wherry.pipelines.sounds import batches, over, parts
from wherry_tokenization.ctc import CTCLabels, Spoken

Array = np.ndarray[Any, Any]

LONGEST = 300
"""Seconds of a sound that goes through the model whole: its memory grows with their square."""

Part = tuple[Array, int, int]


class FramesPipeline(Pipeline, ABC):
    """`pipe("speech.wav")` is `{"text"}`; a list of sounds gives a list, an iterator of sounds an iterator.

    A sound is a file, its bytes, a float array (samples,) at the model's rate or `{"array", "sampling_rate"}`.

    Attributes:
        features: what the model takes of a sound.
        labels: what its numbers mean.
        hop: samples from one frame of the model's to the next.
    """

    task = "automatic-speech-recognition"
    kind: ClassVar[str]
    """Of the model, in messages."""

    features: Known
    labels: CTCLabels
    hop: int

    def __call__(
        self,
        inputs: Any,
        *,
        return_timestamps: str | None = None,
        chunk_length_s: float | None = None,
        stride_length_s: float | Sequence[float] | None = None,
        batch_size: int = 1,
    ) -> Any:
        """Write down one sound, or each of several.

        Args:
            return_timestamps: `char` (of a vocabulary of pieces of words these) or `word`: also give `chunks`, a list
                of `{"text", "timestamp": (start, end)}`, in seconds.
            chunk_length_s: cut a sound into overlapping parts of so many seconds; needed for sounds of more than
                `LONGEST` seconds.
            stride_length_s: seconds that neighbouring parts share, or a pair; a sixth of the part by default.
            batch_size: how many sounds or parts run together, of those that are of one length.

        Raises:
            InputError: no sound, one that cannot be read or is too long, or an option out of range.
        """
        if return_timestamps not in ("char", "word", None, False):
            raise InputError(f"return_timestamps must be char or word for {self.kind}, not {return_timestamps!r:.80}")
        cut = parts(chunk_length_s, stride_length_s, self.features.rate, self.hop)

        def process(sounds: list[Sound]) -> list[dict[str, Any]]:
            if cut is None:
                hint = ": pass chunk_length_s=30"
                whole = [(sound.samples(LONGEST, hint), 0, 0) for sound in sounds]
                return [self._result([heard], return_timestamps) for heard in self._heard(whole)]
            found = []
            for sound in sounds:
                heard = [each for batch in batches(sound.windows(*cut), batch_size) for each in self._heard(batch)]
                found.append(self._result(heard, return_timestamps))
            return found

        return over(inputs, self.features.rate, batch_size, process)

    @abstractmethod
    def _heard(self, several: Sequence[Part]) -> Iterator[Any]:
        """What is heard in each part, without what its neighbours have."""

    @abstractmethod
    def _spoken(self, heard: Sequence[Any]) -> list[Spoken]:
        """What was said in a sound, of what was heard in its parts."""

    def _result(self, heard: Sequence[Any], kind: str | None) -> dict[str, Any]:
        spoken = self._spoken(heard)
        found: dict[str, Any] = {"text": self.labels.text(spoken)}
        if kind:
            step = self.hop / self.features.rate
            told = self.labels.words(spoken) if kind == "word" else spoken
            found["chunks"] = [{"text": each.text, "timestamp": (each.start * step, each.end * step)} for each in told]
        return found


class CTCPipeline(FramesPipeline):
    """Models each of whose frames has a label: of a character, a piece of a word, or the blank between two."""

    kind = "CTC"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.features = load(self.bundle.folder)
        self.labels = CTCLabels.load(self.bundle.folder)
        strides = self.bundle.config.get("conv_stride")
        if isinstance(self.features, ParakeetFeatures):
            strides = [self.features.hop, (self.bundle.config.get("encoder_config") or {}).get("subsampling_factor")]
        if not isinstance(strides, list) or not all(type(each) is int and each > 0 for each in strides):
            raise BundleError(
                f"{self.bundle.folder}/config.json has no conv_stride or subsampling_factor, so frames have no length "
                "known here"
            )
        self.hop = math.prod(strides)

    def _heard(self, several: Sequence[Part]) -> Iterator[Array]:
        """The likeliest label of each frame, for each part: int64 (frames,), without what its neighbours have."""
        for _, same in groupby(several, lambda part: len(part[0])):
            group = list(same)
            feeds = self.features([samples for samples, _, _ in group])
            labels = self.session.run(feeds, ["logits"])["logits"].argmax(-1)
            for ids, (samples, left, right) in zip(labels, group, strict=True):
                if left or right:
                    count = round(len(samples) / self.hop)
                    before, behind = (round(shared / len(samples) * count) for shared in (left, right))
                    ids = ids[before : count - behind]
                yield ids

    def _spoken(self, heard: Sequence[Array]) -> list[Spoken]:
        return self.labels.characters(np.concatenate(heard))
