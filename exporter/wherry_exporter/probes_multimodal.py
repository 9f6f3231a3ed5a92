"""What the original and its graphs compute where there are several graphs of unlike inputs.

Knows nothing of how a graph was made and does not judge what it finds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wherry_exporter.decoder import looks_ahead
from wherry_exporter.images import features_of, graph_images, image_inputs, joined, takes_other_sizes
from wherry_exporter.inputs import parameters_of
from wherry_exporter.load import Checkpoint
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.probes import (
    STEPS,
    Array,
    DecoderProbe,
    EncoderDecoderProbe,
    Feed,
    Graphs,
    ModelProbe,
    Pair,
    Session,
    loss,
    open_session,
    position_limit,
    token_row,
)
from wherry_tokenization import Tokenizer


class PartsProbe:
    """A model and parts of it, each in a graph of its own; a folder of others may lack some of them."""

    def __init__(self, parts: Mapping[str, Checkpoint], folder: Path) -> None:
        self.probes = {role: ModelProbe(part, folder) for role, part in parts.items()}
        self.calibration = {role: probe.calibration["model"] for role, probe in self.probes.items()}

    def pairs(self, graphs: Graphs) -> Iterator[tuple[str, Pair]]:
        for role, path in graphs.items():
            yield from self.probes[role].pairs({"model": path})

    def losses(self, graphs: Graphs) -> None:  # noqa: ARG002
        return None

    def racers(self, graphs: Graphs) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return self.probes["model"].racers(graphs)


class VisionLanguageProbe(DecoderProbe):
    """A decoder over past_key_values, whose prompts have images among their words.

    The last prompt's image has another size than the others' where the model allows it.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path, padding_side: str) -> None:
        self.model: Any = checkpoint.model
        self.padding_side = padding_side
        self.image_token = int(self.model.config.image_token_id)
        tokenizer = Tokenizer.load(folder)
        texts = SENTENCES[1:5]
        other = 2 if takes_other_sizes(self.model) else 1
        self.images = [
            *image_inputs(self.model, rows=len(texts) - 1, seed=1),
            *image_inputs(self.model, rows=1, seed=2, scale=other),
        ]
        self.features = [features_of(self.model, images).numpy() for images in self.images]
        self.rows = []
        for text, features in zip(texts, self.features, strict=True):
            words = token_row(tokenizer, text, 24)
            self.rows.append(np.concatenate([words[:1], np.full(len(features), self.image_token), words[1:]]))
        self.expected = [self._logits(index) for index in range(len(self.rows))]
        self.prose = token_row(tokenizer, PROSE, min(256, position_limit(self.model)))
        self.prose_loss = self._prose_loss()

    def pairs(self, graphs: Graphs) -> Iterator[tuple[str, Pair]]:
        for rows in (slice(0, 3), slice(3, 4)):
            session = self._open(graphs, rows)
            yield "image_features", (np.concatenate(self.features[rows]), session.features())
            logits = self._forced(session, self.rows[rows], STEPS)
            for pair in zip(self.expected[rows], logits, strict=True):
                yield "logits", pair

    def losses(self, graphs: Graphs) -> tuple[float, float]:
        session = Spliced(graphs, {}, self.image_token, [text_positions(len(self.prose))])
        return self.prose_loss, loss(self._forced(session, [self.prose], 0)[0], self.prose)

    def _open(self, graphs: Graphs, rows: slice = slice(0, 1)) -> "Spliced":
        images = {name: value.numpy() for name, value in graph_images(joined(self.images[rows])).items()}
        positions = [token_positions(self.model, self._prompt(index)) for index in range(len(self.rows))[rows]]
        return Spliced(graphs, images, self.image_token, positions)

    def _prompt(self, index: int) -> dict[str, torch.Tensor]:
        prompt = super()._prompt(index) | self.images[index]
        takes = parameters_of(self.model)
        kinds = (prompt["input_ids"] == self.image_token).to(torch.int64)  # processors tell image tokens from text
        if looks_ahead(self.model) == "prompts":
            kinds = torch.zeros_like(kinds)
            kinds[:, -STEPS:] = 1
        return prompt | {name: kinds for name in ("token_type_ids", "mm_token_type_ids") if name in takes}


