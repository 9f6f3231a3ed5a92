"""The variants of a traced model: written, measured, judged, timed, and told as the manifest has them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import onnx_ir as ir

from wherry.bundle import PREFILL, SUFFIXES
from wherry_exporter.activations import Feed
from wherry_exporter.build import in_short, write_variant
from wherry_exporter.card import record
from wherry_exporter.convert import FAILURES, Traced
from wherry_exporter.errors import ExportError, ParityError, UsageError
from wherry_exporter.examine import Examiner, Report, refuse
from wherry_exporter.plan import AUTO, READ_BY, Plan
from wherry_exporter.precision import Quantizer
from wherry_exporter.prefill import prefill_of
from wherry_exporter.probes import decoder_role
from wherry_exporter.quiet import quiet
from wherry_exporter.recommend import recommended
from wherry_exporter.rounded import runnable
from wherry_exporter.runners import GraphRunner
from wherry_exporter.storage import remove, save
from wherry_exporter.verify import Parity, judge

ACCURACY_LOSS = 0.01
"""What `auto` may lose where nothing is said."""


class Material(Protocol):
    """What variants are made with.

    Attributes:
        precisions: what is written where nothing else is asked for.
        real: whether calibration is on the user's own rows.
        synthetic: whether it is on random values.
        takes_rows: whether the user's own rows can be calibrated on.
        limit: the most tokens that the model takes.
        examiner: asks about the user's rows, if there are some.
    """

    precisions: Sequence[str]
    real: bool
    synthetic: bool
    takes_rows: bool
    limit: int
    examiner: Examiner | None

    def feeds(self, traced: Traced) -> Callable[[str], Sequence[Feed]]:
        """Gives the inputs of the graph of a role."""

    def tuner(self) -> Examiner | None:
        """Measures on the user's rows where random values are all that there is otherwise."""


class Proof(Protocol):
    """What variants are measured with."""

    def measure(self, graphs: Mapping[str, Path]) -> Parity:
        """Figures of the graphs, by role."""

    def speed(self, graphs: Mapping[str, Path]) -> float:
        """How many times as fast as the original the graphs run."""


def write_variants(
    folder: Path,
    traced: Traced,
    entries: Material,
    plan: Plan,
    verifier: Proof,
    exact: Parity,
    speed: float | None,
    tell: Callable[..., None],
) -> dict[str, dict[str, Any]]:
    """Write every variant that is planned; the float32 graphs are there already, and `exact` and `speed` are theirs.

    Returns:
        precision to its entry in the manifest, the default one first.

    Raises:
        UsageError: a precision that does not fit the model.
        ExportError: a variant cannot be made, or does not run.
        ParityError: a variant that is too far from the original.
    """
    wanted = plan.wanted(entries.precisions)
    with quiet():
        quantizer = Quantizer(traced.graphs, entries.feeds(traced), plan.settings, real=entries.real)
    precisions = _fitting(wanted, quantizer, entries, asked=plan.precisions is not None and plan.precisions != [AUTO])
    choose = plan.precisions == [AUTO]
    tuner = entries.tuner()

    def measure(beside: Mapping[str, Path], paths: Mapping[str, Path]) -> Parity:
        with runnable({**paths, **beside}) as given:
            return verifier.measure(given) if tuner is None else tuner.measure(GraphRunner(given)).parity

    prefill = {PREFILL: folder / f"onnx/{PREFILL}{SUFFIXES['int8']}.onnx"} if plan.fast_prefill else {}
    if prefill:
        tell("writing prefill", 0)
        with quiet(), TemporaryDirectory() as scratch:
            role = decoder_role(traced.graphs)
            graph = prefill_of(traced.graphs[role])
            behind = {each: folder / f"onnx/{each}.onnx" for each in traced.graphs} | {role: Path(scratch) / "8.onnx"}
            save([quantizer.make(role, "int8")], [behind[role]])
            reader = Quantizer({PREFILL: graph}, lambda _: quantizer.feeds(role), plan.settings, real=False)
            write_variant(reader, PREFILL, prefill, partial(measure, behind))

    limit = ACCURACY_LOSS if choose and plan.max_accuracy_loss is None else plan.max_accuracy_loss
    found: dict[str, dict[str, Any]] = {}
    tried: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        tell(f"writing {precision}")
        paths = {role: folder / f"onnx/{role}{SUFFIXES[precision]}.onnx" for role in traced.graphs}
        beside = prefill if precision in READ_BY else {}
        whole = {**paths, **beside}
        recipe, parity, pace = "as traced", exact, speed if precision == "fp32" else None
        if precision != "fp32":
            try:
                with quiet():
                    parity, recipe = write_variant(quantizer, precision, paths, partial(measure, beside))
            except FAILURES as error:
                raise ExportError(f"{precision} cannot be made: {in_short(error)}") from error
        if beside:
            recipe += "; prompts in 8-bit integers"
        report = None
        try:
            judge(precision, parity)
            if entries.examiner is not None:
                tell(f"examining {precision}", 0)
                with runnable(whole) as given:
                    report = entries.examiner.measure(GraphRunner(given))
                refuse(precision, report, None if precision == "fp32" else limit, plan.max_group_gap)
            elif choose and precision != "fp32":
                _refuse_loss(precision, parity, limit)
        except ParityError as error:
            if not choose or precision == "fp32":
                raise
            tried[precision] = {"refused": str(error), "parity": parity.as_dict()}
            for path in paths.values():
                remove(path)
            continue
        if precision not in ("fp32", "bf16"):
            tell(f"timing {precision}", 0)
            pace = verifier.speed(whole)
        tell(f"hashing {precision}")
        found[precision] = _entry(folder, traced.graphs, whole, parity, recipe, report, pace)
        options = recommended(traced.graphs, precision, entries.limit)
        if options:
            found[precision]["provider_options"] = options
    if not choose:
        return found
    fastest = max(found, key=lambda precision: found[precision]["speed"])
    tried |= {precision: {name: found[precision][name] for name in ("parity", "speed")} for precision in found}
    for precision in set(found) - {fastest, "fp32"}:
        for role in traced.graphs:
            remove(folder / f"onnx/{role}{SUFFIXES[precision]}.onnx")
    if fastest not in READ_BY:
        for path in prefill.values():
            remove(path)
    return {fastest: found[fastest] | {"candidates": {name: tried[name] for name in precisions}}}


