"""What turns rows into a graph's inputs: wherry's tokenizer for text, the checkpoint's own processors for the rest."""

from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from wherry_exporter.data import Row
from wherry_exporter.errors import UsageError
from wherry_exporter.quiet import quiet
from wherry_tokenization import Tokenizer

Array = np.ndarray[Any, Any]
LONGEST = 256
"""Tokens of a text that are looked at."""


class Front:
    """Makes inputs of rows.

    Attributes:
        names: the inputs that it fills: of text, images and sounds, those that the graph has.
        limit: the most tokens that the model takes.
    """

    def __init__(self, folder: Path, names: Sequence[str], limit: int) -> None:
        self.folder, self.names, self.limit = folder, names, limit

    def feed(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Inputs of one batch.

        Raises:
            UsageError: a row lacks what the model takes, or a file of it cannot be read.
        """
        made: dict[str, Array] = {}
        if "input_ids" in self.names:
            made |= self._text(rows)
        if {"pixel_values", "flattened_patches"} & set(self.names):
            made |= self._images(rows)
        if {"input_features", "input_values"} & set(self.names):
            made |= self._sounds(rows)
        lacking = [name for name in self.names if name not in made]
        if lacking:
            raise UsageError(f"rows cannot be turned into {', '.join(lacking)}, which this model takes")
        return {name: made[name] for name in self.names}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.folder)

    def _text(self, rows: Sequence[Row]) -> dict[str, Array]:
        texts = [_given(row, "text") for row in rows]
        pairs = [row.text_pair for row in rows]
        if any(pair is None for pair in pairs) and any(pair is not None for pair in pairs):
            odd = next(row for row in rows if row.text_pair is None)
            raise UsageError(f"{odd.place}: no text_pair, which other rows have")
        limit = min(self.limit, self.tokenizer.model_max_length or self.limit, LONGEST)
        given = None if pairs[0] is None else [str(pair) for pair in pairs]
        encoded = self.tokenizer.encode(texts, given, max_length=limit)
        return {
            "input_ids": encoded.input_ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.token_type_ids,
        }

    def _images(self, rows: Sequence[Row]) -> dict[str, Array]:
        values = self._processor("AutoImageProcessor")([open_image(row) for row in rows], return_tensors="np")
        return {
            name: np.asarray(values[name], np.float32 if name in ("pixel_values", "flattened_patches") else np.int64)
            for name in self.names
            if name in values
        }

    def _sounds(self, rows: Sequence[Row]) -> dict[str, Array]:
        processor = self._processor("AutoFeatureExtractor")
        rate = processor.sampling_rate
        sounds = [open_samples(row, rate) for row in rows]
        padding = signature(processor).parameters.get("padding")
        pads = padding is not None and padding.default is False  # others have a length of their own, such as Whisper's
        values = processor(sounds, sampling_rate=rate, return_tensors="np", **({"padding": True} if pads else {}))
        kinds = {"input_features": np.float32, "input_values": np.float32, "is_longer": np.bool_}
        found: dict[str, Array] = {
            name: np.asarray(value, kinds[name]) for name, value in values.items() if name in kinds
        }
        mask, features = values.get("attention_mask"), found.get("input_features")
        if mask is not None and features is not None and mask.shape == features.shape[:2]:
            lengths = mask.sum(1)
            if not lengths.all():
                row = rows[int(lengths.argmin())]
                raise UsageError(f"{row.place}: {row.audio} is too short for a frame of the model's")
            found["input_features"] = features[:, : lengths.max()]  # graphs take no mask of a sound's frames
        return found

    def _processor(self, kind: str, **more: Any) -> Any:
        import transformers

        try:
            with quiet():
                return getattr(transformers, kind).from_pretrained(self.folder, **more)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UsageError(
                f"the checkpoint's preprocessor cannot be loaded: {' '.join(str(error).split())}"
            ) from error


def open_samples(row: Row, rate: int) -> Array:
    """A row's sound as float32 (samples,) of one channel at a rate.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        import soundfile
        import soxr
    except ImportError as error:
        raise UsageError("reading sounds needs soundfile and soxr: pip install 'wherry[audio]'") from error
    path = _given(row, "audio")
    try:
        samples, own = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UsageError(f"{row.place}: {path} is no sound that can be read: {error}") from error
    resampled: Array = soxr.resample(samples.mean(1), own, rate)
    return resampled


def open_image(row: Row) -> Any:
    """A row's image as Pillow has it, in RGB.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UsageError("reading images needs Pillow: pip install 'wherry[vision]'") from error
    path = _given(row, "image")
    try:
        return Image.open(path, formats=["PNG", "JPEG", "WEBP"]).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{row.place}: {path} is no image that can be read: {error}") from error


def _given(row: Row, name: str) -> Any:
    value = getattr(row, name)
    if value is None:
        raise UsageError(f"{row.place}: no {name}, which this model takes")
    return value


def batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Rows in their order, `size` at a time."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]
