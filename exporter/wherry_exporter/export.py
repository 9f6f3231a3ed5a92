"""A pretrained model to a verified bundle: load, trace, fuse, quantize, verify, write. Reads as the data flows."""

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.bundle import ALIASES, MANIFEST, SCHEMA, SUFFIXES, Bundle
from wherry.files import sha256, written_aside
from wherry_exporter.errors import ExportError, UsageError
from wherry_exporter.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from wherry_exporter.load import Checkpoint

TOOLS = ("wherry", "torch", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


def export(
    model: "str | Path | PreTrainedModel",
    output: str | Path,
    *,
    task: str | None = None,
    precision: Sequence[str] | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    overwrite: bool = False,
) -> Bundle:
    """Convert a model to ONNX, quantize it, measure every variant against the original, and write a bundle.

    Args:
        model: a Hugging Face folder, a GGUF file, a hub repository id, or a loaded `PreTrainedModel`.
        output: the folder to write. It appears complete or not at all.
        task: what to export for; inferred when None.
        precision: which variants to write, the default one first: `fp32`, `int8`, and for decoders `int4`.
            When None, `fp32` and the smallest that the task has.
        revision: branch, tag or commit of a hub repository.
        tokenizer: for a loaded model that does not come from a folder.
        overwrite: replace `output` if it exists.

    Returns:
        the bundle as written.

    Raises:
        UsageError: an unknown precision, or an output that exists or cannot be written.
        HubError, TaskError: the model cannot be found, or not exported for that task.
        ExportError: the checkpoint cannot be read or traced, or the disk is full.
        ParityError: a variant differs from the original more than its precision may; nothing is written.
    """
    started = time.monotonic()
    target = Path(output).expanduser().absolute()
    wanted = _check_precisions(precision) if precision is not None else None
    _check_output(target, overwrite)

    from tqdm import tqdm

    with tqdm(total=4, bar_format="{desc:<42} {bar} {n_fmt}/{total_fmt} {elapsed}", disable=None, leave=False) as bar:

        def tell(step: str, done: int = 1) -> None:
            bar.set_description_str(step)
            bar.update(done)

        tell("loading", 0)
        from wherry_exporter.load import load

        checkpoint = load(model, task=task, revision=revision, tokenizer=tokenizer)
        able = TASKS[checkpoint.task].precisions
        precisions = wanted or list(dict.fromkeys((able[0], able[-1])))
        unfit = [name for name in precisions if name not in able]
        if unfit:
            raise UsageError(f"{checkpoint.task} cannot be exported as {', '.join(unfit)}: {', '.join(able)} can")
        bar.total = 2 + 2 * len(precisions)

        try:
            with written_aside(target, overwrite=overwrite) as folder:
                _write_bundle(folder, checkpoint, precisions, wanted is not None, started, tell)
        except OSError as error:
            raise ExportError(f"cannot write {target}: {error.strerror or error}; nothing was left there") from error
    return Bundle.load(target)


def _check_precisions(precision: Sequence[str]) -> list[str]:
    names = [ALIASES.get(name, name) for name in precision]
    known = sorted({name for task in TASKS.values() for name in task.precisions})
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(f"unknown precision '{', '.join(unknown)}': choose from {', '.join(known)}")
    return list(dict.fromkeys(names))


def _check_output(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists: choose another output or pass --overwrite")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file: choose a folder to write")
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).exists():
        raise UsageError(f"{target} is not a bundle: --overwrite replaces only bundles, choose another output")
    above = next(parent for parent in target.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write below {above}: choose another output")


def _write_bundle(
    folder: Path,
    checkpoint: "Checkpoint",
    precisions: Sequence[str],
    asked: bool,
    started: float,
    tell: Callable[..., None],
) -> None:
    from wherry_exporter.build import can_write, remove, trace_verified, write_variant
    from wherry_exporter.card import write_card
    from wherry_exporter.genai import write_genai_config
    from wherry_exporter.verify import judge

    for name, content in checkpoint.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    config: Any = checkpoint.model.config
    config.save_pretrained(folder)
    if TASKS[checkpoint.task].generates and checkpoint.model.generation_config is not None:
        checkpoint.model.generation_config.save_pretrained(folder)
    (folder / "onnx").mkdir()
    tell(f"tracing {type(checkpoint.model).__name__}")
    traced, verifier, exact = trace_verified(checkpoint, folder)
    unfit = [precision for precision in precisions if not can_write(traced, precision)]
    if unfit and asked:
        raise UsageError(f"{', '.join(unfit)} would change nothing: the model has no matrix products with weights")
    variants: dict[str, dict[str, Any]] = {}
    for precision in (precision for precision in precisions if precision not in unfit):
        tell(f"writing {precision}")
        paths = {role: folder / f"onnx/{role}{SUFFIXES[precision]}.onnx" for role in traced.graphs}
        parity = exact if precision == "fp32" else write_variant(traced, precision, paths, verifier)
        judge(precision, parity)
        tell(f"timing {precision}")
        files = [file for path in paths.values() for file in sorted(path.parent.glob(path.name + "*"))]
        variants[precision] = {
            "graphs": {role: path.relative_to(folder).as_posix() for role, path in paths.items()},
            "files": {path.relative_to(folder).as_posix(): _record(path) for path in files},
            "opset": next(iter(traced.graphs.values())).opset_imports[""],
            "parity": parity.as_dict(),
            "speed": round(verifier.speed(paths), 2),
        }
    if "fp32" not in precisions:
        for role in traced.graphs:
            remove(folder / f"onnx/{role}.onnx")
    manifest = {
        "schema": SCHEMA,
        "task": checkpoint.task,
        "padding_side": traced.padding_side,
        "provenance": {
            "source": checkpoint.source,
            "revision": checkpoint.revision,
            "licence": checkpoint.licence,
            "architecture": type(checkpoint.model).__name__,
            "parameters": sum(tensor.numel() for tensor in checkpoint.model.parameters()),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "tools": _tools(),
        },
        "variants": variants,
        "files": {},
    }
    write_card(folder, manifest)
    write_genai_config(folder, checkpoint.model, traced, next(iter(variants.values()))["graphs"])
    shared = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "onnx"]
    manifest["files"] = {path.relative_to(folder).as_posix(): _record(path) for path in shared}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _record(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def _tools() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
