"""depth-estimation: an image in, the distance of each of its pixels out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.pipelines.base import Array
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.vision.maps import bicubic
from wherry.vision.processor import Prepared
from wherry.vision.read import pillow


class DepthEstimationPipeline(ImagePipeline):
    """`pipe(image)` is `{"predicted_depth", "depth"}`: float32 (height, width), and a grey PIL image of them.

    What the numbers mean, distance or its inverse, is up to the model; the picture goes from their least to their most.
    """

    task = "depth-estimation"

    def __call__(self, inputs: Any, *, batch_size: int = 1) -> Any:
        """Look at an image, each of a list, or an iterator's images as they come, `batch_size` together.

        Raises:
            InputError: no image that can be read.
        """

        def run(images: Sequence[Prepared]) -> Iterator[dict[str, Any]]:
            depths = self.session.run(pixels(images), ["predicted_depth"])["predicted_depth"]
            for image, depth in zip(images, depths, strict=True):
                full = bicubic(depth, image.size)
                yield {"predicted_depth": full, "depth": _picture(full)}

        return self.mapped(inputs, batch_size, run)


def _picture(depth: Array) -> Any:
    least, most = depth.min(), depth.max()
    shares = (depth - least) / (most - least) if most > least else np.zeros_like(depth)
    return pillow().fromarray((shares * 255).astype(np.uint8))


PIPELINE = DepthEstimationPipeline
