"""zero-shot-audio-classification: a sound and labels in, a score for each label out."""

from collections.abc import Sequence
from typing import Any

from wherry.audio import Sound, load
from wherry.pipelines.base import Array, TextPipeline, feeds, softmax
from wherry.pipelines.candidates import best_first, checked_labels, hypotheses
from wherry.pipelines.ctc import LONGEST
from wherry.pipelines.sounds import over


class ZeroShotAudioClassificationPipeline(TextPipeline):
    """`pipe("sound.wav", candidate_labels=["gulls", "rain"])` is `[{"score", "label"}]`, best first.

    A sound is a file, its bytes, a float array (samples,) at the model's rate or `{"array", "sampling_rate"}`.
    """

    task = "zero-shot-audio-classification"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.features = load(self.bundle.folder)

    def __call__(
        self,
        inputs: Any,
        *,
        candidate_labels: Sequence[str],
        hypothesis_template: str = "This is a sound of {}.",
        batch_size: int = 1,
    ) -> Any:
        """Compare a sound, each of a list, or an iterator's sounds with labels.

        Args:
            candidate_labels: what may be heard; their scores add up to one.
            hypothesis_template: the sentence that a label is put into, at `{}`.
            batch_size: how many sounds run together.

        Raises:
            InputError: no sound, one that cannot be read or of which more than `LONGEST` seconds would be taken, no
                labels, or a template without a place for one.
            TokenizerError: a sentence longer than the model takes.
        """
        names = checked_labels(candidate_labels)
        sentences = hypotheses(names, hypothesis_template)
        texts = feeds(
            self.tokenizer.encode(sentences, max_length=self.max_length, truncation=False, padding_side="right")
        )

        def process(sounds: list[Sound]) -> list[list[dict[str, Any]]]:
            heard = self.features([self._samples(sound) for sound in sounds])
            logits = self.session.run({**texts, **heard}, ["logits_per_audio"])["logits_per_audio"]
            return [best_first(scores, names) for scores in softmax(logits)]

        return over(inputs, self.features.rate, batch_size, process)

    def _samples(self, sound: Sound) -> Array:
        """What the model takes of a sound: as much as its features are cut to, or all where they are made of all."""
        return sound.beginning(self.features.length) if self.features.length else sound.samples(LONGEST)


PIPELINE = ZeroShotAudioClassificationPipeline
