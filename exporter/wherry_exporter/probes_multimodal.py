"""What the original and its graphs compute where there are several graphs of unlike inputs.

Knows nothing of how a graph was made and does not judge what it finds.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession

from wherry_exporter.decoder import looks_ahead
from wherry_exporter.images import (
    features_of,
    features_read,
    graph_images,
    image_inputs,
    image_parameters,
    joined,
    takes_other_sizes,
)
from wherry_exporter.inputs import parameters_of
from wherry_exporter.load import Checkpoint
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.probes import (
    STEPS,
    DecoderProbe,
    EncoderDecoderProbe,
    Feed,
    Graphs,
    ModelProbe,
    Opened,
    Pair,
    Session,
    open_sessions,
    position_limit,
    tensors_from,
    token_row,
    writing,
)
from wherry_exporter.seq2seq import encoder_decoder_of
from wherry_exporter.sounds import features_heard, graph_name, sound_inputs
from wherry_exporter.spliced import Embedded, Spliced, encode_seen, text_positions, token_positions
from wherry_tokenization import Tokenizer

Openers = Mapping[str, Callable[[], InferenceSession]]
"""What opens each graph, by role, so that one after another is in memory."""


class PartsProbe:
    """A model and parts of it, each in a graph of its own; a folder of others may lack some of them."""

    def __init__(self, parts: Mapping[str, Checkpoint], folder: Path) -> None:
        self.probes = {role: ModelProbe(part, folder) for role, part in parts.items()}
        self.calibration = {role: probe.calibration["model"] for role, probe in self.probes.items()}

    def open(self, graphs: Graphs) -> Openers:
        return {role: partial(self.probes[role].open, {"model": path}) for role, path in graphs.items()}

    def pairs(self, opened: Openers) -> Iterator[tuple[str, Pair]]:
        for role, open_graph in opened.items():
            yield from self.probes[role].pairs(open_graph())

    def losses(self, opened: Openers) -> None:  # noqa: ARG002
        return None

    def racers(self, opened: Openers) -> tuple[Callable[[], Any], Callable[[], Any]]:
        role = next(iter(opened))  # the model as a whole, or what embeds images, which takes longest
        slow, fast = self.probes[role].racers(opened[role]())
        fast()
        return slow, fast


class AmongWordsProbe(DecoderProbe):
    """A decoder over past_key_values, whose prompts have images or sounds among their words.

    The last prompt's has another size than the others' where the model allows it.
    """

    output: str
    """Of the graph that gives their features."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, padding_side: str) -> None:
        self.model: Any = checkpoint.model
        self.padding_side = padding_side
        self.token = self._token()
        tokenizer = Tokenizer.load(folder)
        texts = SENTENCES[1:5]
        self.given = self._given(len(texts) - 1)
        self.features = [self._features(given).numpy() for given in self.given]
        self.rows = []
        for text, features in zip(texts, self.features, strict=True):
            words = token_row(tokenizer, text, 24)
            self.rows.append(np.concatenate([words[:1], np.full(len(features), self.token), words[1:]]))
        self.expected = [self._logits(index) for index in range(len(self.rows))]
        self.prose = token_row(tokenizer, PROSE, min(256, position_limit(self.model)))
        self.prose_loss = self._prose_loss()

    def open(self, graphs: Graphs) -> dict[str, Session]:
        return open_sessions(graphs)

    def pairs(self, opened: dict[str, Session]) -> Iterator[tuple[str, Pair]]:
        for rows in (slice(0, 3), slice(3, 4)):
            session = self._spliced(opened, rows)
            yield self.output, (np.concatenate(self.features[rows]), session.features())
            logits = self._forced(session, self.rows[rows], STEPS)
            for pair in zip(self.expected[rows], logits, strict=True):
                yield "logits", pair

    def losses(self, opened: dict[str, Session]) -> tuple[float, float]:
        return super().losses(Spliced(opened, {}, self.token, [text_positions(len(self.prose))]))

    def racers(self, opened: dict[str, Session]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return super().racers(self._spliced({role: writing(each) for role, each in opened.items()}, slice(0, 1)))

    def _prompt(self, index: int) -> dict[str, torch.Tensor]:
        return super()._prompt(index) | self.given[index]

    def _token(self) -> int:
        """What stands for a feature."""
        raise NotImplementedError

    def _given(self, rows: int) -> list[dict[str, torch.Tensor]]:
        """What that many rows have among their words, and one more of another size."""
        raise NotImplementedError

    def _features(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the model makes of it."""
        raise NotImplementedError

    def _spliced(self, opened: dict[str, Session], rows: slice) -> Spliced:
        """What runs these rows."""
        raise NotImplementedError


class AudioLanguageProbe(AmongWordsProbe):
    """A decoder whose prompts have sounds among their words."""

    output = "audio_features"

    def _token(self) -> int:
        return int(self.model.config.audio_token_id)

    def _given(self, rows: int) -> list[dict[str, torch.Tensor]]:
        return [
            *sound_inputs(self.model, rows=rows, seed=1, scale=2),
            *sound_inputs(self.model, rows=1, seed=2, scale=3),
        ]

    def _features(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return features_heard(self.model, given)

    def _spliced(self, opened: dict[str, Session], rows: slice) -> Spliced:
        sounds = {graph_name(self.model, name): value.numpy() for name, value in joined(self.given[rows]).items()}
        return Spliced(opened, sounds, self.token, [text_positions(len(row)) for row in self.rows[rows]])


class VisionLanguageProbe(AmongWordsProbe):
    """A decoder whose prompts have images among their words."""

    output = "image_features"

    def _token(self) -> int:
        return int(self.model.config.image_token_id)

    def _given(self, rows: int) -> list[dict[str, torch.Tensor]]:
        other = 2 if takes_other_sizes(self.model) else 1
        return [*image_inputs(self.model, rows=rows, seed=1), *image_inputs(self.model, rows=1, seed=2, scale=other)]

    def _features(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return features_of(self.model, given)

    def pairs(self, opened: dict[str, Session]) -> Iterator[tuple[str, Pair]]:
        yield from super().pairs(opened)
        for scale in (2, 3) if "audio_encoder" in opened else ():
            sounds = joined(sound_inputs(self.model, rows=2, seed=scale, scale=scale))
            given = {graph_name(self.model, name): value.numpy() for name, value in sounds.items()}
            with torch.no_grad():
                expected = features_heard(self.model, sounds).numpy()
            yield "audio_features", (expected, opened["audio_encoder"].run(None, given)[0])

    def _spliced(self, opened: dict[str, Session], rows: slice) -> Spliced:
        seen = joined(self.given[rows])
        images = {name: value.numpy() for name, value in graph_images(seen).items()}
        positions = [token_positions(self.model, self._prompt(index)) for index in range(len(self.rows))[rows]]
        return Spliced(opened, images, self.token, positions, features_read(self.model, seen))

    def _prompt(self, index: int) -> dict[str, torch.Tensor]:
        prompt = super()._prompt(index)
        takes = parameters_of(self.model)
        kinds = (prompt["input_ids"] == self.token).to(torch.int64)  # processors tell image tokens from text
        if looks_ahead(self.model) == "prompts":
            kinds = torch.zeros_like(kinds)
            kinds[:, -STEPS:] = 1
        return prompt | {name: kinds for name in ("token_type_ids", "mm_token_type_ids") if name in takes}


class SeeingPairProbe(EncoderDecoderProbe):
    """An encoder over embeddings of tokens and images, and a decoder over its states and past_key_values."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        model: Any = checkpoint.model
        self.seeing, self.model = model, encoder_decoder_of(model)
        self.image_token = int(model.config.image_token_id)
        self.names = ["input_ids", "attention_mask", "pixel_values"]
        tokenizer = Tokenizer.load(folder)
        self.feeds, answers = [], []
        for rows, scale in ((SENTENCES[1:4], 1), (SENTENCES[4:5], 2 if takes_other_sizes(model) else 1)):
            images = joined(image_inputs(model, rows=len(rows), seed=len(rows), scale=scale))
            features = features_of(model, images)
            places = np.full((len(rows), len(features) // len(rows)), self.image_token)
            read = tokenizer.encode(list(rows), max_length=24)
            ids = np.concatenate([places, read.input_ids], 1)
            mask = np.concatenate([np.ones_like(places), read.attention_mask], 1)
            seen = {name: value.numpy() for name, value in graph_images(images).items()}
            feed = {"input_ids": ids, "attention_mask": mask, **seen}
            self.feeds.append(feed)
            answers.append(self._greedy(feed, self._encoded(feed)))
        self.rows, self.expected = [ids for ids, _ in answers], [logits for _, logits in answers]

    def _encoded(self, feed: Feed) -> Any:
        given = tensors_from(feed)
        takes = image_parameters(self.seeing)
        images = {name: value for name, value in given.items() if name in takes}
        embeddings = self.model.get_input_embeddings()(given["input_ids"])
        embeddings[given["input_ids"] == self.image_token] = features_of(self.seeing, images)
        return self.model.get_encoder()(inputs_embeds=embeddings, attention_mask=given["attention_mask"])

    def open(self, graphs: Graphs) -> Opened:
        sessions = open_sessions(graphs)
        decoder = Embedded(sessions["embed_tokens"], sessions["decoder_model_merged"])
        return lambda feed: encode_seen(sessions, feed, self.image_token), decoder
