"""Rows as prompts of a model that sees images or hears sounds among its words, made by the checkpoint's own processor.

Knows nothing of graphs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm

from wherry_exporter.data import Row
from wherry_exporter.decoder import embedded
from wherry_exporter.errors import UsageError
from wherry_exporter.front import LONGEST, Front, open_image, open_samples
from wherry_exporter.images import (
    ALSO,
    features_of,
    features_read,
    graph_images,
    image_axes,
    image_parameters,
    takes_tiles,
)
from wherry_exporter.inputs import parameters_of
from wherry_exporter.probes import Array, Feed, position_limit
from wherry_exporter.sounds import features_heard, graph_name, sound_axes
from wherry_exporter.spliced import text_positions, token_positions
from wherry_exporter.tasks import has_encoder


@dataclass(frozen=True)
class Prompt:
    """One row as a model reads it: a batch of one.

    Attributes:
        inputs: what the original takes, `input_ids` among it.
        seen: what the graph for images or sounds takes; none for a row without.
        token: what stands in `input_ids` for each of their features.
        positions: of the tokens, (3, tokens).
        read: which of the features, in order; None for all of them.
        start: the tokens that an answer follows, (1, tokens): all of them, or what a decoder behind an encoder
            begins with.
    """

    inputs: Feed
    seen: Feed
    token: int
    positions: Array
    read: Array | None
    start: Array


class PromptFront(Front):
    """Makes prompts of rows, and what each graph takes of them."""

    def __init__(self, folder: Path, model: Any, start: int) -> None:
        """Of a model whose decoder, if it is behind an encoder, begins with the token `start`."""
        super().__init__(folder, ["input_ids", "attention_mask", "pixel_values"], position_limit(model))
        self.model, self.start = model, start

    def feed(self, rows: Sequence[Row]) -> Feed:
        """All that the graphs may take of one row.

        Raises:
            UsageError: as `prompt`, or the model cannot see its image.
        """
        prompt, place = self.prompt(rows[0]), rows[0].place
        features = None
        if prompt.seen:
            takes = set(image_parameters(self.model))
            images = {name: torch.from_numpy(value) for name, value in prompt.inputs.items() if name in takes}
            try:
                with torch.no_grad():
                    features = features_of(self.model, images)
            except (ValueError, TypeError, RuntimeError, IndexError) as error:
                raise UsageError(f"{place}: the model cannot see what its processor gives: {_line(error)}") from error
            tokens = int((prompt.inputs["input_ids"] == prompt.token).sum())
            if tokens != len(features):
                raise UsageError(f"{place}: {tokens} image tokens for {len(features)} features: see the processor")
        return self.known(prompt.inputs | prompt.seen, features) | {"position_ids": prompt.positions[:, None]}

    def known(self, given: Feed, features: torch.Tensor | None = None) -> Feed:
        """All that the graphs may take of tokens and images, with features in the places of image tokens."""
        model = self.model
        tensors = {name: torch.from_numpy(value) for name, value in given.items()}
        ids, mask = tensors["input_ids"], tensors["attention_mask"]
        places = (ids == int(model.config.image_token_id)) & (features is not None)
        with torch.no_grad():
            tensors |= embedded(model, ids)
            embeddings = tensors["inputs_embeds"]
            if features is not None:
                embeddings[places] = features
            if has_encoder(model):
                states = model.get_encoder()(inputs_embeds=embeddings, attention_mask=mask)
                tensors["encoder_hidden_states"] = states.last_hidden_state
                tensors["encoder_attention_mask"] = mask
                tensors["use_cache_branch"] = torch.tensor([False])
        tensors["token_type_ids"] = places.to(torch.int64)
        found = {name: np.asarray(value.numpy()) for name, value in tensors.items()}
        return found | {name: found[own] for name, own in ALSO.items() if own in found}

    def prompt(self, row: Row) -> Prompt:
        """One row.

        Raises:
            UsageError: it lacks a text, or the processor makes of it what the graphs do not take.
        """
        if row.text is None:
            raise UsageError(f"{row.place}: no text, which this model takes")
        tensors = self._processed(row, row.text)
        token, ids = int(self.model.config.image_token_id), tensors["input_ids"]
        if ids.shape[1] > self.limit:
            raise UsageError(f"{row.place}: {ids.shape[1]} tokens, of which this model takes {self.limit}")
        images: dict[str, torch.Tensor] = {}
        if row.image is not None:
            images = graph_images({name: tensors[name] for name in image_parameters(self.model) if name in tensors})
            if takes_tiles(self.model):
                images = {"pixel_values": tensors["pixel_values"][0]}
            elif tensors["pixel_values"].ndim != len(image_axes(images)["pixel_values"]):
                raise UsageError(f"{row.place}: the processor cuts images into tiles, which the graph does not take")
        start = np.array([[self.start]]) if has_encoder(self.model) else ids.numpy()
        return Prompt(
            inputs={name: value.numpy() for name, value in tensors.items()},
            seen={name: value.numpy() for name, value in images.items()},
            token=token,
            positions=token_positions(self.model, tensors),
            read=None if row.image is None else features_read(self.model, tensors),
            start=start,
        )

    def answer(self, row: Row) -> Array:
        """The tokens of a row's label, (1, tokens).

        Raises:
            UsageError: there are none.
        """
        ids = self.tokenizer.encode(str(row.label), add_special_tokens=False, max_length=LONGEST).input_ids
        if not ids.size:
            raise UsageError(f"{row.place}: an empty label has no perplexity")
        return np.asarray(ids)

    @cached_property
    def processor(self) -> Any:
        """The checkpoint's own."""
        with without_videos():
            return self._processor("AutoProcessor", video_processor=None)

    @cached_property
    def _takes(self) -> set[str]:
        return {*parameters_of(self.model), *image_parameters(self.model)}

    def _part(self, row: Row) -> tuple[str, str, dict[str, Any]]:
        """What a row has beside its text: the kind, what stands for it, and what the processor takes of it."""
        if row.image is None:
            return "", "", {}
        return "image", self.processor.image_token, {"images": [[open_image(row)]]}

    def _processed(self, row: Row, text: str) -> dict[str, torch.Tensor]:
        """What the processor makes of a row, in a chat where the model is made for one."""
        kind, place, given = self._part(row)
        if self.tokenizer.chat_template_names and (not kind or place not in text):
            content: list[dict[str, str]] = [{"type": kind}] if kind else []
            message = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
            text = self.tokenizer.apply_chat_template([message])
        begin = self.tokenizer.special_tokens.get("bos_token")
        more: dict[str, Any] = {"add_special_tokens": False} if begin and text.startswith(begin) else {}
        try:
            values = self.processor(text=[text], return_tensors="pt", **more | given)
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            hint = f"; is there no {place} in the text?" if place not in text else ""
            raise UsageError(f"{row.place}: the checkpoint's processor fails on it: {_line(error)}{hint}") from error
        kinds = {
            "pixel_values": torch.float32,
            "pixel_attention_mask": torch.bool,
            "input_features": torch.float32,
        }
        return {
            name: value.to(kinds.get(name, torch.int64))
            for name, value in values.items()
            if name in self._takes and isinstance(value, torch.Tensor)
        }


