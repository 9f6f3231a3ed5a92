"""Speech to text by models that write frame by frame, with what they have written in view: Parakeet's TDT and RNN-T."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from wherry.audio import load
from wherry.audio.features import ParakeetFeatures
from wherry.errors import BundleError
from wherry.generation.frames import FrameSearch, Joint
from wherry.pipelines.ctc import FramesPipeline, Part
from wherry_tokenization.ctc import CTCLabels, Spoken

Array = np.ndarray[Any, Any]


class TransducerPipeline(FramesPipeline):
    """Models that go from frame to frame, or over several, and write a piece of a word or none at each."""

    kind = "Parakeet"
    roles = ("encoder_model", "decoder_joint")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        features, config, folder = load(self.bundle.folder), self.bundle.config, self.bundle.folder
        if not isinstance(features, ParakeetFeatures):
            raise BundleError(f"{folder}: of models that write frame by frame wherry runs Parakeet")
        self.features, self.labels = features, CTCLabels.load(folder)
        self.search = FrameSearch.of(config, folder / "config.json")
        factor = (config.get("encoder_config") or {}).get("subsampling_factor")
        if type(factor) is not int or factor < 1:
            raise BundleError(f"{folder}/config.json must tell the encoder's subsampling_factor in a whole number")
        self.hop = features.hop * factor
        self.step = self.sessions["decoder_joint"]
        kept = {name: port.shape[1:] for name, port in self.step.inputs.items() if name.startswith("past_")}
        self.nothing = {name: np.zeros([1, *map(int, shape)], np.float32) for name, shape in kept.items()}

    def _heard(self, several: Sequence[Part]) -> Iterator[tuple[list[Spoken], int]]:
        """What is said in each part, and in how many states, without what its neighbours have."""
        for _, same in groupby(several, lambda part: len(part[0])):
            group = list(same)
            features = self.features([samples for samples, _, _ in group])["input_features"]
            encoded = self.sessions["encoder_model"].run({"input_features": features})["encoder_hidden_states"]
            for states, (samples, left, right) in zip(encoded, group, strict=True):
                before, behind = (round(shared / len(samples) * len(states)) for shared in (left, right))
                last = len(states) - behind
                spoken = [
                    Spoken(each.text, each.start - before, each.end - before)
                    for each in self._written(states)
                    if before <= each.start < last
                ]
                yield spoken, last - before

    def _spoken(self, heard: Sequence[tuple[list[Spoken], int]]) -> list[Spoken]:
        found: list[Spoken] = []
        first = 0
        for spoken, count in heard:
            found += [Spoken(each.text, first + each.start, first + each.end) for each in spoken]
            first += count
        return found

    def _written(self, states: Array) -> Iterator[Spoken]:
        """The likeliest pieces for a sound's states, (states, size), each where it begins."""
        for frame in self.search.run(self._joint(states), len(states)):
            if frame.token is not None:
                end = frame.at + (frame.onward if self.search.durations else 1)
                yield Spoken(self.labels.piece(frame.token), frame.at, end)

    def _joint(self, states: Array) -> Joint:
        names = ["logits", *(name.replace("past", "present") for name in self.nothing)]
        given, after = {"input_ids": np.array([[self.search.blank]])} | self.nothing, list(self.nothing.values())

        def step(at: int, written: int | None) -> Array:
            nonlocal given, after
            if written is not None:
                given = {"input_ids": np.array([[written]])} | dict(zip(self.nothing, after, strict=True))
            feed = given | {"encoder_hidden_states": states[None, at : at + 1]}
            logits, *after = self.step.run(feed, names).values()
            return logits.reshape(-1)

        return step
