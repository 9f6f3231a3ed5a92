"""An image of any size as patches that tell where they are: transformers' Pix2Struct image processor on Pillow.

Knows nothing of graphs and tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wherry.vision.processor import Prepared, followed
from wherry.vision.read import pillow


@dataclass(frozen=True)
class Flattener:
    """Makes of an image as many patches as its shape allows, each behind its row and column, which count from one.

    Attributes:
        kind: which of transformers' processors it is.
        most: patches at most; rows of zeros fill them up.
        patch: (height, width) of one.
        normalized: whether each image is brought to a mean of zero and a deviation of one.
    """

    kind: ClassVar[str] = "Pix2Struct"
    most: int
    patch: tuple[int, int]
    normalized: bool

    @classmethod
    def load(cls, folder: Path) -> "Flattener":
        """Read a model folder's settings.

        Raises:
            BundleError: there are none, or none that can be followed.
        """
        return followed(folder, cls.of)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Flattener":
        """Follow the settings of a file.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they make no sense.
        """
        name = str(settings.get("image_processor_type"))
        if name.removesuffix("Fast").removesuffix("Pil") != f"{cls.kind}ImageProcessor":
            raise ValueError(f"image_processor_type is {name}, and the graph takes what {cls.kind}ImageProcessor makes")
        if settings.get("is_vqa"):
            raise ValueError("is_vqa is set: wherry does not write questions over images, which this model reads there")
        patch = settings.get("patch_size") or {"height": 16, "width": 16}
        found = cls(
            int(settings.get("max_patches", 2048)),
            (int(patch["height"]), int(patch["width"])),
            bool(settings.get("do_normalize", True)),
        )
        if min(found.most, *found.patch) < 1:
            raise ValueError("max_patches and patch_size must be from 1 on")
        return found

    def __call__(self, image: Any, *, name: str = "image") -> Prepared:  # noqa: ARG002
        """Prepare one image, a PIL.Image.Image of mode RGB."""
        levels = np.asarray(image)
        values = levels.astype(np.float32)
        if self.normalized:
            values = (values - values.mean()) / max(values.std(), 1 / np.sqrt(values.size))
        rows, columns = self._grid(*levels.shape[:2])
        tall, wide = self.patch
        found = np.zeros((self.most, 2 + 3 * tall * wide), np.float32)
        for channel in range(3):
            whole = pillow().fromarray(np.ascontiguousarray(values[..., channel]))
            whole = np.asarray(whole.resize((columns * wide, rows * tall), resample=2))
            patches = whole.reshape(rows, tall, columns, wide).swapaxes(1, 2)
            found[: rows * columns, 2 + channel :: 3] = patches.reshape(rows * columns, -1)
        found[: rows * columns, :2] = 1 + np.indices((rows, columns)).reshape(2, -1).T
        return Prepared(found, (np.arange(self.most) < rows * columns).astype(np.int64), levels.shape[:2])

    def _grid(self, *size: int) -> tuple[int, int]:
        """Rows and columns of patches that keep an image's shape."""
        scale = (self.most * prod(edge / length for edge, length in zip(self.patch, size, strict=True))) ** 0.5
        rows, columns = (
            max(1, min(int(scale * length / edge), self.most)) for edge, length in zip(self.patch, size, strict=True)
        )
        return rows, columns
