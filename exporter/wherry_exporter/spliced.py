"""Graphs of a model that sees or hears among its words, run as one decoder of tokens, features in their places.

Knows nothing of how a graph was made.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wherry_exporter.images import ALSO
from wherry_exporter.probes import Array, Feed, Session

TOWERS = ("vision_encoder", "audio_encoder")
"""What gives features that stand among those of tokens."""


def encode_seen(sessions: Mapping[str, Session], feed: Feed, image_token: int) -> Array:
    """The states of an encoder over tokens and the images that stand in the places of some."""
    ids = feed["input_ids"]
    embedded = sessions["embed_tokens"].run(None, {"input_ids": ids})[0]
    if "pixel_values" in feed:
        vision = sessions["vision_encoder"]
        features = vision.run(None, {port.name: feed[port.name] for port in vision.get_inputs()})[0]
        embedded[ids == image_token] = features.reshape(-1, features.shape[-1])
    given = {"inputs_embeds": embedded, "attention_mask": feed["attention_mask"]}
    return np.asarray(sessions["encoder_model"].run(None, given)[0])


class Embedded:
    """A decoder of embeddings that runs as one of tokens."""

    def __init__(self, embeddings: Session, decoder: Session) -> None:
        self.embeddings, self.decoder = embeddings, decoder

    def get_inputs(self) -> Any:
        return [*self.embeddings.get_inputs(), *self.decoder.get_inputs()]

    def get_outputs(self) -> Any:
        return self.decoder.get_outputs()

    def run(self, output_names: Any, input_feed: Feed) -> Any:
        feed = dict(input_feed)
        embedded = self.embeddings.run(None, {"input_ids": feed.pop("input_ids")})[0]
        return self.decoder.run(output_names, {"inputs_embeds": embedded, **feed})


def asked(given: Feed, name: str) -> Array:
    """What an input of a graph takes of images or sounds."""
    return given[name if name in given else ALSO[name]]


def text_positions(length: int) -> Array:
    """Positions of as many tokens, in time, height and width."""
    return np.tile(np.arange(length), (3, 1))


def token_positions(model: Any, prompt: Mapping[str, torch.Tensor]) -> Array:
    """Positions of a prompt's tokens, (3, tokens): an image's are in two dimensions where the model says so."""
    given = {name: value for name, value in prompt.items() if name not in ("pixel_values", "token_type_ids")}
    if "image_grid_thw" not in given or not hasattr(model.model, "get_rope_index"):
        return text_positions(prompt["input_ids"].shape[1])
    positions: Array = model.model.get_rope_index(**given)[0][:, 0].numpy()
    return positions


class Spliced:
    """Three graphs that run as one decoder of tokens, some of which stand for features of these images or sounds."""

    def __init__(
        self,
        sessions: Mapping[str, Session],
        given: Feed,
        token: int,
        positions: Sequence[Array],
        read: Array | None = None,
    ) -> None:
        """Prepare.

        Args:
            sessions: by role.
            given: images or sounds, of all rows.
            token: what stands for a feature of theirs.
            positions: of each row's tokens, (3, tokens); a longer row goes on from its last.
            read: which of the features, in order; None for all of them.
        """
        self.tower = next(sessions[role] for role in TOWERS if role in sessions)
        self.embeddings, self.decoder = (sessions[role] for role in ("embed_tokens", "decoder_model_merged"))
        self.given, self.token, self.positions, self.read = given, token, positions, read

    def features(self) -> Array:
        """One vector for each such token, in order."""
        first, *_ = ports = self.tower.get_inputs()
        given = {port.name: asked(self.given, port.name) for port in ports}
        batches = [{first.name: each[None]} for each in given[first.name]] if first.shape[0] == 1 else [given]
        found = [self.tower.run(None, batch)[0] for batch in batches]
        features = np.concatenate([each.reshape(-1, each.shape[-1]) for each in found])
        return features if self.read is None else features[self.read]

    def get_inputs(self) -> Any:
        return self.decoder.get_inputs()

    def get_outputs(self) -> Any:
        return self.decoder.get_outputs()

    def run(self, output_names: Any, input_feed: Feed) -> Any:
        feed = dict(input_feed)
        ids = feed.pop("input_ids")
        names = [port.name for port in self.embeddings.get_outputs()]
        made = dict(zip(names, self.embeddings.run(names, {"input_ids": ids}), strict=True))
        prompt = ids.shape == feed["attention_mask"].shape  # what is written later may hold the token, but no image
        if prompt and (ids == self.token).any():
            made["inputs_embeds"][ids == self.token] = self.features()
        more = made | {
            "token_type_ids": (ids == self.token).astype(np.int64),
            "position_ids": self._positions(feed["attention_mask"], ids.shape[1]),
        }
        names = [port.name for port in self.decoder.get_inputs()]
        return self.decoder.run(output_names, feed | {name: more[name] for name in names if name in more})

    def _positions(self, mask: Array, new: int) -> Array:
        """Positions of the new tokens, (3, batch, new)."""
        found = np.zeros((3, len(mask), new), np.int64)
        for row, (real, positions) in enumerate(zip(mask, self.positions, strict=True)):
            places = real.astype(bool) if new == len(real) else np.ones(new, bool)
            last = int(real.sum())
            more = positions.max() + 1 + np.arange(max(0, last - positions.shape[1]))
            known = np.concatenate([positions, np.tile(more, (3, 1))], 1)
            found[:, row, places] = known[:, last - int(places.sum()) : last]
        return found