class SeeingPairProbe(EncoderDecoderProbe):
    """An encoder over embeddings of tokens and images, and a decoder over its states and past_key_values."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self.model: Any = checkpoint.model
        self.image_token = int(self.model.config.image_token_id)
        self.names = ["input_ids", "attention_mask", "pixel_values"]
        tokenizer = Tokenizer.load(folder)
        self.feeds, answers = [], []
        for rows, scale in ((SENTENCES[1:4], 1), (SENTENCES[4:5], 2 if takes_other_sizes(self.model) else 1)):
            images = joined(image_inputs(self.model, rows=len(rows), seed=len(rows), scale=scale))
            features = features_of(self.model, images)
            seen = np.full((len(rows), len(features) // len(rows)), self.image_token)
            read = tokenizer.encode(list(rows), max_length=24)
            ids = np.concatenate([seen, read.input_ids], 1)
            mask = np.concatenate([np.ones_like(seen), read.attention_mask], 1)
            embeddings = self.model.get_input_embeddings()(torch.from_numpy(ids))
            embeddings[torch.from_numpy(ids == self.image_token)] = features
            states = self.model.get_encoder()(inputs_embeds=embeddings, attention_mask=torch.from_numpy(mask))
            feed = {"input_ids": ids, "attention_mask": mask, "pixel_values": images["pixel_values"].numpy()}
            self.feeds.append(feed)
            answers.append(self._greedy(feed, states))
        self.rows, self.expected = [ids for ids, _ in answers], [logits for _, logits in answers]

    def _open(self, graphs: Graphs, *, keep_memory: bool = False) -> tuple[Callable[[Feed], Array], Session]:
        vision, embeddings, encoder, decoder = (
            open_session(graphs[role], keep_memory=keep_memory)
            for role in ("vision_encoder", "embed_tokens", "encoder_model", "decoder_model_merged")
        )

        def encode(feed: Feed) -> Array:
            ids = feed["input_ids"]
            embedded = embeddings.run(None, {"input_ids": ids})[0]
            features = vision.run(None, {"pixel_values": feed["pixel_values"]})[0]
            embedded[ids == self.image_token] = features.reshape(-1, features.shape[-1])
            given = {"inputs_embeds": embedded, "attention_mask": feed["attention_mask"]}
            return np.asarray(encoder.run(None, given)[0])

        return encode, Embedded(embeddings, decoder)


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
    """Three graphs that run as one decoder of tokens, whose image tokens stand for these images."""

    def __init__(self, graphs: Graphs, images: Feed, image_token: int, positions: Sequence[Array]) -> None:
        """Open them.

        Args:
            images: of all rows.
            image_token: what stands for a feature of theirs.
            positions: of each row's tokens, (3, tokens); a longer row goes on from its last.
        """
        self.vision, self.embeddings, self.decoder = (
            open_session(graphs[role]) for role in ("vision_encoder", "embed_tokens", "decoder_model_merged")
        )
        self.images, self.image_token, self.positions = images, image_token, positions

    def features(self) -> Array:
        """One vector for each image token, in order."""
        names = {port.name for port in self.vision.get_inputs()}
        given = {name if name in names else "grid_thw": value for name, value in self.images.items()}
        one_by_one = self.vision.get_inputs()[0].shape[0] == 1
        batches = [{"pixel_values": image[None]} for image in given["pixel_values"]] if one_by_one else [given]
        found = [self.vision.run(None, batch)[0] for batch in batches]
        return np.concatenate([features.reshape(-1, features.shape[-1]) for features in found])

    def get_inputs(self) -> Any:
        return self.decoder.get_inputs()

    def get_outputs(self) -> Any:
        return self.decoder.get_outputs()

    def run(self, output_names: Any, input_feed: Feed) -> Any:
        feed = dict(input_feed)
        ids = feed.pop("input_ids")
        embeddings = self.embeddings.run(None, {"input_ids": ids})[0]
        if (ids == self.image_token).any():
            embeddings[ids == self.image_token] = self.features()
        more = {
            "inputs_embeds": embeddings,
            "token_type_ids": (ids == self.image_token).astype(np.int64),
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
