"""zero-shot-image-classification: an image and labels in, a score for each label out."""

from collections.abc import Iterator, Sequence
from typing import Any

from wherry.pipelines.base import TextPipeline, feeds, sigmoid, softmax
from wherry.pipelines.candidates import best_first, checked_labels, hypotheses
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.vision.processor import Prepared


class ZeroShotImageClassificationPipeline(ImagePipeline, TextPipeline):
    """`pipe(image, candidate_labels=["cat", "dog"])` is `[{"score", "label"}]`, best first."""

    task = "zero-shot-image-classification"

    def __call__(
        self,
        inputs: Any,
        *,
        candidate_labels: Sequence[str],
        hypothesis_template: str = "This is a photo of {}.",
        batch_size: int = 1,
    ) -> Any:
        """Compare an image, each of a list, or an iterator's images with labels.

        Args:
            candidate_labels: what may be seen. CLIP's scores say which of them fits best and add up to one; SigLIP's
                say of each by itself whether it fits.
            hypothesis_template: the sentence that a label is put into, at `{}`.
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, no labels, or a template without a place for one.
            TokenizerError: a sentence longer than the model takes.
        """
        names = checked_labels(candidate_labels)
        sentences = hypotheses(names, hypothesis_template)
        alone = "siglip" in str(self.bundle.config.get("model_type"))
        limit = 64 if alone else self.max_length
        encoding = self.tokenizer.encode(
            sentences, max_length=limit, truncation=alone, padding="max_length" if alone else True, padding_side="right"
        )
        texts, apply = feeds(encoding), sigmoid if alone else softmax

        def run(images: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            logits = self.session.run({**texts, **pixels(images)}, ["logits_per_image"])["logits_per_image"]
            for scores in apply(logits):
                yield best_first(scores, names)

        return self.mapped(inputs, batch_size, run)


PIPELINE = ZeroShotImageClassificationPipeline
