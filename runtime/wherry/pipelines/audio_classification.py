"""audio-classification: labels and scores for a sound."""

from itertools import groupby
from typing import Any

import numpy as np

from wherry.audio import Sound, load
from wherry.pipelines.base import Pipeline
from wherry.pipelines.ctc import LONGEST
from wherry.pipelines.scores import checked_count, function, ranked
from wherry.pipelines.sounds import over

Array = np.ndarray[Any, Any]


class AudioClassificationPipeline(Pipeline):
    """`pipe("sound.wav")` is `[{"score", "label"}]`, best first; a list of sounds gives a list of such results.

    A sound is a file, its bytes, a float array (samples,) at the model's rate or `{"array", "sampling_rate"}`.
    """

    task = "audio-classification"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.features = load(self.bundle.folder)

    def __call__(
        self, inputs: Any, *, top_k: int | None = None, function_to_apply: str | None = None, batch_size: int = 1
    ) -> Any:
        """Classify one sound, or each of several.

        Args:
            top_k: how many labels a sound; by default all.
            function_to_apply: `softmax`, `sigmoid` or `none`; by default as the configuration says.
            batch_size: how many sounds run together, of those whose features are of one length.

        Raises:
            InputError: no sound, one that cannot be read or is longer than `LONGEST` seconds, or an unknown option.
        """
        count, apply = checked_count(top_k), function(self.bundle, function_to_apply)

        def process(sounds: list[Sound]) -> list[list[dict[str, Any]]]:
            found = []
            for _, same in groupby(map(self._samples, sounds), lambda samples: self.features.length or len(samples)):
                logits = self.session.run(self.features(list(same)), ["logits"])["logits"]
                found += [ranked(self.bundle, scores, count) for scores in apply(logits)]
            return found

        return over(inputs, self.features.rate, batch_size, process)

    def _samples(self, sound: Sound) -> Array:
        """What the model takes of a sound: all of it, or as much as its features are cut to."""
        return sound.beginning(self.features.length) if self.features.length else sound.samples(LONGEST)


PIPELINE = AudioClassificationPipeline
