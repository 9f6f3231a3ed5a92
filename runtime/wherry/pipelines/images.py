"""What every pipeline of images shares: reading and preparing them, and running them in batches as they come."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array, Pipeline
from wherry.vision import ImageProcessor, read_image
from wherry.vision.flattened import Flattener
from wherry.vision.processor import Prepared
from wherry.vision.read import pillow


class ImagePipeline(Pipeline):
    """A pipeline that looks at images: paths, bytes of files, PIL images, or uint8 arrays (height, width, 3) of RGB.

    One image gives its result, a list of them a list; an iterator gives an iterator, which reads as it is asked.

    Attributes:
        flat: whether the graph takes images as patches that tell where they are.
        processor: images to pixel values, or to such patches.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pillow()
        super().__init__(*arguments, **options)
        self.flat = "flattened_patches" in self.session.inputs
        self.processor = (Flattener if self.flat else ImageProcessor).load(self.bundle.folder)

    def mapped(self, inputs: Any, batch_size: int, run: Callable[[Sequence[Prepared]], Iterable[Any]]) -> Any:
        """Run over an image or a list.

        Args:
            inputs: as the class takes them.
            batch_size: how many images run together, where neighbours are prepared to one size. So none is padded, and
                a result never depends on what else is in a batch.
            run: gives a result for each of some images of one size.

        Raises:
            InputError: no image, one that cannot be read, or of a size that the graph does not take.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        if not isinstance(inputs, list | tuple):
            return next(iter(run([self._prepared(inputs, "image")])))
        return list(self._results(inputs, batch_size, run))

    def _results(
        self, inputs: Iterable[Any], batch_size: int, run: Callable[[Sequence[Prepared]], Iterable[Any]]
    ) -> Iterator[Any]:
        batch: list[Prepared] = []
        for number, given in enumerate(inputs):
            image = self._prepared(given, f"image {number}")
            if batch and (len(batch) == batch_size or batch[0].pixels.shape != image.pixels.shape):
                yield from run(batch)
                batch = []
            batch.append(image)
        if batch:
            yield from run(batch)

    def _prepared(self, given: Any, name: str) -> Prepared:
        name = given if isinstance(given, str) else name
        image = self.processor(read_image(given, name=name), name=name)
        if self.flat:
            return image
        wanted, found = self.session.inputs["pixel_values"].shape[-2:], image.pixels.shape[1:]
        if any(isinstance(edge, int) and edge != size for edge, size in zip(wanted, found, strict=True)):
            raise InputError(
                f"{name} is {_size(image.size)} and becomes {_size(found)}, but this model's graph takes "
                f"{_size(wanted)} alone: cut the image to that ratio first"
            )
        return image


def pixels(images: Sequence[Prepared]) -> dict[str, Array]:
    """Images of one size under the names that graphs have for them."""
    values, mask = (np.stack(arrays) for arrays in zip(*((each.pixels, each.mask) for each in images), strict=True))
    if values.ndim == 3:
        return {"flattened_patches": values, "attention_mask": mask}
    return {"pixel_values": values, "pixel_mask": mask}


def _size(edges: Sequence[Any]) -> str:
    height, width = edges
    return f"{width}x{height}"
