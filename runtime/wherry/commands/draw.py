"""Results over the image they are about: boxes with labels, masks, depth. Knows nothing of pipelines and files."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wherry.vision.read import pillow

COLOURS = ("#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6", "#808000", "#000075")
"""Dark enough for white letters, and told apart by most eyes; one a label."""

VEIL = 0.5
"""How much of an image a mask's colour hides."""


def draw(task: str, image: Any, result: Any) -> Any:
    """An image of mode RGB with a task's result over it, as a new one."""
    return DRAWERS[task](image, result)


def _boxes(image: Any, found: list[dict[str, Any]]) -> Any:
    from PIL import ImageDraw

    drawn = image.copy()
    pen, colours = ImageDraw.Draw(drawn), _colours(found)
    size = max(12, round(min(image.size) / 40))
    for each in reversed(found):  # so that the surest comes last, over the others
        box, colour = each["box"], colours[each["label"]]
        left, right = sorted((box["xmin"], box["xmax"]))
        top, bottom = sorted((box["ymin"], box["ymax"]))
        pen.rectangle((left, top, right, bottom), outline=colour, width=max(2, size // 6))
        _tag(pen, (left, top - size - 4), f"{each['label']} {each['score']:.2f}", colour, size, image.size)
    return drawn


def _masks(image: Any, found: list[dict[str, Any]]) -> Any:
    from PIL import ImageColor, ImageDraw

    pixels, colours = np.asarray(image).astype(np.float32), _colours(found)
    places = []
    for each in found:
        mask = np.asarray(each["mask"]) > 0
        if mask.any():
            pixels[mask] = (1 - VEIL) * pixels[mask] + VEIL * np.array(ImageColor.getrgb(colours[each["label"]]))
            places.append((each["label"], _middle(mask)))
    drawn = pillow().fromarray(pixels.astype(np.uint8))
    pen, size = ImageDraw.Draw(drawn), max(12, round(min(image.size) / 40))
    for label, place in places:
        _tag(pen, place, label, colours[label], size, image.size)
    return drawn


def _numbered(image: Any, found: list[dict[str, Any]]) -> Any:
    return _masks(image, [{**each, "label": str(number)} for number, each in enumerate(found)])


def _depth(_image: Any, result: dict[str, Any]) -> Any:
    return result["depth"].convert("RGB")


def _ranked(image: Any, found: list[dict[str, Any]]) -> Any:
    from PIL import ImageDraw

    drawn = image.copy()
    pen, colours = ImageDraw.Draw(drawn), _colours(found)
    size = max(12, round(min(image.size) / 40))
    for row, each in enumerate(found):
        _tag(
            pen, (0, row * (size + 6)), f"{each['label']} {each['score']:.2f}", colours[each["label"]], size, image.size
        )
    return drawn


def _colours(found: list[dict[str, Any]]) -> dict[str, str]:
    names = dict.fromkeys(each["label"] for each in found)
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def _tag(pen: Any, place: tuple[int, int], text: str, colour: str, size: int, within: tuple[int, int]) -> None:
    """White words on their colour, moved to where all of them can be read."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    width, height = round(pen.textlength(text, font=font)) + 6, size + 4
    left, top = (
        max(0, min(at, edge - extent)) for at, edge, extent in zip(place, within, (width, height), strict=True)
    )
    pen.rectangle((left, top, left + width, top + height), fill=colour)
    pen.text((left + 3, top + height / 2), text, fill="white", font=font, anchor="lm")


def _middle(mask: Any) -> tuple[int, int]:
    """A place in a mask: the pixel of it that is nearest to its centre."""
    rows, columns = np.nonzero(mask)
    at = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[at]), int(rows[at])


DRAWERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "object-detection": _boxes,
    "zero-shot-object-detection": _boxes,
    "image-segmentation": _masks,
    "mask-generation": _numbered,
    "depth-estimation": _depth,
    "image-classification": _ranked,
    "zero-shot-image-classification": _ranked,
}
