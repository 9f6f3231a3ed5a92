"""What a checkpoint as a whole takes: for calibration, the user's rows or built-in text or random values."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from wherry_exporter.calibration import graph_feeds, start_token
from wherry_exporter.convert import Traced
from wherry_exporter.data import Row
from wherry_exporter.errors import UsageError
from wherry_exporter.examine import Examiner, configuration, refuse_rows
from wherry_exporter.front import Front, batches
from wherry_exporter.images import graph_images, image_inputs, image_parameters, joined
from wherry_exporter.inputs import (
    as_choices,
    chooses,
    image_places,
    input_names,
    kinds_of_places,
    parameters_of,
    random_inputs,
    reads_text,
)
from wherry_exporter.load import Checkpoint
from wherry_exporter.music import some_codes
from wherry_exporter.plan import Plan
from wherry_exporter.probe import CALIBRATION
from wherry_exporter.probes import position_limit
from wherry_exporter.prompts import PromptFront, SoundPromptFront
from wherry_exporter.runners import Feed, TorchRunner
from wherry_exporter.seq2seq import encoder_decoder_of
from wherry_exporter.sounds import features_heard, graph_name, sound_inputs
from wherry_exporter.speech import with_speech
from wherry_exporter.tasks import TASKS, has_encoder, hears, shape_of
from wherry_exporter.towers import parts_of, with_points
from wherry_exporter.transducer import some_steps

RANDOM = 8
"""Random inputs to calibrate with."""
MIXED: Mapping[str, type[PromptFront]] = {"vision-language": PromptFront, "audio-language": SoundPromptFront}
"""Shapes of models whose prompts are not of words alone, and what makes them of rows."""
FEW = 2
"""Inputs to calibrate with that take long to make."""


class Entries:
    """Inputs of one checkpoint. Rows that do not fit it are refused before anything is traced.

    Attributes:
        text: whether text is all that the model takes.
        real: whether calibration is on the user's own rows.
        synthetic: whether it is on random values.
        takes_rows: whether the user's own rows can be calibrated on.
        limit: the most tokens that the model takes.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path, plan: Plan) -> None:
        """Prepare.

        Args:
            checkpoint: the model.
            folder: holds the tokenizer's and the preprocessor's files.
            plan: its rows.

        Raises:
            UsageError: rows that do not fit, or a fast prefill of what has no prompts.
        """
        self.checkpoint, self.plan = checkpoint, plan
        self.precisions: Sequence[str] = TASKS[checkpoint.task].precisions
        self.shape = shape_of(checkpoint.task, checkpoint.model)
        blind = checkpoint.task in ("video-classification", "audio-to-audio", "image-matting")
        apart = "places in a table" if kinds_of_places(checkpoint.model.config) else ""
        if image_places(checkpoint.model):
            apart = "how words stand behind an image"
        self.takes_rows = not (blind or apart)
        if plan.verify_data is not None or (plan.calibration is not None and blind):
            refuse_rows(checkpoint.task, self.shape)
        if apart and (plan.verify_data or plan.calibration) is not None:
            raise UsageError(f"rows do not tell {apart}: leave --calibration and --verify-data out")
        pair = self.shape in ("music", "encoder-decoder")
        model: Any = encoder_decoder_of(checkpoint.model) if pair else checkpoint.model
        if self.shape == "transducer":
            model = model.get_encoder()
        self.model = model
        if plan.fast_prefill and (self.shape not in ("decoder", *MIXED) or has_encoder(model)):
            raise UsageError(f"a fast prefill is for decoders that stand alone, not for {checkpoint.task}")
        self.names = _names(model, self.shape)
        self.limit = position_limit(model)
        self.original = TorchRunner(checkpoint.model if self.shape == "transducer" else model)
        generation = model.generation_config.to_dict() if getattr(model, "generation_config", None) else {}
        config = self.original.model.config.to_dict()
        self.start = start_token(config, generation)
        self.config = configuration(config, self.start, generation.get("eos_token_id", config.get("eos_token_id")))
        self.front = (
            MIXED[self.shape](folder, model, self.start)
            if self.shape in MIXED
            else Front(folder, self.names, self.limit)
        )
        self.examiner = None if plan.verify_data is None else self._examiner(plan.verify_data)
        self.text = TASKS[checkpoint.task].text and reads_text(model, self.names)
        self.real = plan.calibration is not None
        self.synthetic = not self.real and not self.text
        self.entries = self._entries(plan.calibration)

    def feeds(self, traced: Traced) -> Callable[[str], list[Feed]]:
        """Gives the inputs of the graph of a role."""
        return cache(lambda role: self._feeds(traced.graphs[role], role))

    def _feeds(self, graph: ir.Model, role: str) -> list[Feed]:
        model, entries = self.checkpoint.model, self.entries
        if role == "decoder_joint":
            return [some_steps(model, entry, seed) for seed, entry in enumerate(entries)]
        if role == "encodec_decode":
            return [{"audio_codes": some_codes(model, 1, frames).numpy()} for frames in (50, 70)]
        if self.checkpoint.task == "audio-to-audio":
            part: Any = parts_of(self.checkpoint)[role].model
            entries = [
                _arrays(random_inputs(part, input_names(part), batch=1, scale=1, seed=100 + seed))
                for seed in range(RANDOM)
            ]
        if self.checkpoint.task == "mask-generation":  # whose images are large
            entries = [with_points(model, entry, seed) for seed, entry in enumerate(entries[:FEW])]
        return graph_feeds(graph, entries, self.original, self.start)

    def tuner(self) -> Examiner | None:
        """Measures on the user's rows where random values are all that there is otherwise."""
        if self.text:
            return None
        if self.examiner is None and self.plan.calibration is not None:
            return self._examiner(self.plan.calibration)
        return self.examiner

    def _examiner(self, rows: Sequence[Row]) -> Examiner:
        self.front.feed(rows[:1])
        return Examiner(rows, self.front, self.original, self.checkpoint.task, self.shape, self.config)

    def _entries(self, rows: Sequence[Row] | None) -> list[Feed]:
        model = self.model
        if rows is None and self.text:
            rows = [Row("built-in text", text=text) for text in CALIBRATION]
        entries: list[Feed]
        if rows is not None:
            singly = self.shape in (*MIXED, "transducer")  # prompts with images are as long as these make them
            size = 1 if singly else 4
            entries = [self.front.feed(batch) for batch in batches(rows, size)]
        elif self.shape == "vision-language":
            entries = [self._with_images(seed) for seed in range(100, 102)]
        elif self.shape == "audio-language":
            entries = [self._with_sound(seed) for seed in range(100, 102)]
        else:
            entries = [
                _arrays(random_inputs(model, self.names, batch=1, scale=1, seed=seed))
                for seed in range(100, 100 + RANDOM)
            ]
        if chooses(model):
            entries = [as_choices(entry) for entry in entries]
        return [with_speech(model, entry) for entry in entries] if self.shape == "speech" else entries

    def _with_images(self, seed: int) -> Feed:
        model = self.model
        tensors = graph_images(joined(image_inputs(model, rows=2, seed=seed)))
        if "image_sizes" in image_parameters(model):  # its graph takes one image
            tensors["pixel_values"] = tensors["pixel_values"][:1]
        tensors |= random_inputs(model, ["input_ids", "attention_mask"], batch=2, scale=2, seed=seed)
        assert isinstance(self.front, PromptFront)
        if hears(model):
            sounds = joined(sound_inputs(model, rows=2, seed=seed, scale=2))
            tensors |= {graph_name(model, name): value for name, value in sounds.items()}
        return self.front.known({name: value.numpy() for name, value in tensors.items()})

    def _with_sound(self, seed: int) -> Feed:
        """A sound, and words behind it."""
        sound = joined(sound_inputs(self.model, rows=1, seed=seed, scale=2))
        words = random_inputs(self.model, ["input_ids"], batch=1, scale=2, seed=seed)
        with torch.no_grad():
            heard = features_heard(self.model, sound)[None]
            embeddings = torch.cat([heard, self.model.get_input_embeddings()(words["input_ids"])], 1)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64)
        tensors = sound | words | {"inputs_embeds": embeddings, "attention_mask": mask}
        return {graph_name(self.model, name): value.numpy() for name, value in tensors.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Feed:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _names(model: Any, shape: str) -> list[str]:
    if shape == "decoder":
        return ["input_ids", "attention_mask"]
    names = input_names(model)
    if shape in ("encoder-decoder", "music"):
        return [name for name in names if name in parameters_of(model.get_encoder())]
    return names