class SoundPromptFront(PromptFront):
    """Prompts of a model that hears."""

    def feed(self, rows: Sequence[Row]) -> Feed:
        """All that the graphs may take of one row.

        Raises:
            UsageError: as `prompt`, or the processor does not fit the model.
        """
        prompt, model = self.prompt(rows[0]), self.model
        ids = torch.from_numpy(prompt.inputs["input_ids"])
        with torch.no_grad():
            embeddings = model.get_input_embeddings()(ids)
            if prompt.seen:
                takes = {name: torch.from_numpy(prompt.inputs[name]) for name in sound_axes(model)}
                features = features_heard(model, takes)
                tokens = int((ids == prompt.token).sum())
                if tokens != len(features):
                    place = rows[0].place
                    raise UsageError(f"{place}: {tokens} audio tokens for {len(features)} features: see the processor")
                embeddings[ids == prompt.token] = features
        return prompt.inputs | prompt.seen | {"inputs_embeds": np.asarray(embeddings.numpy())}

    def prompt(self, row: Row) -> Prompt:
        if row.text is None:
            raise UsageError(f"{row.place}: no text, which this model takes")
        tensors = self._processed(row, row.text)
        inputs = {name: np.asarray(value.numpy()) for name, value in tensors.items()}
        length = inputs["input_ids"].shape[1]
        if length > self.limit:
            raise UsageError(f"{row.place}: {length} tokens, of which this model takes {self.limit}")
        seen = {graph_name(self.model, name): inputs[name] for name in sound_axes(self.model) if name in inputs}
        token = int(self.model.config.audio_token_id)
        return Prompt(inputs, seen, token, text_positions(length), None, inputs["input_ids"])

    def _part(self, row: Row) -> tuple[str, str, dict[str, Any]]:
        if row.audio is None:
            return "", "", {"audio": None}
        rate = self.processor.feature_extractor.sampling_rate
        return "audio", self.processor.audio_token, {"audio": [open_samples(row, rate)]}

    @cached_property
    def _takes(self) -> set[str]:
        return {*parameters_of(self.model), *sound_axes(self.model)}


@contextmanager
def without_videos() -> Iterator[None]:
    """Processors lack what reads videos, which takes torchvision and num2words and which no graph takes."""
    every: Any = ProcessorMixin.get_attributes.__func__
    some = classmethod(lambda kind: [name for name in every(kind) if "video" not in name])
    init = ProcessorMixin.__init__

    def begin(self: Any, *parts: Any, video_processor: Any = None, **named: Any) -> None:  # noqa: ARG001
        init(self, *parts, **named)

    with (
        patch.object(ProcessorMixin, "get_attributes", some),
        patch.object(ProcessorMixin, "__init__", begin),
        patch.object(processing_smolvlm, "num2words", str),
    ):
        yield


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
