"""Spectra of sounds in numpy: frames, mel filters, log-mel. Knows nothing of files or models."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

AT_ONCE = 1024
"""Frames whose spectra are held together: they stay in the processor's cache."""


def slaney_mel(hertz: Any) -> Any:
    """Slaney's mel scale: linear to 1000 Hz, logarithmic above."""
    above = 15 + np.log(np.maximum(hertz, 1000) / 1000) * (27 / np.log(6.4))
    return np.where(hertz < 1000, 3 * hertz / 200, above)


def slaney_hertz(mel: Any) -> Any:
    """The inverse of `slaney_mel`."""
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * (np.log(6.4) / 27)))


def kaldi_mel(hertz: Any) -> Any:
    """Kaldi's mel scale."""
    return 1127 * np.log(1 + hertz / 700)


def _triangles(places: Array, corners: Array) -> Array:
    """(places, filters): each rises from one corner to the next and falls to the one after."""
    gaps = np.diff(corners)
    distance = corners - places[:, None]
    return np.maximum(0, np.minimum(-distance[:, :-2] / gaps[:-1], distance[:, 2:] / gaps[1:]))


def slaney_filters(bins: int, filters: int, rate: int, lowest: float, highest: float) -> Array:
    """(bins, filters) float32, each of the same area."""
    corners = slaney_hertz(np.linspace(slaney_mel(np.float64(lowest)), slaney_mel(np.float64(highest)), filters + 2))
    weights = _triangles(np.linspace(0, rate // 2, bins), corners)
    return np.asarray(weights * (2 / (corners[2:] - corners[:-2])), np.float32)


def htk_filters(bins: int, filters: int, rate: int, lowest: float, highest: float) -> Array:
    """(bins, filters) float32, triangles in hertz, whose corners lie evenly on Kaldi's scale, which is HTK's too."""
    corners = np.linspace(kaldi_mel(np.float64(lowest)), kaldi_mel(np.float64(highest)), filters + 2)
    places = np.linspace(0, rate // 2, bins)
    return np.asarray(_triangles(places, 700 * (np.exp(corners / 1127) - 1)), np.float32)


def kaldi_filters(bins: int, filters: int, rate: int, lowest: float, highest: float) -> Array:
    """(bins, filters) float32, triangles on the mel scale."""
    corners = np.linspace(kaldi_mel(np.float64(lowest)), kaldi_mel(np.float64(highest)), filters + 2)
    places = kaldi_mel(rate / ((bins - 1) * 2) * np.arange(bins))
    return np.asarray(_triangles(places, corners), np.float32)


def frames(samples: Array, size: int, hop: int) -> Array:
    """(frames, size), a view: every whole frame, one each `hop` samples."""
    if len(samples) < size:
        return np.empty((0, size), samples.dtype)
    return np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]


def power(windowed: Array, size: int) -> Array:
    """Squared magnitudes (frames, size // 2 + 1) of windowed frames."""
    spectrum = np.fft.rfft(windowed, size)
    parts = spectrum.view(spectrum.real.dtype).reshape(*spectrum.shape, 2)
    return np.asarray(np.einsum("fbp,fbp->fb", parts, parts), np.float32)


@dataclass(frozen=True, eq=False)
class LogMel:
    """Log-mel frames of a sound that is mirrored at both ends, as Whisper has them, before they are cut and scaled."""

    size: int
    hop: int
    filters: Array

    @cached_property
    def window(self) -> Array:
        """Periodic Hann."""
        return np.hanning(self.size + 1)[:-1].astype(np.float32)

    def stream(self, blocks: Iterable[Array]) -> Iterator[Array]:
        """(frames, mels) float32 parts, `samples // hop` frames in all. A sound must be longer than half a frame."""
        half, begun = self.size // 2, False
        held = np.empty(0, np.float32)
        for block in blocks:
            held = np.concatenate([held, block])
            if not begun and len(held) <= self.size:
                continue
            if not begun:
                held, begun = np.concatenate([held[half:0:-1], held]), True
            whole = max(0, 1 + (len(held) - self.size) // self.hop)
            yield from self._parts(frames(held, self.size, self.hop))
            held = held[whole * self.hop :]
        if not begun:
            held = np.concatenate([held[half:0:-1], held])
        # Behind the last whole frame only less than a frame is held, of which at least half a frame is mirrored.
        yield from self._parts(frames(np.concatenate([held, held[-2 : -half - 2 : -1]]), self.size, self.hop)[:-1])

    def __call__(self, samples: Array) -> Array:
        """All frames of a sound."""
        return np.concatenate(list(self.stream([samples])))

    def _parts(self, every: Array) -> Iterator[Array]:
        for first in range(0, len(every), AT_ONCE):
            mel = power(every[first : first + AT_ONCE] * self.window, self.size) @ self.filters
            yield np.log10(np.maximum(mel, np.float32(1e-10), out=mel), out=mel)


@dataclass(frozen=True, eq=False)
class Decibels:
    """Mel frames in decibels of a sound that is mirrored at both ends, as CLAP has them.

    Nothing lifts quiet bands to the loud ones beside them, so spectra are computed in float64.
    """

    size: int
    hop: int
    filters: Array

    def __call__(self, samples: Array) -> Array:
        """(frames, mels) float32, `1 + samples // hop` frames. A sound must be longer than half a frame."""
        every = frames(np.pad(samples, self.size // 2, mode="reflect"), self.size, self.hop)
        found, window = np.empty((len(every), self.filters.shape[1]), np.float32), np.hanning(self.size + 1)[:-1]
        for first in range(0, len(every), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            found[part] = 10 * np.log10(np.maximum(power(every[part] * window, self.size) @ self.filters, 1e-10))
        return found


@dataclass(frozen=True, eq=False)
class InSilence:
    """Mel frames of a sound with silence before and behind it, as NeMo has them: pre-emphasis, natural logarithm."""

    filters: Array
    size: int
    width: int
    hop: int
    preemphasis: float
    floor: float = 2.0**-24

    def __call__(self, samples: Array) -> Array:
        """(frames, mels) float32, `1 + samples // hop` frames."""
        found = samples.astype(np.float32)
        found[1:] -= np.float32(self.preemphasis) * samples[:-1]
        every = frames(np.pad(found, self.size // 2), self.size, self.hop)
        before = (self.size - self.width) // 2
        window = np.pad(np.hanning(self.width), (before, self.size - self.width - before)).astype(np.float32)
        parts = [every[first : first + AT_ONCE] * window for first in range(0, len(every), AT_ONCE)]
        return np.log(np.concatenate([power(part, self.size) @ self.filters for part in parts]) + self.floor)


@dataclass(frozen=True, eq=False)
class Fbank:
    """Kaldi's filter bank as AST takes it: Hann window, no mean, pre-emphasis, natural logarithm."""

    filters: Array
    size: int = 400
    hop: int = 160
    width: int = 512
    preemphasis: float = 0.97
    floor: float = 1.192092955078125e-07

    def __call__(self, samples: Array) -> Array:
        """(frames, mels) float32."""
        found = frames(samples, self.size, self.hop).astype(np.float64)
        found -= found.mean(1, keepdims=True)
        found[:, 1:] -= self.preemphasis * found[:, :-1]
        found[:, 0] *= 1 - self.preemphasis
        mel = power(found * np.hanning(self.size), self.width) @ self.filters
        return np.asarray(np.log(np.maximum(mel, self.floor)))
