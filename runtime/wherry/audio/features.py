"""What a model takes of a sound, as its preprocessor_config.json says: the feature extractors of transformers in numpy.

Samples of one channel at the model's rate go in, float32 arrays under the names of the graph's inputs come out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wherry.audio.spectrum import (
    Decibels,
    Fbank,
    InSilence,
    LogMel,
    frames,
    htk_filters,
    kaldi_filters,
    slaney_filters,
)
from wherry.errors import BundleError
from wherry.files import read_json

Array = np.ndarray[Any, Any]


class FeatureExtractor(Protocol):
    """Makes a batch of sounds.

    Attributes:
        rate: samples a second that it takes.
        length: samples that every sound is cut and padded to; None where it goes through whole.
    """

    rate: int
    length: int | None

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        """The graph's inputs for sounds, each float32 (samples,), a row for each."""


class WhisperFeatures:
    """Log-mel spectrograms (mels, frames) of 30 seconds."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate, self.hop = _whole(settings, "sampling_rate", 16000), _whole(settings, "hop_length", 160)
        size, mels = _whole(settings, "n_fft", 400), _whole(settings, "feature_size", 80)
        self.length = _whole(settings, "chunk_length", 30) * self.rate
        self.frames = self.length // self.hop
        self.log_mel = LogMel(size, self.hop, slaney_filters(1 + size // 2, mels, self.rate, 0.0, 8000.0))
        self.normalized = bool(settings.get("do_normalize", False))

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        return {"input_features": np.stack([self._one(samples) for samples in sounds])}

    def _one(self, samples: Array) -> Array:
        samples = samples[: self.length]
        found = self.log_mel(np.pad(samples, (0, self.length - len(samples))))
        return scaled(found, found.max())

    def loudest(self, blocks: Iterable[Array]) -> np.float32:
        """The greatest log-mel value of a long sound, which scales all of it."""
        return np.float32(max(part.max() for part in self.log_mel.stream(blocks)))

    def windows(self, blocks: Iterable[Array], loudest: np.float32) -> "Windows":
        """A long sound's features, window by window."""
        return Windows(self.log_mel.stream(blocks), self.frames, loudest)


