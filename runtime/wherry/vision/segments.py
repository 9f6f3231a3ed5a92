"""Masks of things from a class and a mask for each of some queries, as DETR, MaskFormer and Mask2Former give them.

Masks are brought to full size one at a time, so memory grows with the image and not with the number of queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.vision.maps import bilinear
from wherry.vision.sizes import Size

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Segment:
    """One thing: the number of its class, how sure the model is, and where it is: bool of shape (height, width)."""

    label: int
    score: float
    mask: Array


def panoptic(
    kinds: Array, masks: Array, size: Size, threshold: float, mask_threshold: float, overlap: float
) -> Iterator[Segment]:
    """Things that share no pixel: each pixel is of the query that is surest of it.

    Args:
        kinds: probabilities (queries, classes), the last class for nothing.
        masks: probabilities (queries, height, width).
        size: of the image.
        threshold: least score.
        mask_threshold: the probability, times the score, at which a pixel counts for a thing's own area.
        overlap: the share of its own area that a thing must keep.
    """
    labels, scores = kinds.argmax(-1), kinds.max(-1)
    kept = np.flatnonzero((labels != kinds.shape[1] - 1) & (scores > threshold))
    return _shared(labels[kept], scores[kept], masks[kept], size, mask_threshold, overlap)


def likeliest(
    kinds: Array, masks: Array, size: Size, threshold: float, mask_threshold: float, overlap: float
) -> Iterator[Segment]:
    """OneFormer's things: as many of the likeliest pairs of query and class as there are queries; none share a pixel.

    Args:
        kinds: probabilities (queries, classes), the last class for nothing.
        masks: logits (queries, height, width).
        size: of the image.
        threshold: least score.
        mask_threshold: the logit, times the score, at which a pixel counts for a thing's own area.
        overlap: the share of its own area that a thing must keep.
    """
    pairs = kinds[:, :-1]
    ranked = np.argsort(-pairs, axis=None, kind="stable")[: len(kinds)]
    queries, labels = np.divmod(ranked, pairs.shape[1])
    scores = pairs[queries, labels]
    kept = scores > threshold
    return _shared(labels[kept], scores[kept], masks[queries[kept]], size, mask_threshold, overlap)


def _shared(
    labels: Array, scores: Array, masks: Array, size: Size, mask_threshold: float, overlap: float
) -> Iterator[Segment]:
    """Things (count,) with their masks (count, height, width), each pixel to the surest."""
    best, owner = np.full(size, -np.inf, np.float32), np.full(size, -1)
    areas = {}
    for query in range(len(labels)):
        sure = bilinear(masks[query], size) * scores[query]
        areas[query] = int((sure >= mask_threshold).sum())
        better = sure > best
        best[better], owner[better] = sure[better], query
    for query in range(len(labels)):
        mask = owner == query
        if areas[query] and mask.any() and mask.sum() / areas[query] > overlap:
            yield Segment(int(labels[query]), float(scores[query]), mask)


def instances(kinds: Array, masks: Array, size: Size, threshold: float) -> Iterator[Segment]:
    """MaskFormer's and Mask2Former's things, best class first; where they overlap the later one is seen.

    Args:
        kinds: logits (queries, classes), the last class for nothing.
        masks: logits (queries, height, width).
        size: of the image.
        threshold: least score, of class and mask together.
    """
    shares = np.exp(kinds - kinds.max(-1, keepdims=True))
    shares = (shares / shares.sum(-1, keepdims=True))[:, :-1]
    ranked = np.argsort(-shares, axis=None, kind="stable")[: len(kinds)]
    owner, found = np.full(size, -1), []
    for number, at in enumerate(ranked):
        query, label = divmod(int(at), shares.shape[1])
        mask = masks[query] > 0
        sure = (1 / (1 + np.exp(-masks[query][mask]))).sum() / (mask.sum() + 1e-6)
        score = float(shares[query, label] * sure)
        full = _nearest(mask, size)
        if full.any() and score >= threshold:
            owner[full] = number
            found.append((number, label, score))
    for number, label, score in found:
        yield Segment(label, score, owner == number)


def _nearest(mask: Array, size: Size) -> Array:
    rows, columns = (
        np.minimum(
            np.floor(np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))).astype(int), old - 1
        )
        for old, new in zip(mask.shape, size, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns])


def apart(boxes: Array, scores: Array, overlap: float) -> list[int]:
    """Places of the boxes that are not mostly those of a better one, the best first: non-maximum suppression.

    Args:
        boxes: (count, 4) of left, top, right and bottom.
        scores: (count,).
        overlap: what two may share, of all that they cover.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        edges = np.minimum(boxes[order, 2:], boxes[best, 2:]) - np.maximum(boxes[order, :2], boxes[best, :2])
        shared = edges.clip(0).prod(-1)
        order = order[shared <= overlap * (areas[order] + areas[best] - shared)]
    return kept
