"""Graphs in the place of a checkpoint: inputs for them, and what they compute as the reference for their variants."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from wherry.bundle import Bundle
from wherry.files import read_json
from wherry_exporter.calibration import graph_feeds, start_token
from wherry_exporter.convert import Traced
from wherry_exporter.data import Row
from wherry_exporter.errors import UsageError
from wherry_exporter.examine import Examiner, configuration
from wherry_exporter.front import Front, batches
from wherry_exporter.plan import Plan
from wherry_exporter.probe import CALIBRATION, PROSE, SENTENCES
from wherry_exporter.runners import Feed, GraphRunner
from wherry_exporter.tasks import TASKS
from wherry_exporter.verify import Parity, pace

Array = np.ndarray[Any, Any]
SIZES = {"height": 224, "width": 224, "num_channels": 3, "num_samples": 16_000, "num_frames": 3000}
LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
"""What configurations call the most tokens that a model takes."""
LENGTH = 16
"""Of an axis that varies and whose name tells nothing."""
VOCABULARY = 100
"""Random tokens are below this."""


class RandomFront(Front):
    """Random values for every input, whatever the rows hold."""

    def __init__(self, folder: Path, ports: Mapping[str, ir.Value], limit: int) -> None:
        super().__init__(folder, list(ports), limit)
        self.ports = ports

    def feed(self, rows: Sequence[Row]) -> dict[str, Array]:
        random = np.random.default_rng([ord(letter) for letter in rows[0].place])
        return {name: _random(random, name, port, len(rows)) for name, port in self.ports.items()}


def _random(random: np.random.Generator, name: str, port: ir.Value, rows: int) -> Array:
    dims = list(port.shape or ())
    shape = [dim if isinstance(dim, int) else SIZES.get(str(dim.value), LENGTH) for dim in dims]
    if dims and not isinstance(dims[0], int):
        shape[0] = rows
    kind = port.dtype.numpy() if port.dtype is not None else np.dtype(np.float32)
    if "mask" in name:
        return np.ones(shape, kind)
    if kind.kind == "f":
        return random.uniform(-1, 1, shape).astype(kind)
    return random.integers(0, 2 if kind.kind == "b" or "type" in name else VOCABULARY, shape).astype(kind)


class GraphSubject:
    """Float32 graphs of a bundle, as `variants.write_variants` wants what it quantizes."""

    def __init__(self, bundle: Bundle, paths: Mapping[str, Path], graphs: Mapping[str, ir.Model], plan: Plan) -> None:
        """Prepare.

        Args:
            bundle: holds the graphs and the tokenizer's or preprocessor's files.
            paths: of the graphs, by role.
            graphs: the same in memory.
            plan: its rows.

        Raises:
            UsageError: rows that do not fit, graphs that run in a way that is not known, or a fast prefill where there
                are no prompts.
        """
        self.task, self.plan, self.graphs = bundle.task, plan, graphs
        self.shape = _shape(graphs)
        if plan.fast_prefill and self.shape != "decoder":
            raise UsageError("a fast prefill is for decoders that stand alone")
        entry = graphs["encoder_model" if self.shape == "encoder-decoder" else "model"].graph.inputs
        ports = {str(value.name): value for value in entry if not str(value.name).startswith("past_")}
        ports.pop("position_ids", None)
        self.precisions: Sequence[str] = ("int4",) if self.shape == "decoder" else ("int8",)
        self.original = GraphRunner(paths)
        self.limit = next((int(bundle.config[name]) for name in LIMITS if bundle.config.get(name)), 512)
        generation_file = bundle.folder / "generation_config.json"
        generation = read_json(generation_file) if generation_file.exists() else {}
        self.start = start_token(bundle.config, generation)
        end = generation.get("eos_token_id", bundle.config.get("eos_token_id"))
        self.config = configuration(bundle.config, self.start, end)
        rows = plan.calibration is not None or plan.verify_data is not None
        reads = set(ports) <= {"input_ids", "attention_mask", "token_type_ids"}
        self.text = reads and (bundle.folder / "tokenizer.json").exists()
        random = RandomFront(bundle.folder, ports, self.limit)
        self.front = Front(bundle.folder, list(ports), self.limit) if rows or self.text else random
        if self.shape == "decoder" and not self.text:
            raise UsageError(f"{bundle.folder} has no tokenizer.json, which a decoder is measured with")
        self.examiner = None if plan.verify_data is None else self._examiner(plan.verify_data, self.front)
        self.real = plan.calibration is not None
        self.synthetic = not self.real and not self.text
        self.takes_rows = True
        proof = self.front if self.text else random
        words = [Row(f"built-in text {number}", text=text) for number, text in enumerate((*SENTENCES[:23], PROSE))]
        words = [row for row in words if self.shape != "decoder" or len(str(row.text)) > 8]
        noise = [Row(f"random values {number}") for number in range(6)]
        self.prover = self._examiner(words if self.text else noise, proof)
        calibration = plan.calibration or [Row("built-in text", text=text) for text in CALIBRATION]
        if not self.text and plan.calibration is None:
            calibration = [Row(f"random calibration {number}") for number in range(8)]
        source = self.front if self.text or plan.calibration is not None else random
        self.entries = [source.feed(batch) for batch in batches(calibration, 4)]

    def feeds(self, traced: Traced) -> Callable[[str], list[Feed]]:
        """Gives the inputs of the graph of a role."""
        return cache(lambda role: graph_feeds(traced.graphs[role], self.entries, self.original, self.start))

    def tuner(self) -> Examiner | None:
        """Measures on the user's rows where random values are all that there is otherwise."""
        if self.text or (self.plan.calibration is None and self.examiner is None):
            return None
        return self.examiner or self._examiner(self.plan.calibration or (), self.front)

    def measure(self, graphs: Mapping[str, Path]) -> Parity:
        """Figures of a variant beside the float32 graphs."""
        return self.prover.measure(GraphRunner(graphs)).parity

    def speed(self, graphs: Mapping[str, Path]) -> float:
        """How many times as fast as the float32 graphs a variant runs."""
        original, variant = self.prover.work(self.original), self.prover.work(GraphRunner(graphs))
        variant()
        return pace(original) / pace(variant)

    def _examiner(self, rows: Sequence[Row], front: Front) -> Examiner:
        task = self.task if self.task in TASKS else "feature-extraction"
        return Examiner(rows, front, self.original, str(task), self.shape, self.config)


def _shape(graphs: Mapping[str, ir.Model]) -> str:
    if {"encoder_model", "decoder_model_merged"} <= set(graphs):
        return "encoder-decoder"
    if "model" not in graphs:
        raise UsageError(f"graphs of the roles {', '.join(graphs)} cannot be quantized: export their checkpoint")
    past = any(str(value.name).startswith("past_") for value in graphs["model"].graph.inputs)
    return "decoder" if past else "model"
