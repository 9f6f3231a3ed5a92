"""A sound of any kind as float32 samples of one channel at one rate, block by block, so that length costs no memory.

Files are read by libsndfile and resampled by soxr (extra `audio`). Knows nothing of models.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import InputError

Array = np.ndarray[Any, Any]

BLOCK = 2**20
"""Samples, of all channels together, that are read from a file at once."""

RATES = (1000, 768_000)
"""Samples a second that a sound may have."""


@dataclass(frozen=True)
class Sound:
    """A sound that can be read as often as wanted.

    Attributes:
        name: what it is called in messages.
        rate: samples a second.
        blocks: begins to read it: float32 (samples,) arrays of one channel.
    """

    name: str
    rate: int
    blocks: Callable[[], Iterator[Array]]

    def beginning(self, count: int) -> Array:
        """The first `count` samples, or as many as there are.

        Raises:
            InputError: it has none, or some that are no numbers; it cannot be read, or is cut short.
        """
        parts, have = [], 0
        for block in self.blocks():
            parts.append(block)
            have += len(block)
            if have >= count:
                break
        if not have:
            raise InputError(f"{self.name} holds no samples")
        return parts[0][:count] if len(parts) == 1 else np.concatenate(parts)[:count]

    def samples(self, seconds: float, hint: str = "") -> Array:
        """All of it, for models that take a sound whole.

        Args:
            seconds: the longest that is taken.
            hint: what to do about a longer one.

        Raises:
            InputError: it is longer, or cannot be read.
        """
        limit = int(seconds * self.rate)
        found = self.beginning(limit + 1)
        if len(found) > limit:
            raise InputError(f"{self.name} is longer than the {seconds:g} seconds that are taken at once{hint}")
        return found

    def windows(self, length: int, left: int, right: int) -> Iterator[tuple[Array, int, int]]:
        """Overlapping parts: (samples, how many at its beginning and at its end other parts hold too).

        Args:
            length: samples of a part; the last may have fewer.
            left, right: samples that a part shares with the one before and the one behind.
        """
        step, first = length - left - right, True
        held = np.empty(0, np.float32)
        for block in self.blocks():
            held = np.concatenate([held, block])
            while len(held) > length:  # what follows is there already, so this is not the last
                yield held[:length], 0 if first else left, right
                held, first = held[step:], False
        if len(held) > (0 if first else left):
            yield held, 0 if first else left, 0
        elif first:
            raise InputError(f"{self.name} holds no samples")


def open_sound(item: Any, rate: int, name: str = "the sound") -> Sound:
    """A sound at a rate from whatever `transformers.pipeline` takes for one.

    Args:
        item: a file's path; a file's bytes; a float array (samples,) or (channels, samples) with one or two channels,
            at `rate`; or a mapping with such an array under `array` or `raw`, and its `sampling_rate`.
        rate: samples a second that are wanted.
        name: what to call it in messages, where it is no file.

    Raises:
        InputError: it is none of these, or no sound.
    """
    if isinstance(item, str | Path):
        path = Path(item)
        try:
            found = path.is_file()
        except OSError:  # a name that is too long
            found = False
        if not found:
            raise InputError(f"no such sound file: {str(item)!r:.80}")
        return Sound(str(item), rate, partial(_of_file, str(item), path, rate))
    if isinstance(item, bytes | bytearray | memoryview):
        return Sound(name, rate, partial(_of_file, name, bytes(item), rate))
    if isinstance(item, Mapping):
        item, own = _unpacked(item, name)
    else:
        own = rate
    samples = _mono(item, name)
    if own == rate:
        return Sound(name, rate, lambda: iter([samples]))
    return Sound(name, rate, lambda: _resampled(iter([samples]), own, rate))


def _unpacked(item: Mapping[str, Any], name: str) -> tuple[Any, int]:
    found = [item[key] for key in ("raw", "array") if item.get(key) is not None]
    unknown = sorted(set(map(str, item)) - {"raw", "array", "sampling_rate", "path"})
    if len(found) != 1 or "sampling_rate" not in item or unknown:
        has = ", ".join(map(str, item)) or "nothing"
        raise InputError(f"{name} must have 'array' (or 'raw') and 'sampling_rate', it has {has}")
    rate = item["sampling_rate"]
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise InputError(f"the sampling_rate of {name} must be a whole number, not {rate!r:.80}")
    _check_rate(int(rate), name)
    return found[0], int(rate)


def _check_rate(rate: int, name: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"the sampling_rate of {name} must be {RATES[0]} to {RATES[1]}, not {rate}")


def _mono(item: Any, name: str) -> Array:
    if not isinstance(item, np.ndarray):
        raise InputError(
            f"{name} is a {type(item).__name__}: give a file, its bytes, a float array or a dict with 'array' and "
            "'sampling_rate'"
        )
    if item.dtype.kind != "f":
        raise InputError(f"{name} has samples of {item.dtype}: make them float, from -1 to 1")
    if item.ndim == 2 and item.shape[0] <= 2:
        item = item.mean(0) if item.shape[0] else item.reshape(-1)
    if item.ndim != 1:
        raise InputError(
            f"{name} has the shape {item.shape}: it must be (samples,), or (channels, samples) with one or two channels"
        )
    if not item.size:
        raise InputError(f"{name} holds no samples")
    with np.errstate(over="ignore"):
        samples = np.ascontiguousarray(item, np.float32)
    return _finite(samples, name)


def _finite(samples: Array, name: str) -> Array:
    if not np.isfinite(samples).all():
        raise InputError(f"{name} has samples that are no finite numbers")
    return samples


def _of_file(name: str, source: Path | bytes, rate: int) -> Iterator[Array]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the module, or the library that it brings
        raise InputError("reading sounds needs soundfile: pip install 'wherry[audio]'") from error
    try:
        with soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else str(source)) as file:
            _check_rate(file.samplerate, name)
            blocks = _blocks(file, name)
            yield from blocks if file.samplerate == rate else _resampled(blocks, file.samplerate, rate)
    except soundfile.LibsndfileError as error:
        raise InputError(
            f"{name} is no sound that can be read: {error.error_string.removeprefix('Error : ').strip(' .')}"
        ) from error


def _blocks(file: Any, name: str) -> Iterator[Array]:
    told = re.search(r"^ *(?:data|SSND) *: *(\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if told and int(told[2]) < int(told[1]) < 0x7FFFF000:  # greater ones say that the writer did not know
        raise InputError(f"{name} is cut short: {told[1]} bytes of sound are announced, and {told[2]} are there")
    frames, read = max(1, BLOCK // file.channels), 0
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        read += len(block)
        yield _finite(np.ascontiguousarray(block.mean(1) if file.channels > 1 else block[:, 0]), name)
    if read < file.frames < 2**62:
        raise InputError(f"{name} is cut short: {file.frames} samples are announced, and {read} are there")


def _resampled(blocks: Iterator[Array], own: int, rate: int) -> Iterator[Array]:
    try:
        import soxr
    except ImportError as error:
        raise InputError(
            f"bringing {own} samples a second to {rate} needs soxr: pip install 'wherry[audio]'"
        ) from error
    stream = soxr.ResampleStream(own, rate, 1, dtype="float32")
    for block in blocks:
        if len(made := stream.resample_chunk(block)):
            yield made
    if len(made := stream.resample_chunk(np.empty(0, np.float32), last=True)):
        yield made
