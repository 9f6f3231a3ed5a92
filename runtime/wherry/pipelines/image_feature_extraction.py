"""image-feature-extraction: an image in, vectors of its parts or of the whole out."""

from collections.abc import Iterator, Sequence
from typing import Any

from wherry.errors import InputError
from wherry.pipelines.base import Array
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.vision.processor import Prepared


class ImageFeatureExtractionPipeline(ImagePipeline):
    """`pipe(image)` is float32 of shape (1, parts, size), what the model gives first; a list gives a list of those."""

    task = "image-feature-extraction"

    def __call__(self, inputs: Any, *, pool: bool = False, batch_size: int = 1) -> Any:
        """Vectors of an image, of each of a list, or of an iterator's images as they come.

        Args:
            pool: give the model's vector of the whole image, of shape (1, size).
            batch_size: how many images run together.

        Raises:
            InputError: no image that can be read, or `pool` where the model has no such vector.
        """
        outputs = self.session.outputs
        name = "image_embeds" if "image_embeds" in outputs else next(iter(outputs))
        if pool:
            name = "pooler_output"
            if name not in outputs:
                raise InputError(
                    f"this model has no vector of a whole image, only {', '.join(outputs)}: leave pool out"
                )

        def run(images: Sequence[Prepared]) -> Iterator[Array]:
            found = self.session.run(pixels(images), [name])[name]
            return (found[row : row + 1] for row in range(len(images)))

        return self.mapped(inputs, batch_size, run)


PIPELINE = ImageFeatureExtractionPipeline