class WholeFeatures:
    """Log-mel spectrograms (mels, frames) of whole sounds on Whisper's scale, filled up to windows: Qwen3-ASR's."""

    length = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate, self.hop = _whole(settings, "sampling_rate", 16000), _whole(settings, "hop_length", 160)
        size, mels = _whole(settings, "n_fft", 400), _whole(settings, "feature_size", 128)
        self.shortest, self.window = _whole(settings, "min_length", 8000), 2 * _whole(settings, "n_window", 50)
        self.log_mel = LogMel(size, self.hop, slaney_filters(1 + size // 2, mels, self.rate, 0.0, 8000.0))

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        found = [self._one(samples) for samples in sounds]
        counts = np.array([each.shape[1] for each in found])
        width = -(-counts.max() // self.window) * self.window
        mask = (np.arange(width) < counts[:, None]).astype(np.int64)
        features = np.stack([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in found])
        return {"input_features": features, "input_features_mask": mask}

    def _one(self, samples: Array) -> Array:
        found = self.log_mel(np.pad(samples, (0, max(0, self.shortest - len(samples)))))
        return scaled(found, found.max())


def scaled(frames: Array, loudest: np.float32) -> Array:
    """(mels, frames) of Whisper's scale, from (frames, mels) of log-mel."""
    return np.ascontiguousarray((np.maximum(frames, loudest - np.float32(8)) + np.float32(4)) / np.float32(4)).T


class Windows:
    """Windows of a spectrogram that is made as it is asked for; each begins where the one before did, or behind it."""

    def __init__(self, parts: Iterator[Array], width: int, loudest: np.float32) -> None:
        self.parts, self.width, self.loudest = parts, width, loudest
        self.held: Array | None = None
        self.first = 0

    def at(self, place: int) -> Array:
        """(mels, frames) float32 from the frame `place` on: as many frames as there are, none behind the end."""
        while self.held is None or place + self.width > self.first + len(self.held):
            part = next(self.parts, None)
            if part is None:
                break
            if self.held is not None:
                past = min(place - self.first, len(self.held))
                part, self.first = np.concatenate([self.held[past:], part]), self.first + past
            self.held = part
        assert self.held is not None
        return scaled(self.held[place - self.first :][: self.width], self.loudest)


class WaveFeatures:
    """The samples themselves, of zero mean and unit variance where the model wants that: wav2vec2 and its kin."""

    length = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate = _whole(settings, "sampling_rate", 16000)
        self.normalized = bool(settings.get("do_normalize", True))
        self.padding = np.float32(settings.get("padding_value", 0.0))

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        longest = max(map(len, sounds))
        values = np.full((len(sounds), longest), self.padding, np.float32)
        mask = np.zeros((len(sounds), longest), np.int64)
        for row, samples in enumerate(sounds):
            if self.normalized:
                samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
            values[row, : len(samples)], mask[row, : len(samples)] = samples, 1
        return {"input_values": values, "attention_mask": mask}


class SpectrogramFeatures:
    """Filter banks (frames, mels) of one length: the audio spectrogram transformer's."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate, mels = _whole(settings, "sampling_rate", 16000), _whole(settings, "num_mel_bins", 128)
        self.frames = _whole(settings, "max_length", 1024)
        self.normalized = bool(settings.get("do_normalize", True))
        self.mean, self.deviation = settings.get("mean", -4.2677393), settings.get("std", 4.5689974)
        self.fbank = Fbank(kaldi_filters(257, mels, self.rate, 20, self.rate // 2))
        self.length = self.fbank.size + self.fbank.hop * (self.frames - 1)

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        return {"input_values": np.stack([self._one(samples) for samples in sounds])}

    def _one(self, samples: Array) -> Array:
        found = self.fbank(samples[: self.length])
        found = np.pad(found, ((0, self.frames - len(found)), (0, 0)))
        return (found - np.float32(self.mean)) / np.float32(self.deviation * 2) if self.normalized else found


class ParakeetFeatures:
    """Log-mel spectrograms (frames, mels) of whole sounds, each band of zero mean and unit variance: Parakeet's.

    transformers has one frame more, which no model looks at.
    """

    length = None

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate, self.hop = _whole(settings, "sampling_rate", 16000), _whole(settings, "hop_length", 160)
        size, mels = _whole(settings, "n_fft", 512), _whole(settings, "feature_size", 80)
        filters = slaney_filters(1 + size // 2, mels, self.rate, 0.0, self.rate / 2)
        width = _whole(settings, "win_length", 400)
        if width > size:
            raise ValueError(f"win_length is {width}, more than the {size} of n_fft")
        self.log_mel = InSilence(filters, size, width, self.hop, float(settings.get("preemphasis", 0.97) or 0.0))

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        sounds = [np.pad(samples, (0, max(0, 2 * self.hop - len(samples)))) for samples in sounds]
        counts = np.array([len(samples) // self.hop for samples in sounds])
        mask = np.arange(counts.max()) < counts[:, None]
        features = np.zeros((*mask.shape, self.log_mel.filters.shape[1]), np.float32)
        for row, (samples, count) in enumerate(zip(sounds, counts.tolist(), strict=True)):
            found = self.log_mel(samples)[:count]
            features[row, :count] = (found - found.mean(0)) / (found.std(0, ddof=1) + np.float32(1e-5))
        return {"input_features": features, "attention_mask": mask.astype(np.int64)}


class GemmaFeatures:
    """Log-mel spectrograms (frames, mels) of whole sounds, whose first frame is half in silence: Gemma 4's."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate, mels = _whole(settings, "sampling_rate", 16000), _whole(settings, "feature_size", 128)
        self.length = 30 * self.rate
        size, self.hop = (
            round(self.rate * float(settings.get(f"{name}_length_ms", default)) / 1000)
            for name, default in (("frame", 20), ("hop", 10))
        )
        for name in ("preemphasis", "dither"):
            if settings.get(name):
                raise ValueError(f"{name} of {settings[name]!r:.80} is not followed: only 0 is")
        self.window = np.hanning(size + 1)[:-1].astype(np.float32)
        self.bins = 2 ** ((size - 1).bit_length() + bool(settings.get("fft_overdrive")))
        lowest, highest = (float(settings.get(f"{name}_frequency", at)) for name, at in (("min", 0), ("max", 8000)))
        self.filters = htk_filters(1 + self.bins // 2, mels, self.rate, lowest, highest)
        self.floor, self.scale = (
            float(settings.get(name, default)) for name, default in (("mel_floor", 1e-3), ("input_scale_factor", 1.0))
        )
        self.mean, self.deviation = (
            np.asarray(settings.get(f"per_bin_{name}") or default, np.float64)
            for name, default in (("mean", 0.0), ("stddev", 1.0))
        )

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        size = len(self.window)
        counts = np.array([max(0, -(-(len(samples) - size + self.hop) // self.hop)) for samples in sounds])
        longest = -(-max(map(len, sounds)) // 128) * 128
        found = [self._one(np.pad(samples, (size // 2, longest - len(samples)))) for samples in sounds]
        mask = np.arange(len(found[0])) < counts[:, None]
        return {"input_features": np.stack(found) * mask[..., None], "input_features_mask": mask}

    def _one(self, samples: Array) -> Array:
        windowed = frames(samples[:-1] * np.float32(self.scale), len(self.window), self.hop) * self.window
        mel = np.abs(np.fft.rfft(windowed, self.bins)) @ self.filters
        return np.asarray((np.log(mel + self.floor) - self.mean) / self.deviation, np.float32)


class ClapFeatures:
    """CLAP's spectrograms (1 or 4, frames, mels) of one length, which shorter sounds are repeated to fill.

    A longer sound is cut to its beginning. Where the model fuses crops, all of it counts: four spectrograms are the
    whole, shrunken, and a crop from the middle of each third; of a shorter sound, four times the same. transformers
    draws where crops begin by chance.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.rate, self.hop = _whole(settings, "sampling_rate", 48000), _whole(settings, "hop_length", 480)
        size, mels = _whole(settings, "fft_window_size", 1024), _whole(settings, "feature_size", 64)
        lowest, highest = (float(settings.get(f"frequency_{name}", at)) for name, at in (("min", 0), ("max", 14000)))
        self.count = _whole(settings, "max_length_s", 10) * self.rate
        self.fused = _one_of(settings, "truncation", ("fusion", "rand_trunc")) == "fusion"
        self.padding = _one_of(settings, "padding", ("repeatpad", "repeat", "pad"))
        self.length = None if self.fused else self.count
        filters = (htk_filters if self.fused else slaney_filters)(1 + size // 2, mels, self.rate, lowest, highest)
        self.decibels = Decibels(size, self.hop, filters)

    def __call__(self, sounds: Sequence[Array]) -> dict[str, Array]:
        features = np.stack([self._one(samples) for samples in sounds])
        return {"input_features": features, "is_longer": np.ones((len(sounds), 1), np.bool_)}

    def _one(self, samples: Array) -> Array:
        if self.fused and len(samples) > self.count:
            found, count = self.decibels(samples), 1 + self.count // self.hop
            places = np.array_split(np.arange(len(found) - count + 1), 3)
            first = [int(part[len(part) // 2]) if len(part) else 0 for part in places]
            return np.stack([_shrunken(found, count), *(found[place : place + count] for place in first)])
        samples = samples[: self.count]
        if self.padding != "pad":
            samples = np.tile(samples, self.count // len(samples) + (self.padding == "repeat"))[: self.count]
        found = self.decibels(np.pad(samples, (0, self.count - len(samples))))
        return np.stack([found] * 4) if self.fused else found[None]


def _shrunken(frames: Array, count: int) -> Array:
    """As many frames as wanted, each between two, at places that are rounded as torch rounds them."""
    scale = np.float64(np.float32(len(frames)) / np.float32(count))
    places = (scale * (np.arange(count) + 0.5) - 0.5).astype(np.float32)
    before = places.astype(np.int64)
    share = (places - before.astype(np.float32))[:, None]
    return np.asarray((1 - share) * frames[before] + share * frames[np.minimum(before + 1, len(frames) - 1)])


Known = (
    WhisperFeatures
    | WholeFeatures
    | WaveFeatures
    | SpectrogramFeatures
    | ParakeetFeatures
    | GemmaFeatures
    | ClapFeatures
)
EXTRACTORS: Mapping[str, type[Known]] = {
    "WhisperFeatureExtractor": WhisperFeatures,
    "Qwen3ASRFeatureExtractor": WholeFeatures,
    "Wav2Vec2FeatureExtractor": WaveFeatures,
    "ASTFeatureExtractor": SpectrogramFeatures,
    "ParakeetFeatureExtractor": ParakeetFeatures,
    "Gemma4AudioFeatureExtractor": GemmaFeatures,
    "ClapFeatureExtractor": ClapFeatures,
}


def load(folder: Path) -> Known:
    """The feature extractor of a model folder.

    Raises:
        BundleError: there is no preprocessor_config.json, or one that tells of no feature extractor known here.
    """
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.exists() else {}
    whole = folder / "processor_config.json"
    if "feature_extractor_type" not in settings and whole.exists():
        path, settings = whole, read_json(whole).get("feature_extractor") or settings
    name = str(settings.get("feature_extractor_type"))
    if not settings:
        raise BundleError(f"{folder} has no preprocessor_config.json, which says what the model takes of a sound")
    if name not in EXTRACTORS:
        raise BundleError(f"{path}: the feature extractor is {name}, and wherry knows {', '.join(EXTRACTORS)}")
    try:
        return EXTRACTORS[name](settings)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from error


def _whole(settings: Mapping[str, Any], name: str, default: int) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1 on, not {value!r:.80}")
    return value


def _one_of(settings: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    value = settings.get(name, known[0])
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r:.80}")
    return str(value)
