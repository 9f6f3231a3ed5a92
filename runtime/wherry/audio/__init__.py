"""Sounds in, arrays for a model in the end: reading, resampling, spectra. Knows nothing of graphs or tasks."""

from wherry.audio.features import FeatureExtractor, load
from wherry.audio.sound import Sound, open_sound

__all__ = ["FeatureExtractor", "Sound", "load", "open_sound"]
