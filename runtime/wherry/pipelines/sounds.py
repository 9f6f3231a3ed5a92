"""What pipelines of sounds share: one sound, a list of them, or an iterator whose results come as they are ready."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wherry.audio import Sound, open_sound
from wherry.errors import InputError

Result = TypeVar("Result")


def over(inputs: Any, rate: int, batch_size: int, process: Callable[[list[Sound]], Sequence[Any]]) -> Any:
    """The result of one sound, a list of results for a list, or an iterator of results for another iterable.

    Args:
        inputs: see `open_sound` for what a sound may be.
        rate: samples a second that `process` takes.
        process: gives the results of up to `batch_size` sounds.

    Raises:
        InputError: something else.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number from 1 on, not {batch_size!r:.80}")
    if isinstance(inputs, str | Path | bytes | bytearray | memoryview | np.ndarray | Mapping):
        return process([open_sound(inputs, rate)])[0]
    if not isinstance(inputs, Iterable):
        raise InputError(f"a sound must be a file, bytes, an array or a dict, not a {type(inputs).__name__}")
    sounds = (open_sound(item, rate, f"sound {number}") for number, item in enumerate(inputs))
    results = (result for batch in batches(sounds, batch_size) for result in process(batch))
    return list(results) if isinstance(inputs, list | tuple) else results


def batches(items: Iterable[Result], size: int) -> Iterator[list[Result]]:
    """Items in their order, up to `size` at a time."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def parts(chunk_length_s: float | None, stride_length_s: Any, rate: int, align: int = 1) -> tuple[int, int, int] | None:
    """Samples of a part, and of what it shares with those before and behind it; None where a sound goes through whole.

    Raises:
        InputError: lengths that are no numbers, or parts that share everything.
    """
    if not chunk_length_s:
        return None
    shared = chunk_length_s / 6 if stride_length_s is None and _is_number(chunk_length_s) else stride_length_s
    pair = list(shared) if isinstance(shared, list | tuple) else [shared, shared]
    seconds = [chunk_length_s, *pair]
    if len(pair) != 2 or not all(_is_number(each) and 0 <= each < 86400 for each in seconds):
        raise InputError(
            "chunk_length_s must be seconds, and stride_length_s seconds or a pair of them, not "
            f"{chunk_length_s!r:.40} and {stride_length_s!r:.40}"
        )
    length, left, right = (round(each * rate / align) * align for each in seconds)
    if length <= left + right:
        raise InputError(f"chunk_length_s must be longer than its two strides together ({sum(pair):g} seconds)")
    return length, left, right


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
