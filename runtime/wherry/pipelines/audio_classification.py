"""audio-classification: labels and scores for a sound."""

from itertools import groupby
from typing import Any

import numpy as np

from wherry.audio import Sound, load
from wherry.errors import InputError
from wherry.pipelines.base import Pipeline, labels
from wherry.pipelines.ctc import LONGEST
from wherry.pipelines.sounds import over
from wherry.pipelines.text_classification import FUNCTIONS

Array = np.ndarray[Any, Any]


class AudioClassificationPipeline(Pipeline):
    """`pipe("sound.wav")` is `[{"score", "label"}]`, best first; a list of sounds gives a list of such results.

    A sound is a file, its bytes, a float array (samples,) at the model's rate or `{"array", "sampling_rate"}`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.features = load(self.bundle.folder)

    def __call__(
        self, inputs: Any, *, top_k: int | None = 5, function_to_apply: str | None = None, batch_size: int = 1
    ) -> Any:
        """Classify one sound, or each of several.

        Args:
            top_k: how many labels a sound; None for all.
            function_to_apply: `softmax`, `sigmoid` or `none`; by default as the configuration says.
            batch_size: how many sounds run together, of those whose features are of one length.

        Raises:
            InputError: no sound, one that cannot be read or is longer than `LONGEST` seconds, or an unknown option.
        """
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"top_k must be a whole number from 1 on, not {top_k!r:.80}")
        kinds = {"regression": "none", "multi_label_classification": "sigmoid"}
        name = function_to_apply or kinds.get(str(self.bundle.config.get("problem_type")), "softmax")
        if name not in FUNCTIONS:
            raise InputError(f"unknown function_to_apply '{name}': choose one of {', '.join(FUNCTIONS)}")

        def process(sounds: list[Sound]) -> list[list[dict[str, Any]]]:
            found = []
            for _, same in groupby(map(self._samples, sounds), lambda samples: self.features.length or len(samples)):
                scores = FUNCTIONS[name](self.session.run(self.features(list(same)), ["logits"])["logits"])
                found += [self._ranked(row, top_k) for row in scores]
            return found

        return over(inputs, self.features.rate, batch_size, process)

    def _samples(self, sound: Sound) -> Array:
        """What the model takes of a sound: all of it, or as much as its features are cut to."""
        return sound.beginning(self.features.length) if self.features.length else sound.samples(LONGEST)

    def _ranked(self, scores: Array, top_k: int | None) -> list[dict[str, Any]]:
        names = labels(self.bundle, len(scores))
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"score": float(scores[index]), "label": names[index]} for index in order]


PIPELINE = AudioClassificationPipeline
