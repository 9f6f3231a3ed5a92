"""image-classification: an image in, labels and scores out."""

from collections.abc import Iterator, Sequence
from typing import Any

from wherry.pipelines.images import ImagePipeline, pixels
from wherry.pipelines.scores import checked_count, function, ranked
from wherry.vision.processor import Prepared


class ImageClassificationPipeline(ImagePipeline):
    """`pipe(image)` is `[{"label", "score"}]`, best first; a list of images gives a list of those."""

    task = "image-classification"

    def __call__(
        self, inputs: Any, *, top_k: int | None = 5, function_to_apply: str | None = None, batch_size: int = 1
    ) -> Any:
        """Classify an image, each of a list, or an iterator's images as they come.

        Args:
            top_k: how many labels an image; None for all.
            function_to_apply: `softmax`, `sigmoid` or `none`; by default as the configuration says.
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, or an unknown function.
        """
        count = checked_count(top_k)
        apply = function(self.bundle, function_to_apply)

        def run(images: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            logits = self.session.run(pixels(images), ["logits"])["logits"]
            return (ranked(self.bundle, scores, count) for scores in apply(logits))

        return self.mapped(inputs, batch_size, run)


PIPELINE = ImageClassificationPipeline
