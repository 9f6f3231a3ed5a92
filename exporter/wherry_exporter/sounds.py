"""The sounds of a model that hears them among its words: random ones, and the features that the model makes of them.

What the model takes is read off the signature of its `get_audio_features`, where it has one. Knows nothing of graphs.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wherry_exporter.images import joined
from wherry_exporter.inputs import BATCH

FEATURES, MASK, OTHER_MASK = "input_features", "input_features_mask", "feature_attention_mask"
MASKED = "attention_mask"
"""Tells which features are of sounds, where a model gives others too."""
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
    takes = inspect.signature(getattr(inner, "get_audio_features", _heard_by_tower)).parameters
    return {FEATURES: frames} | {mask: (BATCH, FRAMES) for mask in (MASK, OTHER_MASK) if mask in takes}


def _bins(config: Any) -> tuple[int, bool]:
    """The size of a frame of the spectrogram, and whether the frames stand behind it."""
    if not hasattr(config, "audio_config"):
        return int(config.encoder_config.input_dim), False
    if channels := _channels(config):  # as many as there are bins
        return channels, False
    stacked = getattr(config.audio_config, "num_stacked_frames", None)
    return int(config.audio_config.num_mel_bins) * (stacked or 1), stacked is None


def _channels(config: Any) -> int | None:
    """Of the first convolution over a sound, as Gemma 4 tells it, whose masks are of truth values."""
    found = getattr(getattr(config, "audio_config", None), "subsampling_conv_channels", None)
    return int(found[0]) if found else None


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
    for mask in (MASK, OTHER_MASK):
        if mask in axes:
            heard = torch.arange(frames)[None] < frames - row % 2 * frames // 4
            values[mask] = heard if _channels(model.config) else heard.to(torch.int64)
    return values


def graph_name(model: Any, name: str) -> str:
    """What a graph calls what the model takes under a name."""
    if name == FEATURES:
        return VALUES.get(model.config.model_type, name)
    return MASK if name == OTHER_MASK else name


def takes_other_lengths(model: Any) -> bool:
    """Whether sounds may be longer or shorter."""
    short, long = (sound_inputs(model, rows=1, seed=0, scale=scale)[0][FEATURES] for scale in (2, 3))
    return short.shape != long.shape


def features_heard(model: Any, sounds: Mapping[str, Tensor]) -> Tensor:
    """One vector for each token of a sound, those of all sounds in order: (tokens, size)."""
    if not hasattr(model, "get_audio_features"):
        return _heard_by_tower(model.model, **sounds)
    output = model.get_audio_features(**sounds)
    features: Tensor = output.pooler_output
    return features[output.attention_mask] if MASKED in output else features.flatten(0, -2)


def _heard_by_tower(model: Any, input_features: Tensor, feature_attention_mask: Tensor) -> Tensor:
    """As `features_heard`, of a model that makes them amid its forward, such as Qwen2-Audio."""
    lengths, counts = model.audio_tower._get_feat_extract_output_lengths(feature_attention_mask.sum(1))
    frames = torch.arange((input_features.shape[2] - 1) // 2 + 1)
    heard = (frames < lengths[:, None])[:, None, None, :].expand(-1, 1, len(frames), -1)
    states = model.audio_tower(input_features, attention_mask=heard).last_hidden_state
    features: Tensor = model.multi_modal_projector(states)
    return features[torch.arange(features.shape[1]) < counts[:, None]]
