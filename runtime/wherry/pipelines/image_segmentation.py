"""image-segmentation: an image in, a mask for each thing or each class in it out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array, labels, sigmoid, softmax
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.pipelines.object_detection import share
from wherry.vision.maps import bilinear, classes
from wherry.vision.processor import Prepared
from wherry.vision.read import pillow
from wherry.vision.segments import Segment, instances, likeliest, panoptic
from wherry.vision.sizes import Size
from wherry_tokenization import Tokenizer

SUBTASKS = ("panoptic", "instance", "semantic")
QUERIES = (("class_queries_logits", "masks_queries_logits"), ("logits", "pred_masks"))
"""Outputs of models that give a class and a mask for each of some queries: MaskFormer and its kin, and DETR."""


class ImageSegmentationPipeline(ImagePipeline):
    """`pipe(image)` is `[{"score", "label", "mask"}]`; a mask is a PIL image of mode L, 255 where the thing is.

    Models that classify each pixel give a mask for each class that they see, with a score of None.
    """

    task = "image-segmentation"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.queries = next((names for names in QUERIES if set(names) <= set(self.session.outputs)), None)
        self.told: Mapping[str, Array] = {}  # of a subtask: its words, of which OneFormer is told
        if "task_inputs" in self.session.inputs:
            tokenizer, length = Tokenizer.load(self.bundle.folder), int(self.session.inputs["task_inputs"].shape[1])
            self.told = {
                subtask: tokenizer.encode([f"the task is {subtask}"], max_length=length, padding="max_length").input_ids
                for subtask in SUBTASKS
            }

    def __call__(
        self,
        inputs: Any,
        *,
        subtask: str | None = None,
        threshold: float = 0.9,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.5,
        batch_size: int = 1,
    ) -> Any:
        """Look at an image, each of a list, or an iterator's images as they come.

        Args:
            subtask: `panoptic`, `instance` or `semantic`; by default the first of them that the model can.
            threshold: things with a higher score are told.
            mask_threshold: how sure a mask is of the pixels that count for its area.
            overlap_mask_area_threshold: the share of its area that others must leave a thing.
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, a threshold that is no share, or a subtask that the model cannot.
        """
        if subtask not in (None, *SUBTASKS):
            raise InputError(f"unknown subtask '{subtask}': choose one of {', '.join(SUBTASKS)}")
        if self.queries is None and subtask in ("panoptic", "instance"):
            raise InputError(f"this model classifies each pixel: leave subtask={subtask} out, or ask for semantic")
        for name, value in (
            ("threshold", threshold),
            ("mask_threshold", mask_threshold),
            ("overlap_mask_area_threshold", overlap_mask_area_threshold),
        ):
            share(name, value)

        def run(images: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            given = pixels(images)
            if self.told:
                given["task_inputs"] = np.repeat(self.told[subtask or SUBTASKS[0]], len(images), 0)
            found = self.session.run(given, self.queries or ["logits"])
            for row, image in enumerate(images):
                outputs = {name: array[row] for name, array in found.items()}
                if self.queries is None or subtask == "semantic":
                    yield self._classes(outputs, image.size)
                elif subtask == "instance" and self.processor.kind in ("Mask2Former", "MaskFormer"):
                    kinds, masks = self._asked(outputs)
                    yield self._named(instances(kinds, masks, image.size, threshold))
                else:
                    kinds, masks = self._asked(outputs)
                    limits = (image.size, threshold, mask_threshold, overlap_mask_area_threshold)
                    if subtask == "instance" and self.told:
                        yield self._named(likeliest(softmax(kinds), masks, *limits))
                    else:
                        yield self._named(panoptic(softmax(kinds), sigmoid(masks), *limits))

        return self.mapped(inputs, batch_size, run)

    def _asked(self, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
        """Logits of classes (queries, classes and none) and of masks (queries, height, width)."""
        kinds, masks = (outputs[name] for name in self.queries or ())
        if self.processor.kind == "Mask2Former":  # which was taught to compare masks in this size
            masks = np.moveaxis(bilinear(np.moveaxis(masks, 0, -1), (384, 384)), -1, 0)
        return kinds, masks

    def _classes(self, outputs: Mapping[str, Array], size: Size) -> list[dict[str, Any]]:
        if self.queries is None:
            logits = outputs["logits"]
        else:
            kinds, masks = self._asked(outputs)
            logits = np.einsum("qc,qhw->chw", softmax(kinds)[:, :-1], sigmoid(masks), optimize=True)
        seen = classes(logits, size)
        names = labels(self.bundle, len(logits))
        return [{"score": None, "label": names[each], "mask": picture(seen == each)} for each in np.unique(seen)]

    def _named(self, segments: Iterable[Segment]) -> list[dict[str, Any]]:
        return [
            {
                "score": round(each.score, 6),
                "label": labels(self.bundle, each.label + 1)[-1],
                "mask": picture(each.mask),
            }
            for each in segments
        ]


def picture(mask: Array) -> Any:
    """A mask as a PIL image of mode L, 255 where it holds."""
    return pillow().fromarray(mask.astype(np.uint8) * 255)


PIPELINE = ImageSegmentationPipeline
