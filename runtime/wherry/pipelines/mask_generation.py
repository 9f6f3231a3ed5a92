"""mask-generation: an image and points on things in it in, a mask for each thing out; without points, of all there is.

As SAM does it (Kirillov et al., Segment Anything, https://arxiv.org/abs/2304.02643), and SAM 2, which fills images up
with nothing (Ravi et al., SAM 2: Segment Anything in Images and Videos, https://arxiv.org/abs/2408.00714).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array
from wherry.pipelines.image_segmentation import picture
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.pipelines.object_detection import share
from wherry.vision.maps import bilinear
from wherry.vision.processor import ImageProcessor, Prepared
from wherry.vision.segments import apart
from wherry.vision.sizes import Size

THINGS = 64
"""That are asked for together."""

Thing = tuple[Array, Array]
"""Points on it or beside it, float64 (points, 2), and which of both, int64 (points,)."""


@dataclass(frozen=True)
class Seen:
    """An image that is embedded, to be asked about again and again.

    Attributes:
        embedded: what the graph for points takes of it, by input.
        size: (height, width) of the image.
        resized: the same as the model sees it.
        padded: the same with what fills it up; None where nothing does.
    """

    embedded: Mapping[str, Array]
    size: Size
    resized: Size
    padded: Size | None


class MaskGenerationPipeline(ImagePipeline):
    """`pipe(image, points=[(450, 600)])` is `[{"score", "mask"}]`, one for each thing that a point is on.

    A score is how much of the thing the model holds its mask to cover; a mask is a PIL image of mode L, 255 where the
    thing is. `seen = pipe.embed(image)` stands for the image in later calls, which run the small graph alone.
    """

    task = "mask-generation"
    roles = ("vision_encoder", "prompt_encoder_mask_decoder")

    def __call__(
        self,
        inputs: Any,
        *,
        points: Sequence[Any] | None = None,
        labels: Sequence[Any] | None = None,
        points_per_crop: int = 32,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        crops_nms_thresh: float = 0.7,
        batch_size: int = 1,
    ) -> Any:
        """Look at an image, each of a list, or an iterator's images as they come.

        Args:
            inputs: images, or one that `embed` has seen.
            points: (x, y) in the image's pixels, one for each thing; or a list of them for each thing. None for points
                all over the image, and the good ones of the masks that are found there, as the rest says.
            labels: of `points`, alike in form: 1 on the thing, as all are by default, or 0 beside it.
            points_per_crop: so many in each direction.
            pred_iou_thresh: a good mask's score is higher.
            stability_score_thresh: of the pixels whose logit is above -1, a larger share has one above 1.
            crops_nms_thresh: its box shares no more than this with a better one's, of what both cover.
            batch_size: how many images are embedded together.

        Raises:
            InputError: no image that can be read, points that lie in none, or labels that are not of them.
        """
        for name, value in (
            ("pred_iou_thresh", pred_iou_thresh),
            ("stability_score_thresh", stability_score_thresh),
            ("crops_nms_thresh", crops_nms_thresh),
        ):
            share(name, value)
        if points_per_crop < 1:
            raise InputError(f"points_per_crop must be at least 1, not {points_per_crop}")
        things = None if points is None else _things(points, labels)
        if points is None and labels is not None:
            raise InputError("labels go with points: pass points=, too")

        def found(seen: Seen) -> list[dict[str, Any]]:
            if things is not None:
                return self._at(seen, things)
            return self._everywhere(seen, points_per_crop, pred_iou_thresh, stability_score_thresh, crops_nms_thresh)

        if isinstance(inputs, Seen):
            return found(inputs)
        return self.mapped(inputs, batch_size, lambda images: map(found, self._seen(images)))

    def embed(self, image: Any) -> Seen:
        """Look at an image once, for several calls.

        Raises:
            InputError: no image that can be read.
        """
        seen: Seen = self.mapped(image, 1, self._seen)
        return seen

    def _seen(self, images: Sequence[Prepared]) -> Iterator[Seen]:
        assert isinstance(self.processor, ImageProcessor)
        found = self.session.run({"pixel_values": pixels(images)["pixel_values"]})
        for row, image in enumerate(images):
            embedded = {name: array[row : row + 1] for name, array in found.items()}
            resized = int(image.mask[:, 0].sum()), int(image.mask[0].sum())
            yield Seen(embedded, image.size, resized, self.processor.pad)

    def _at(self, seen: Seen, things: Sequence[Thing]) -> list[dict[str, Any]]:
        for x, y in np.concatenate([points for points, _ in things]):
            if not (0 <= x <= seen.size[1] and 0 <= y <= seen.size[0]):
                raise InputError(f"point ({x:g}, {y:g}) lies outside the image, which is {seen.size[1]}x{seen.size[0]}")
        found: dict[int, dict[str, Any]] = {}
        for count in {len(points) for points, _ in things}:  # fewer points filled up would be answered otherwise
            places = [place for place, (points, _) in enumerate(things) if len(points) == count]
            points, labels = (np.stack(each) for each in zip(*(things[place] for place in places), strict=True))
            answers = [
                (score, mask[score.argmax()])
                for scores, masks in self._asked(seen, points, labels)
                for score, mask in zip(scores, masks, strict=True)
            ]
            for place, (score, mask) in zip(places, answers, strict=True):
                found[place] = {"score": float(score.max()), "mask": picture(_full(mask, seen) > 0)}
        return [found[place] for place in range(len(things))]

    def _everywhere(
        self, seen: Seen, side: int, least_score: float, least_stability: float, overlap: float
    ) -> list[dict[str, Any]]:
        steps = (np.arange(side) + 0.5) / side
        points = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 1, 2) * np.array(seen.size[::-1])
        kept: list[tuple[float, Array, Array]] = []
        for scores, masks in self._asked(seen, points, np.ones(points.shape[:2], np.int64)):
            for score, mask in zip(scores[scores > least_score], masks[scores > least_score], strict=True):
                full = _full(mask, seen)
                bold, all_of_it = (full > 1).sum(), (full > -1).sum()
                if bold > least_stability * all_of_it:
                    kept.append((float(score), mask, _box(full > 0)))
        if not kept:
            return []
        best = apart(np.stack([box for _, _, box in kept]), np.array([score for score, _, _ in kept]), overlap)
        return [{"score": kept[at][0], "mask": picture(_full(kept[at][1], seen) > 0)} for at in best]

    def _asked(self, seen: Seen, points: Array, labels: Array) -> Iterator[tuple[Array, Array]]:
        """Scores (things, 3) and masks (things, 3, height, width), some things at a time."""
        scale = np.array([new / old for new, old in zip(seen.resized[::-1], seen.size[::-1], strict=True)])
        for first in range(0, len(points), THINGS):
            part = slice(first, first + THINGS)
            asked = {
                "input_points": (points[None, part] * scale).astype(np.float32),
                "input_labels": labels[None, part],
            }
            found = self.sessions[self.roles[1]].run({**asked, **seen.embedded}, ["iou_scores", "pred_masks"])
            yield found["iou_scores"][0], found["pred_masks"][0]


def _things(points: Sequence[Any], labels: Sequence[Any] | None) -> list[Thing]:
    """Each thing's points and labels.

    Raises:
        InputError: they are not of one of the forms that the pipeline takes.
    """
    form = "points must be a list of (x, y), or of lists of them"
    try:
        places = [np.asarray(each, np.float64).reshape(-1, 2) for each in points]
        kinds = [np.ones(len(each), np.int64) for each in places]
        if labels is not None:
            kinds = [np.asarray(each, np.int64).reshape(-1) for each in labels]
    except (TypeError, ValueError) as error:
        raise InputError(f"{form}, and labels a number for each of them: {error}") from error
    if not places or not all(map(len, places)):
        raise InputError(f"{form}; there is none")
    if [len(each) for each in kinds] != [len(each) for each in places]:
        raise InputError(f"there must be a label for each point: {len(places)} things, labels for {len(kinds)}")
    if not all(np.isin(each, (0, 1)).all() for each in kinds):
        raise InputError("labels must be 1, on the thing, or 0, beside it")
    if not all(np.isfinite(each).all() for each in places):
        raise InputError(f"{form} that are finite numbers")
    return list(zip(places, kinds, strict=True))


def _full(mask: Array, seen: Seen) -> Array:
    """Logits of a mask in the size of the image."""
    if seen.padded is None:
        return bilinear(mask, seen.size)
    height, width = seen.resized
    return bilinear(bilinear(mask, seen.padded)[:height, :width], seen.size)


def _box(mask: Array) -> Array:
    """(left, top, right, bottom) of what is in a mask; zeros for an empty one."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]] if len(rows) else [0, 0, 0, 0])


PIPELINE = MaskGenerationPipeline
