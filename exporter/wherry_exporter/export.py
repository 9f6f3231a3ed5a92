"""A pretrained model to a verified bundle: load, trace, fuse, quantize, verify, write. Reads as the data flows."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.bundle import ALIASES, MANIFEST, SCHEMA, SUFFIXES, Bundle
from wherry.files import written_aside
from wherry_exporter.card import record
from wherry_exporter.data import read_rows
from wherry_exporter.errors import ExportError, UsageError
from wherry_exporter.garbage import lasting_imports
from wherry_exporter.memory import peak_mb
from wherry_exporter.plan import AUTO, Plan, Settings
from wherry_exporter.tasks import TASKS, shape_of, task_of, writes_words_alone

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from wherry_exporter.load import Checkpoint

WRITE = ("music", "encoder-decoder")
"""Shapes of models that write, whatever their task."""
TOOLS = ("wherry", "torch", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


def export(
    model: "str | Path | PreTrainedModel",
    output: str | Path,
    *,
    task: str | None = None,
    precision: Sequence[str] | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    calibration: str | Path | None = None,
    algorithm: str = "imatrix",
    block_size: int = 32,
    symmetric: bool = True,
    verify_data: str | Path | None = None,
    max_accuracy_loss: float | None = None,
    max_group_gap: float | None = None,
    fast_prefill: bool = False,
    trust_remote_code: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Convert a model to ONNX, quantize it, measure every variant against the original, and write a bundle.

    Args:
        model: a Hugging Face folder, a GGUF file, a hub repository id, or a loaded `PreTrainedModel`.
        output: the folder to write. It appears complete or not at all.
        task: what to export for; inferred when None.
        precision: which variants to write, the default one first: `fp32`, `fp16`, `int8`, `uint8`, `quantized` (int8
            under the name that transformers.js looks for first), `int4`, `int4f16` and `bnb4`; or `auto` alone: the
            fastest on this machine of those that lose no more than `max_accuracy_loss`. When None, `fp32` and `int8`,
            for text generation `int4`.
        revision: branch, tag or commit of a hub repository.
        tokenizer: for a loaded model that does not come from a folder.
        calibration: rows (see `data.read_rows`) whose activations decide how weights are rounded; with them int8 of a
            model that runs in one go is static.
        algorithm: how 4-bit weights are rounded: `imatrix`, `gptq`, `k-quant`, `hqq` or `rtn`.
        block_size: 4-bit weights that share a scale.
        symmetric: whether 4-bit blocks have their zero point in the middle.
        verify_data: rows on which every variant is measured too, with labels for a metric and groups for slices.
        max_accuracy_loss: refuse a variant that loses more of the task's metric (of top-1 agreement without one) on
            `verify_data`; for `auto` the default is 0.01, without `verify_data` on the built-in inputs.
        max_group_gap: refuse a variant that costs one group of `verify_data` so much more than another.
        fast_prefill: write another graph beside that of a decoder in `int8` and `int4`, which reads prompts in 8-bit
            integers, for about a byte a weight more on disk and in memory.
        trust_remote_code: run the code that the model's folder or repository brings (`auto_map`).
        overwrite: replace `output` if it exists.

    Returns:
        the bundle as written.

    Raises:
        UsageError: an unknown precision or setting, data that does not fit, or an output that exists or cannot be
            written.
        HubError, TaskError: the model cannot be found, or not exported for that task.
        ExportError: the checkpoint cannot be read or traced, or the disk is full.
        ParityError: a variant differs from the original more than its precision may; nothing is written.
    """
    started = time.monotonic()
    target = Path(output).expanduser().absolute()
    wanted = check_precisions(precision) if precision is not None else None
    check_output(target, overwrite)
    plan = Plan(
        precisions=wanted,
        settings=Settings(algorithm, block_size, symmetric),
        calibration=None if calibration is None else read_rows(calibration),
        verify_data=None if verify_data is None else read_rows(verify_data),
        max_accuracy_loss=max_accuracy_loss,
        max_group_gap=max_group_gap,
        fast_prefill=fast_prefill,
    )

    with progress(2 + 2 * len(wanted or (1, 2))) as tell:
        tell("loading", 0)
        with lasting_imports():
            import wherry_exporter.build  # noqa: F401
            from wherry_exporter.load import load
        checkpoint = load(model, task=task, revision=revision, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
        try:
            with written_aside(target, overwrite=overwrite) as folder:
                _write_bundle(folder, checkpoint, plan, started, tell)
        except OSError as error:
            raise ExportError(f"cannot write {target}: {error.strerror or error}; nothing was left there") from error
        except MemoryError as error:
            raise ExportError(f"out of memory while exporting {checkpoint.source}; nothing was written") from error
    return Bundle.load(target)


@contextmanager
def progress(steps: int) -> Iterator[Callable[..., None]]:
    """A bar on standard error where that is a terminal, and what tells it the next step."""
    from tqdm import tqdm

    form = "{desc:<42} {bar} {n_fmt}/{total_fmt} {elapsed}"
    with tqdm(total=steps, bar_format=form, disable=None, leave=False) as bar:

        def tell(step: str, done: int = 1) -> None:
            bar.set_description_str(step)
            bar.update(done)

        yield tell


def check_precisions(precision: Sequence[str]) -> list[str]:
    names = [ALIASES.get(name, name) for name in precision]
    known = [*SUFFIXES, AUTO]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UsageError(f"unknown precision '{', '.join(unknown)}': choose from {', '.join(known)}")
    if AUTO in names and len(names) > 1:
        raise UsageError(f"precision auto stands alone: leave {', '.join(name for name in names if name != AUTO)} out")
    return list(dict.fromkeys(names))


def check_output(target: Path, overwrite: bool) -> None:
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
    folder: Path, checkpoint: "Checkpoint", plan: "Plan", started: float, tell: Callable[..., None]
) -> None:
    from wherry_exporter.build import in_short, refused, trace_verified
    from wherry_exporter.card import write_card
    from wherry_exporter.convert import FAILURES
    from wherry_exporter.entries import Entries
    from wherry_exporter.genai import write_genai_config
    from wherry_exporter.inputs import fixed_sizes
    from wherry_exporter.storage import remove
    from wherry_exporter.timm_form import name_labels
    from wherry_exporter.variants import write_variants

    for name, content in checkpoint.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    _config_of(checkpoint).save_pretrained(folder)
    name_labels(folder, checkpoint.model.config)
    generation = getattr(checkpoint.model, "generation_config", None)  # models that label frames (CTC) have none
    writes = TASKS[checkpoint.task].generates or shape_of(checkpoint.task, checkpoint.model) in WRITE
    if writes and generation is not None:
        generation.save_pretrained(folder)
    (folder / "onnx").mkdir()
    try:
        entries = Entries(checkpoint, folder, plan)
    except FAILURES as error:
        raise refused(checkpoint, f"it runs on no inputs that fit its configuration: {in_short(error)}") from error
    tell(f"tracing {type(checkpoint.model).__name__}")
    proven = trace_verified(checkpoint, folder, timed="fp32" in plan.wanted(entries.precisions))
    traced = proven.traced
    variants = write_variants(folder, traced, entries, plan, proven.verifier, proven.parity, proven.speed, tell)
    if "fp32" not in variants:
        for role in traced.graphs:
            remove(folder / f"onnx/{role}.onnx")
    if writes:
        _tell_transformers_js(folder, variants)
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
            "peak_mb": peak_mb(),
            "tools": tools(),
        },
        "sizes": fixed_sizes(traced.graphs.values()),
        "variants": variants,
        "files": {},
    }
    write_card(folder, manifest)
    write_genai_config(folder, checkpoint.model, traced, next(iter(variants.values()))["graphs"])
    shared = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "onnx"]
    manifest["files"] = {path.relative_to(folder).as_posix(): record(path) for path in shared}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config_of(checkpoint: "Checkpoint") -> Any:
    """The configuration that a bundle tells: of a model that writes about words alone, that of its text model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    whole: Any = checkpoint.model.config
    if not writes_words_alone(checkpoint.task, task_of(type(checkpoint.model))):
        return whole
    text = deepcopy(whole.get_text_config())
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
    if isinstance(name, str):
        text.architectures = [name]
    return text


def _tell_transformers_js(folder: Path, variants: Mapping[str, Any]) -> None:
    """Say in config.json, where transformers.js looks, which variants cache keys and values in float16."""
    halves = {SUFFIXES[name].removeprefix("_"): "float16" for name in variants if name in ("fp16", "int4f16")}
    if halves:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["transformers.js_config"] = {"kv_cache_dtype": halves}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def tools() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
