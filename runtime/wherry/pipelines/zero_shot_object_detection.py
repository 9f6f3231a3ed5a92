"""zero-shot-object-detection: an image and labels in, boxes around what fits them out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.pipelines.base import TextPipeline, feeds, sigmoid
from wherry.pipelines.candidates import checked_labels
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.pipelines.object_detection import as_box, corners, share
from wherry.pipelines.scores import checked_count
from wherry.vision.processor import Prepared


class ZeroShotObjectDetectionPipeline(ImagePipeline, TextPipeline):
    """`pipe(image, candidate_labels=["cat", "dog"])` is `[{"score", "label", "box"}]`, best first."""

    task = "zero-shot-object-detection"

    def __call__(
        self,
        inputs: Any,
        *,
        candidate_labels: Sequence[str],
        threshold: float = 0.1,
        top_k: int | None = None,
        batch_size: int = 1,
    ) -> Any:
        """Look for labels in an image, in each of a list, or in an iterator's images as they come.

        Args:
            candidate_labels: what is looked for.
            threshold: scores above it are told.
            top_k: at most so many boxes an image; None for all.
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, no labels, or a threshold that is no share.
            TokenizerError: a label longer than the model takes.
        """
        names = checked_labels(candidate_labels)
        share("threshold", threshold)
        count = checked_count(top_k)
        encoding = self.tokenizer.encode(names, max_length=self.max_length, truncation=False, padding_side="right")
        texts = feeds(encoding)

        def run(images: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            each = {name: np.tile(array, (len(images), 1)) for name, array in texts.items()}
            found = self.session.run({**each, **pixels(images)}, ["logits", "pred_boxes"])
            for image, logits, boxes in zip(images, found["logits"], found["pred_boxes"], strict=True):
                scores, places = sigmoid(logits), corners(boxes, image.size)
                rows, labels = np.nonzero(scores > threshold)
                order = np.argsort(-scores[rows, labels], kind="stable")[:count]
                yield [
                    {"score": float(scores[row, label]), "label": names[label], "box": as_box(places[row])}
                    for row, label in zip(rows[order], labels[order], strict=True)
                ]

        return self.mapped(inputs, batch_size, run)


PIPELINE = ZeroShotObjectDetectionPipeline
