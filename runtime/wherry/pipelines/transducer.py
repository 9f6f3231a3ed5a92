"""Speech to text by models that write frame by frame, with what they have written in view: Parakeet's TDT and RNN-T."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from wherry.audio import Sound, load
from wherry.audio.features import ParakeetFeatures
from wherry.errors import BundleError, InputError
from wherry.pipelines.base import Pipeline
from wherry.pipelines.ctc import LONGEST, Part
from wherry.pipelines.sounds import batches, over, parts
from wherry_tokenization.ctc import CTCLabels, Spoken

Array = np.ndarray[Any, Any]


class TransducerPipeline(Pipeline):
    """`pipe("speech.wav")` is `{"text"}`; a list of sounds gives a list, an iterator of sounds an iterator.

    A sound is a file, its bytes, a float array (samples,) at the model's rate or `{"array", "sampling_rate"}`.
    """

    task = "automatic-speech-recognition"
    roles = ("encoder_model", "decoder_joint")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        features, config, folder = load(self.bundle.folder), self.bundle.config, self.bundle.folder
        if not isinstance(features, ParakeetFeatures):
            raise BundleError(f"{folder}: of models that write frame by frame wherry runs Parakeet")
        self.features, self.labels = features, CTCLabels.load(folder)
        encoder = config.get("encoder_config") or {}
        told = [config.get(name) for name in ("vocab_size", "blank_token_id", "max_symbols_per_step")]
        numbers = [*told, encoder.get("subsampling_factor"), *(config.get("durations") or ())]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise BundleError(
                f"{folder}/config.json must tell vocab_size, blank_token_id, max_symbols_per_step, durations and the "
                "encoder's subsampling_factor in whole numbers"
            )
        self.vocabulary, self.blank, self.most, factor, *self.durations = numbers
        self.hop = features.hop * factor
        self.step = self.sessions["decoder_joint"]
        kept = {name: port.shape[1:] for name, port in self.step.inputs.items() if name.startswith("past_")}
        self.nothing = {name: np.zeros([1, *map(int, shape)], np.float32) for name, shape in kept.items()}

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
            return_timestamps: `char` (pieces of words) or `word`: also give `chunks`, a list of `{"text", "timestamp":
                (start, end)}`, in seconds.
            chunk_length_s: cut a sound into overlapping parts of so many seconds; needed for sounds of more than
                `LONGEST` seconds.
            stride_length_s: seconds that neighbouring parts share, or a pair; a sixth of the part by default.
            batch_size: how many sounds or parts are encoded together, of those that are of one length.

        Raises:
            InputError: no sound, one that cannot be read or is too long, or an option out of range.
        """
        if return_timestamps not in ("char", "word", None, False):
            raise InputError(f"return_timestamps must be char or word for Parakeet, not {return_timestamps!r:.80}")
        cut = parts(chunk_length_s, stride_length_s, self.features.rate, self.hop)

        def process(sounds: list[Sound]) -> list[dict[str, Any]]:
            if cut is None:
                hint = ": pass chunk_length_s=30"
                whole = [(sound.samples(LONGEST, hint), 0, 0) for sound in sounds]
                return [self._result(spoken, return_timestamps) for spoken, _ in self._heard(whole)]
            found = []
            for sound in sounds:
                heard: list[Spoken] = []
                first = 0
                for batch in batches(sound.windows(*cut), batch_size):
                    for spoken, count in self._heard(batch):
                        heard += [Spoken(each.text, first + each.start, first + each.end) for each in spoken]
                        first += count
                found.append(self._result(heard, return_timestamps))
            return found

        return over(inputs, self.features.rate, batch_size, process)

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

    def _written(self, states: Array) -> Iterator[Spoken]:
        """The likeliest pieces for a sound's states, (states, size), each where it begins."""
        token, kept, at, here = self.blank, self.nothing, 0, 0
        names = ["logits", *(name.replace("past", "present") for name in kept)]
        for _ in range(self.most * len(states)):
            if at >= len(states):
                return
            given = {"input_ids": np.array([[token]]), "encoder_hidden_states": states[None, at : at + 1]}
            logits, *states_of_step = self.step.run(given | kept, names).values()
            scores = logits.reshape(-1)
            best = int(scores[: self.vocabulary].argmax())
            onward = self.durations[int(scores[self.vocabulary :].argmax())] if self.durations else 0
            if best == self.blank:
                at, here = at + max(1, onward), 0
                continue
            yield Spoken(self.labels.piece(best), at, at + (onward if self.durations else 1))
            token, kept, here = best, dict(zip(kept, states_of_step, strict=True)), here + 1
            if not self.durations and here >= self.most:
                onward, here = 1, 0
            at += onward

    def _result(self, pieces: Sequence[Spoken], kind: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {"text": self.labels.text(pieces)}
        if kind:
            step = self.hop / self.features.rate
            heard = self.labels.words(pieces) if kind == "word" else pieces
            found["chunks"] = [{"text": each.text, "timestamp": (each.start * step, each.end * step)} for each in heard]
        return found
