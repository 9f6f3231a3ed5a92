"""Graphs on disk that are proven: the float32 ones that compute what the original does, and their smaller variants.

Knows nothing of bundles or checkpoints' files.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wherry.pooling import Pooling
from wherry_exporter.convert import FAILURES, Traced
from wherry_exporter.errors import ExportError
from wherry_exporter.fed import words_alone
from wherry_exporter.fuse import fuse
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import NotLowered
from wherry_exporter.pooled import add_pooling
from wherry_exporter.precision import Quantizer
from wherry_exporter.quiet import quiet
from wherry_exporter.storage import save
from wherry_exporter.trace import ways
from wherry_exporter.verify import Parity, Verifier, close

SLOW = {
    "stepwise": "reads prompts a token at a time",
    "rereading": "reads the whole text again for every token",
}
"""What a decoder does that is traced in such a way."""


@dataclass(frozen=True)
class Proven:
    """Float32 graphs that compute what the original does.

    Attributes:
        traced: the graphs.
        verifier: what proved it, and measures others.
        parity: how closely.
        speed: how many times as fast as torch; None where they were not timed.
    """

    traced: Traced
    verifier: Verifier
    parity: Parity
    speed: float | None


def trace_verified(checkpoint: Checkpoint, folder: Path, *, timed: bool = False) -> Proven:
    """Trace in the first way whose float32 graphs, written into `folder`, compute what the original does.

    Raises:
        ExportError: none does; the message gathers each way's reason.
    """
    words_alone(checkpoint.model)
    reasons: dict[str, list[str]] = {}
    for name, way in ways(checkpoint).items():
        try:
            with quiet():
                traced = way(checkpoint)
            if checkpoint.task == "sentence-embeddings":
                add_pooling(traced.graphs["model"], Pooling.load(folder))
            paths = {role: folder / f"onnx/{role}.onnx" for role in traced.graphs}
            save(map(fuse, traced.graphs.values()), paths.values())
            verifier = Verifier(checkpoint, folder, traced.padding_side)
            parity, speed = verifier.prove(paths, timed=timed)
            if name in SLOW:
                kind = type(checkpoint.model).__name__
                warnings.warn(f"{kind} {SLOW[name]}, which takes longer: {next(reversed(reasons))}", stacklevel=2)
            return Proven(traced, verifier, parity, speed)
        except (NotLowered, ExportError, *FAILURES) as error:
            reasons.setdefault(in_short(error), []).append(name)
            for path in (folder / "onnx").iterdir():
                path.unlink()
    every = [reason if len(reasons) == 1 else f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    raise refused(checkpoint, "; ".join(every))


def refused(checkpoint: Checkpoint, reason: str) -> ExportError:
    """That a model cannot be exported."""
    return ExportError(f"{type(checkpoint.model).__name__} cannot be exported for {checkpoint.task}: {reason}")


def in_short(error: BaseException) -> str:
    """What went wrong at first, in a line: torch's converter wraps it in advice to its own developers."""
    while error.__cause__ is not None and not isinstance(error, ExportError):
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__


def write_variant(
    quantizer: Quantizer, precision: str, paths: Mapping[str, Path], measure: Callable[[Mapping[str, Path]], Parity]
) -> tuple[Parity, str]:
    """Write one variant and measure it.

    Where quantizing everything costs too much, the layers that suffer most keep a higher precision, more of them until
    the outputs are close.

    Returns:
        the figures, and how the variant was made.
    """
    for keep in quantizer.rounds(precision):
        save((quantizer.make(role, precision, keep.get(role, ())) for role in paths), paths.values())
        parity = measure(paths)
        kept = sum(map(len, keep.values()))
        if close(precision, parity):
            break
    quantizer.settled[precision] = keep
    more = f"; {kept} layers in higher precision" if kept else ""
    return parity, quantizer.recipe(precision) + more
