"""What the original and its graphs compute where there are several graphs of unlike inputs.

Knows nothing of how a graph was made and does not judge what it finds.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wherry_exporter.inputs import parameters_of
from wherry_exporter.load import Checkpoint
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.probes import (
    STEPS,
    Array,
    DecoderProbe,
    Feed,
    Graphs,
    ModelProbe,
    Pair,
    open_session,
    position_limit,
    token_row,
)
from wherry_exporter.vision_language import image_inputs
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
    """A decoder over past_key_values, whose prompts have images among their words."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, padding_side: str) -> None:
        self.model: Any = checkpoint.model
        self.padding_side = padding_side
        self.image_token = int(self.model.config.image_token_id)
        tokenizer = Tokenizer.load(folder)
        texts = SENTENCES[1:5]
        self.images = image_inputs(self.model, rows=len(texts), seed=1)
        self.features = [rows.numpy() for rows in self.model.get_image_features(**self.images).pooler_output]
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

    def _open(self, graphs: Graphs, rows: slice = slice(0, 1)) -> "_Spliced":
        return _Spliced(graphs, {name: value[rows].numpy() for name, value in self.images.items()}, self.image_token)

    def _prompt(self, index: int) -> dict[str, torch.Tensor]:
        prompt = super()._prompt(index)
        prompt |= {name: value[index : index + 1] for name, value in self.images.items()}
        takes = parameters_of(self.model)
        kinds = (prompt["input_ids"] == self.image_token).to(torch.int64)  # processors tell image tokens from text
        return prompt | {name: kinds for name in ("token_type_ids", "mm_token_type_ids") if name in takes}


class _Spliced:
    """Three graphs that run as one decoder of tokens, whose image tokens stand for these images."""

    def __init__(self, graphs: Graphs, images: Feed, image_token: int) -> None:
        self.vision, self.embeddings, self.decoder = (
            open_session(graphs[role]) for role in ("vision_encoder", "embed_tokens", "decoder_model_merged")
        )
        self.images, self.image_token = images, image_token

    def features(self) -> Array:
        """One vector for each image token, in order."""
        features = self.vision.run(None, self.images)[0]
        return np.asarray(features.reshape(-1, features.shape[-1]))

    def get_inputs(self) -> Any:
        return self.decoder.get_inputs()

    def run(self, output_names: Any, input_feed: Feed) -> Any:
        feed = dict(input_feed)
        ids = feed.pop("input_ids")
        embeddings = self.embeddings.run(None, {"input_ids": ids})[0]
        if (ids == self.image_token).any():
            embeddings[ids == self.image_token] = self.features()
        return self.decoder.run(output_names, {"inputs_embeds": embeddings, **feed})
