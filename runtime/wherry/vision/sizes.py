"""What size an image is resized to, by the rules of transformers' image processors. Numbers in, numbers out.

A rule takes and gives (height, width). It rounds as transformers does, to the pixel.
"""

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, sqrt

Size = tuple[int, int]
Rule = Callable[[int, int], Size]


def rule_of(size: Mapping[str, int]) -> Rule:
    """The rule that a `size` says by itself.

    Raises:
        ValueError: no rule has these names.
    """
    names = set(size)
    if names == {"height", "width"}:
        return exact(size["height"], size["width"])
    if names == {"shortest_edge"}:
        return shortest(size["shortest_edge"])
    if names == {"shortest_edge", "longest_edge"}:
        return within(size["shortest_edge"], size["longest_edge"])
    if names == {"longest_edge"}:
        return longest(size["longest_edge"])
    if names == {"max_height", "max_width"}:
        return inside(size["max_height"], size["max_width"])
    raise ValueError(f"size has {', '.join(map(repr, size)) or 'no entries'}")


def exact(height: int, width: int) -> Rule:
    """That size, whatever it was."""
    return lambda _height, _width: (height, width)


def shortest(edge: int) -> Rule:
    """The shorter edge becomes `edge`, and the other keeps the ratio."""

    def rule(height: int, width: int) -> Size:
        if width <= height:
            return int(edge * height / width), edge
        return edge, int(edge * width / height)

    return rule


def within(edge: int, limit: int, multiple: int = 1) -> Rule:
    """The shorter edge becomes `edge`, or less where the longer one would pass `limit`; rounded down to a multiple."""

    def rule(height: int, width: int) -> Size:
        short, exactly = edge, float(edge)
        if max(height, width) / min(height, width) * edge > limit:
            exactly = limit * min(height, width) / max(height, width)
            short = round(exactly)
        if min(height, width) != short:
            if width < height:
                height, width = int(exactly * height / width), short
            else:
                height, width = short, int(exactly * width / height)
        return height - height % multiple, width - width % multiple

    return rule


def longer(edge: int) -> Rule:
    """The longer edge becomes `edge`, and the other keeps the ratio, to the nearest pixel."""

    def rule(height: int, width: int) -> Size:
        scale = edge / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)

    return rule


def fitted(edge: int, least: int) -> Rule:
    """The longer edge becomes `edge`, and the other keeps the ratio, to the nearest pixel and `least` at least."""

    def rule(height: int, width: int) -> Size:
        scale = edge / max(height, width)
        return max(round(height * scale), least), max(round(width * scale), least)

    return rule


def inside(height_limit: int, width_limit: int) -> Rule:
    """As large as fits, keeping the ratio."""

    def rule(height: int, width: int) -> Size:
        scale = min(height_limit / height, width_limit / width)
        return int(height * scale), int(width * scale)

    return rule


def grown(edge: int, rule: Rule) -> Rule:
    """What a rule gives an image whose edges have that length at least, its own or as much more as it takes."""

    def grow(height: int, width: int) -> Size:
        if height < edge:
            height, width = edge, round(width * edge / height)
        if width < edge:
            height, width = round(height * edge / width), edge
        return rule(height, width)

    return grow


def scaled_up(edge: int, rule: Rule) -> Rule:
    """What a rule gives an image whose edges have that length at least, enlarged as a whole where one has not."""

    def scale_up(height: int, width: int) -> Size:
        if min(height, width) < edge:
            scale = max(edge / height, edge / width)
            height, width = int(height * scale), int(width * scale)
        return rule(height, width)

    return scale_up


def rounded_up(rule: Rule, multiple: int) -> Rule:
    """What a rule gives, each edge up to a multiple."""

    def raised(height: int, width: int) -> Size:
        height, width = rule(height, width)
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    return raised


