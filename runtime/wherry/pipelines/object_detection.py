"""object-detection: an image in, boxes with labels and scores out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array, labels, sigmoid, softmax
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.vision.processor import Prepared
from wherry.vision.sizes import Size

BEST: Mapping[str, int | None] = {"ConditionalDetr": 100, "DeformableDetr": 100, "RTDetr": None}
"""How many pairs of box and label are looked at, for models that score each by itself; None for as many as boxes.

Others score labels against each other, with one more for nothing, as DETR and YOLOS do.
"""


class ObjectDetectionPipeline(ImagePipeline):
    """`pipe(image)` is `[{"score", "label", "box"}]`; a box is `{"xmin", "ymin", "xmax", "ymax"}` in pixels, ints."""

    task = "object-detection"

    def __call__(self, inputs: Any, *, threshold: float = 0.5, batch_size: int = 1) -> Any:
        """Find things in an image, in each of a list, or in an iterator's images as they come.

        Args:
            threshold: scores above it are told.
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, or a threshold that is no share.
        """
        share("threshold", threshold)

        def run(images: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            found = self.session.run(pixels(images), ["logits", "pred_boxes"])
            rows = zip(images, found["logits"], found["pred_boxes"], strict=True)
            return (self._found(logits, corners(boxes, image.size), threshold) for image, logits, boxes in rows)

        return self.mapped(inputs, batch_size, run)

    def _found(self, logits: Array, boxes: Array, threshold: float) -> list[dict[str, Any]]:
        kind = self.processor.kind
        if kind in BEST:
            scores = sigmoid(logits).ravel()
            order = np.argsort(-scores, kind="stable")[: BEST[kind] or len(boxes)]
            scores, chosen, boxes = scores[order], order % logits.shape[1], boxes[order // logits.shape[1]]
            names = labels(self.bundle, logits.shape[1])
        else:
            shares = softmax(logits)[:, :-1]
            scores, chosen = shares.max(-1), shares.argmax(-1)
            names = labels(self.bundle, shares.shape[1])
        return [
            {"score": float(scores[at]), "label": names[chosen[at]], "box": as_box(boxes[at])}
            for at in np.flatnonzero(scores > threshold)
        ]


def share(name: str, value: float) -> None:
    """Refuse what is not from 0 to 1.

    Raises:
        InputError: it is not.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be from 0 to 1, not {value}")


def corners(boxes: Array, size: Size) -> Array:
    """Boxes (centre x, centre y, width, height) in shares of an image to (left, top, right, bottom) in its pixels."""
    centres, halves = boxes[:, :2], 0.5 * boxes[:, 2:]
    height, width = size
    scale = np.array([width, height, width, height], np.float32)
    return np.concatenate([centres - halves, centres + halves], axis=1) * scale


def as_box(corners: Array) -> dict[str, int]:
    """A box by the names of its edges, cut to whole pixels."""
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, corners), strict=True))


PIPELINE = ObjectDetectionPipeline
