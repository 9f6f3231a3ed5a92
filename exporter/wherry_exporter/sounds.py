"""The sounds of a model that hears them among its words: random ones, and the features that the model makes of them.

What the model takes is read off the signature of its `get_audio_features`. Knows nothing of graphs.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wherry_exporter.images import joined
from wherry_exporter.inputs import BATCH

FEATURES, MASK = "input_features", "input_features_mask"
FRAMES = "num_frames"
VALUES = {"voxtral": "audio_values"}
"""What transformers.js calls `input_features` otherwise."""
BLOCK = 32
"""Frames that every stride divides, where the configuration names no window."""


def sound_axes(model: Any) -> dict[str, tuple[int | str, ...]]:
    """The names of what a model makes a sound's features of, and of their axes."""
    size, bins_first = _bins(model.config)
    frames = (BATCH, size, FRAMES) if bins_first else (BATCH, FRAMES, size)
    inner = getattr(model, "model", model)
    takes = inspect.signature(inner.get_audio_features).parameters
    return {FEATURES: frames} | ({MASK: (BATCH, FRAMES)} if MASK in takes else {})


def _bins(config: Any) -> tuple[int, bool]:
    """The size of a frame of the spectrogram, and whether the frames stand behind it."""
    if not hasattr(config, "audio_config"):
        return int(config.encoder_config.input_dim), False
    stacked = getattr(config.audio_config, "num_stacked_frames", None)
    return int(config.audio_config.num_mel_bins) * (stacked or 1), stacked is None


def sound_inputs(model: Any, *, rows: int, seed: int, scale: int = 1) -> list[dict[str, Tensor]]:
    """What a model takes for the sounds of that many rows of text, one a row.

    Sounds are as long as the model wants them, else `scale` times a few of its windows; where it takes a mask the
    end of every second one is padding.
    """
    audio = getattr(model.config, "audio_config", None)
    for frames in (scale * 2 * getattr(audio, "n_window", BLOCK), 2 * getattr(audio, "max_source_positions", 0)):
        found = [_sound(model, row, frames, seed) for row in range(rows)]
        try:
            with torch.no_grad():
                features_heard(model, joined(found))
            break
        except (ValueError, RuntimeError, IndexError):
            continue
    return found


def _sound(model: Any, row: int, frames: int, seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1000 * seed + row)
    axes = sound_axes(model)
    sizes = {BATCH: 1, FRAMES: frames}
    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in axes[FEATURES]]
    values = {FEATURES: torch.randn(*shape, generator=random)}
    if MASK in axes:
        values[MASK] = (torch.arange(frames)[None] < frames - row % 2 * frames // 4).to(torch.int64)
    return values


def graph_name(model: Any, name: str) -> str:
    """What a graph calls what the model takes under a name."""
    return VALUES.get(model.config.model_type, name) if name == FEATURES else name


def takes_other_lengths(model: Any) -> bool:
    """Whether sounds may be longer or shorter."""
    short, long = (sound_inputs(model, rows=1, seed=0, scale=scale)[0][FEATURES] for scale in (2, 3))
    return short.shape != long.shape


def features_heard(model: Any, sounds: Mapping[str, Tensor]) -> Tensor:
    """One vector for each token of a sound, those of all sounds in order: (tokens, size)."""
    features: Tensor = model.get_audio_features(**sounds).pooler_output
    return features.flatten(0, -2)