def _fitting(wanted: Any, quantizer: Quantizer, entries: Material, *, asked: bool) -> list[str]:
    """The precisions that make sense, or a word on why one that was asked for does not."""
    kept = []
    for precision in wanted:
        quantized = precision not in ("fp32", "fp16", "bf16")
        blind = entries.synthetic and quantizer.static and precision in ("int8", "quantized")
        if precision == "uint8" and quantizer.generates:
            raise UsageError("uint8 is for models that run in one go: choose int8 or int4")
        if quantized and not quantizer.changes(precision):
            if asked:
                raise UsageError(f"{precision} would change nothing: the model has no products with weights")
        elif blind and not asked:
            continue  # activation ranges of random values are no promise for real ones
        else:
            if blind:
                advice = ": give --calibration" if entries.takes_rows else ""
                warnings.warn(
                    f"{precision} is calibrated on random values, which real ones may exceed{advice}", stacklevel=2
                )
            kept.append(precision)
    return kept


def _refuse_loss(precision: str, parity: Parity, limit: float | None) -> None:
    if parity.perplexity is not None and parity.perplexity_torch is not None:
        loss = parity.perplexity / parity.perplexity_torch - 1
    else:
        loss = 1 - (parity.cosine if parity.top1 is None else parity.top1)
    if limit is not None and loss > limit:
        raise ParityError(f"{precision} loses {loss:.4f} on the built-in inputs, limit {limit}")


def _entry(
    folder: Path,
    graphs: Mapping[str, ir.Model],
    paths: Mapping[str, Path],
    parity: Parity,
    recipe: str,
    report: Report | None,
    speed: float | None,
) -> dict[str, Any]:
    files = [file for path in paths.values() for file in sorted(path.parent.glob(path.name + "*"))]
    entry = {
        "graphs": {role: path.relative_to(folder).as_posix() for role, path in paths.items()},
        "files": {path.relative_to(folder).as_posix(): record(path) for path in files},
        "opset": next(iter(graphs.values())).opset_imports[""],
        "recipe": recipe,
        "parity": parity.as_dict(),
        "speed": None if speed is None else round(speed, 2),
    }
    return entry if report is None else entry | {"data": report.as_dict()}
