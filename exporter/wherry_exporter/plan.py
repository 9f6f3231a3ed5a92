"""What a person asks of an export or a quantization, checked. Imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass

from wherry_exporter.data import Row
from wherry_exporter.errors import UsageError

AUTO = "auto"
ALGORITHMS = ("imatrix", "gptq", "k-quant", "hqq", "rtn")
CANDIDATES = ("fp32", "int8", "int4")
"""What `auto` chooses from; float16 is no faster on a CPU."""
METRIC_NAMES = ("accuracy", "f1", "wer", "perplexity")
READ_BY = ("int8", "quantized", "int4")
"""Precisions whose prompts another graph can read: the others run on GPUs, or are as exact as the original."""
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Settings:
    """How weights are kept in few bits.

    Attributes:
        algorithm: how 4-bit weights are rounded, one of `ALGORITHMS`. 8 bits are rounded to nearest.
        block_size: weights that share a scale, one of `BLOCK_SIZES`; for 8 bits at least 64 of them do.
        symmetric: whether the zero point of every block is the middle level.
    """

    algorithm: str = "imatrix"
    block_size: int = 32
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise UsageError(f"unknown algorithm '{self.algorithm}': choose from {', '.join(ALGORITHMS)}")
        if self.block_size not in BLOCK_SIZES:
            raise UsageError(f"onnxruntime takes no blocks of {self.block_size}: {', '.join(map(str, BLOCK_SIZES))}")

    def size(self, bits: int) -> int:
        """Weights that share a scale; an 8-bit level needs none so often."""
        return self.block_size if bits < 8 else max(64, self.block_size)


@dataclass(frozen=True)
class Plan:
    """What is to be written, on what data, and how much it may cost.

    Attributes:
        precisions: keys of `wherry.bundle.SUFFIXES`, or `auto` alone; None for the task's own.
        settings: of weight-only quantization.
        calibration: rows that show what activations are like.
        verify_data: rows that every variant is measured on.
        max_accuracy_loss: of a variant on those.
        max_group_gap: between their groups.
        fast_prefill: whether a graph that reads prompts in 8-bit integers goes with the variants in few bits.
    """

    precisions: Sequence[str] | None
    settings: Settings
    calibration: Sequence[Row] | None
    verify_data: Sequence[Row] | None
    max_accuracy_loss: float | None
    max_group_gap: float | None
    fast_prefill: bool = False

    def __post_init__(self) -> None:
        if self.max_group_gap is not None and (
            self.verify_data is None or len({row.group for row in self.verify_data if row.group is not None}) < 2
        ):
            raise UsageError("a largest group gap needs verify data whose rows carry at least two groups")
        if self.fast_prefill and self.precisions is not None and not {AUTO, *READ_BY} & set(self.precisions):
            raise UsageError(f"a fast prefill is for {', '.join(READ_BY)}: add one of them to the precisions")
        if self.max_accuracy_loss is not None and self.verify_data is None and self.precisions != [AUTO]:
            raise UsageError("a largest accuracy loss needs verify data, or precision auto")

    def wanted(self, usual: Sequence[str]) -> Sequence[str]:
        """The precisions to write, or to choose from: those of the task where nothing is said."""
        return CANDIDATES if self.precisions == [AUTO] else self.precisions or usual
