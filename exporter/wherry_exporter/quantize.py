"""A float32 graph, or a folder of them, that anybody made, to quantized variants that are measured against it.

Needs no checkpoint: what the float32 graphs compute is the reference.
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wherry.bundle import MANIFEST, SCHEMA, Bundle
from wherry.errors import BundleError
from wherry.files import read_json, written_aside
from wherry.hub import resolve
from wherry_exporter.card import record, write_card
from wherry_exporter.data import read_rows
from wherry_exporter.errors import ExportError, UsageError
from wherry_exporter.export import check_output, check_precisions, progress, tools
from wherry_exporter.load import CARRIED, named_templates
from wherry_exporter.memory import peak_mb
from wherry_exporter.plan import Plan, Settings

COPIED = (*CARRIED, "config.json", "generation_config.json", "1_Pooling/config.json")
"""What a model's folder has beside its graphs; whatever else lies there stays there."""


def quantize(
    source: str | Path,
    output: str | Path,
    *,
    precision: Sequence[str] | None = None,
    calibration: str | Path | None = None,
    algorithm: str = "imatrix",
    block_size: int = 32,
    symmetric: bool = True,
    verify_data: str | Path | None = None,
    max_accuracy_loss: float | None = None,
    max_group_gap: float | None = None,
    fast_prefill: bool = False,
    overwrite: bool = False,
) -> Bundle:
    """Quantize graphs that are there already.

    Args:
        source: an `.onnx` file in float32, a folder with one (a bundle, or what optimum or others wrote), or a hub
            repository id.
        output: the folder to write. It appears complete or not at all.
        precision: as for `export`; when None, `int8`, for decoders `int4`.
        calibration: as for `export`, like all that follow.
        algorithm: of 4 bits.
        block_size: 4-bit weights that share a scale.
        symmetric: whether 4-bit blocks have their zero point in the middle.
        verify_data: rows to measure on.
        max_accuracy_loss: refuse what loses more on them.
        max_group_gap: refuse what hurts one group so much more.
        fast_prefill: write another graph that reads prompts beside a decoder's.
        overwrite: replace `output` if it exists.

    Returns:
        the bundle as written. Its figures are those beside the float32 graphs.

    Raises:
        UsageError: an unknown precision or setting, data that does not fit, an output that exists, or a precision that
            would change nothing.
        BundleError, HubError: the source is not there or has no float32 graph.
        ExportError: a graph that cannot be read, quantized or run.
        ParityError: a variant differs from the float32 graphs more than its precision may; nothing is written.
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
    bundle = _source(source)
    if "fp32" not in bundle.variants:
        raise UsageError(f"{source} has no float32 graph to quantize: it has {', '.join(bundle.variants)}")
    with progress(2 + 2 * len(wanted or ("int8",))) as tell:
        try:
            with written_aside(target, overwrite=overwrite) as folder:
                _write(folder, bundle, str(source), plan, started, tell)
        except OSError as error:
            raise ExportError(f"cannot write {target}: {error.strerror or error}; nothing was left there") from error
        except MemoryError as error:
            raise ExportError(f"out of memory while quantizing {source}; nothing was written") from error
    return Bundle.load(target)


def _source(source: str | Path) -> Bundle:
    """What is to be quantized as a bundle, whose variant fp32 it is."""
    from wherry.bundle import Variant

    path = Path(source)
    if path.suffix != ".onnx":
        return Bundle.load(resolve(str(source)))
    if not path.is_file():
        raise BundleError(f"no such file: {path}")
    folder = path.parent.parent if path.parent.name == "onnx" else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    name = path.relative_to(folder).as_posix()
    return Bundle(folder, None, config, {"fp32": Variant("fp32", {"model": name}, {name: None})}, {}, {})


def _write(folder: Path, bundle: Bundle, source: str, plan: Plan, started: float, tell: Callable[..., None]) -> None:
    from wherry_exporter.convert import FAILURES, Traced
    from wherry_exporter.inputs import fixed_sizes
    from wherry_exporter.storage import remove, save
    from wherry_exporter.subject import GraphSubject
    from wherry_exporter.variants import write_variants

    for name in (*COPIED, *named_templates(bundle.folder)):
        if (bundle.folder / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name, folder / name)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps(dict(bundle.config)) + "\n", encoding="utf-8")
    (folder / "onnx").mkdir()
    tell("loading", 0)
    paths = {role: bundle.folder / name for role, name in bundle.variants["fp32"].graphs.items()}
    graphs = {role: _load(path) for role, path in paths.items()}
    try:
        traced = Traced(graphs, bundle.padding_side or "right")
        subject = GraphSubject(bundle, paths, graphs, plan)
        save(graphs.values(), [folder / f"onnx/{role}.onnx" for role in graphs])
        exact = subject.measure(paths)
        speed = subject.speed(paths) if "fp32" in plan.wanted(subject.precisions) else None
        variants = write_variants(folder, traced, subject, plan, subject, exact, speed, tell)
        if "fp32" not in variants:
            for role in graphs:
                remove(folder / f"onnx/{role}.onnx")
    except FAILURES as error:
        raise ExportError(f"{source} cannot be quantized: {' '.join(str(error).split())[:300]}") from error
    manifest = {
        "schema": SCHEMA,
        "task": bundle.task,
        "padding_side": bundle.padding_side,
        "provenance": {
            "source": Path(source).name,
            "revision": None,
            "licence": bundle.provenance.get("licence"),
            "architecture": next(iter(bundle.config.get("architectures") or ["a graph"])),
            "reference": "the float32 graphs",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "peak_mb": peak_mb(),
            "tools": tools(),
        },
        "sizes": fixed_sizes(graphs.values()),
        "variants": variants,
        "files": {},
    }
    write_card(folder, manifest)
    shared = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "onnx"]
    manifest["files"] = {path.relative_to(folder).as_posix(): record(path) for path in shared}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _load(path: Path) -> Any:
    """A graph with its weights in memory, and a name for every node."""
    import onnx_ir as ir
    from google.protobuf.message import DecodeError
    from onnx_ir.passes.common import NameFixPass

    try:
        graph = ir.load(path)
        ir.external_data.load_to_model(graph)
    except (OSError, DecodeError, ValueError, RuntimeError) as error:
        raise ExportError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    NameFixPass()(graph)
    return graph