def rounded_down(multiple: int) -> Rule:
    """The size that it has, each edge down to a multiple."""
    return lambda height, width: (height // multiple * multiple, width // multiple * multiple)


def nearest(target: Size, multiple: int, *, keep_ratio: bool) -> Rule:
    """Near `target`, each edge to the nearest multiple; with `keep_ratio` scaled as the edge that changes less."""

    def rule(height: int, width: int) -> Size:
        tall, wide = target[0] / height, target[1] / width
        if keep_ratio:
            tall = wide = wide if abs(1 - wide) < abs(1 - tall) else tall
        return _multiple(tall * height, multiple), _multiple(wide * width, multiple)

    return rule


def _multiple(value: float, multiple: int) -> int:
    return max(round(value / multiple) * multiple, 0)


def capped(edge: int, multiple: int) -> Rule:
    """ViLT's: the shorter edge becomes `edge`, the longer at most 1333/800 of it, both down to a multiple."""
    limit = int(1333 / 800 * edge)

    def rule(height: int, width: int) -> Size:
        scale = edge / min(height, width)
        tall, wide = (edge, scale * width) if height < width else (scale * height, edge)
        if max(tall, wide) > limit:
            scale = limit / max(tall, wide)
            tall, wide = tall * scale, wide * scale
        return int(tall + 0.5) // multiple * multiple, int(wide + 0.5) // multiple * multiple

    return rule


def enlarged(size: Mapping[str, int], share: float) -> Rule:
    """PoolFormer's: as if the size were larger, so that a centre crop of it takes that share."""
    if set(size) == {"shortest_edge"}:
        return shortest(int(size["shortest_edge"] / share))
    if size["height"] == size["width"]:
        return shortest(int(size["height"] / share))
    return exact(int(size["height"] / share), int(size["width"] / share))


def longest(edge: int) -> Rule:
    """Idefics's: the longer edge becomes `edge`, the other keeps the ratio, made even; none passes 4096."""

    def rule(height: int, width: int) -> Size:
        ratio = width / height
        if width >= height:
            width, height = edge, int(edge / ratio)
            height += height % 2
        else:
            width, height = int(edge * ratio), edge
            width += width % 2
        height, width = max(height, 1), max(width, 1)
        ratio = width / height
        if width >= height and width > 4096:
            width, height = 4096, int(4096 / ratio)
        elif height > 4096:
            width, height = int(4096 * ratio), 4096
        return max(height, 1), max(width, 1)

    return rule


def tiled(edge: int) -> Rule:
    """Idefics's: both edges up to a multiple of `edge`, the longer one first."""

    def rule(height: int, width: int) -> Size:
        ratio = width / height
        if width >= height:
            width = -(-width // edge) * edge
            return -(-int(width / ratio) // edge) * edge, width
        height = -(-height // edge) * edge
        return height, -(-int(height * ratio) // edge) * edge

    return rule


def patched(limits: Sequence[int], edges: Sequence[int]) -> Rule:
    """Pixtral's: reduced to fit in the limits where it does not, and then each edge up to whole patches."""

    def rule(height: int, width: int) -> Size:
        ratio = max(height / limits[0], width / limits[1])
        if ratio > 1:
            height, width = floor(height / ratio), floor(width / ratio)
        return -(-height // edges[0]) * edges[0], -(-width // edges[1]) * edges[1]

    return rule


def filling(most: int, multiple: int) -> Rule:
    """Gemma 4's: each edge down to a multiple, as large as that many pixels allow; a slender image's, one at least."""

    def rule(height: int, width: int) -> Size:
        scale = sqrt(most / (height * width))
        tall, wide = (floor(scale * edge / multiple) * multiple for edge in (height, width))
        limit = most // multiple**2 * multiple
        if not tall:
            return multiple, min(width // height * multiple, limit)
        if not wide:
            return min(height // width * multiple, limit), multiple
        return tall, wide

    return rule


def between(least: int, most: int, multiple: int) -> Rule:
    """Qwen's: each edge to the nearest multiple, or such that there are `least` to `most` pixels."""

    def rule(height: int, width: int) -> Size:
        tall, wide = round(height / multiple) * multiple, round(width / multiple) * multiple
        if tall * wide > most:
            scale = sqrt(height * width / most)
            tall, wide = (max(multiple, floor(edge / scale / multiple) * multiple) for edge in (height, width))
        elif tall * wide < least:
            scale = sqrt(least / (height * width))
            tall, wide = (ceil(edge * scale / multiple) * multiple for edge in (height, width))
        return tall, wide

    return rule
