"""Graphs on disk that are proven: the float32 ones that compute what the original does, and their smaller variants.

Knows nothing of bundles or checkpoints' files.
"""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from wherry_exporter.convert import FAILURES, Traced
from wherry_exporter.errors import ExportError
from wherry_exporter.fuse import fuse
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import NotLowered
from wherry_exporter.probes import DecoderProbe, EncoderDecoderProbe, ModelProbe
from wherry_exporter.probes_multimodal import PartsProbe, VisionLanguageProbe
from wherry_exporter.quantize import dynamic_int8, ends_first, has_products, weight_only, worst_first
from wherry_exporter.quiet import quiet
from wherry_exporter.trace import ways
from wherry_exporter.verify import Parity, Verifier, close, judge


def trace_verified(checkpoint: Checkpoint, folder: Path) -> tuple[Traced, Verifier, Parity]:
    """Trace in the first way whose float32 graphs, written into `folder`, compute what the original does.

    Raises:
        ExportError: none does; the message gathers each way's reason.
    """
    reasons = []
    for name, way in ways(checkpoint).items():
        try:
            with quiet():
                traced = way(checkpoint)
            paths = {role: folder / f"onnx/{role}.onnx" for role in traced.graphs}
            for role, graph in traced.graphs.items():
                save(fuse(graph), paths[role])
            verifier = Verifier(checkpoint, folder, traced.padding_side)
            parity = verifier.measure(paths)
            judge("fp32", parity)
            return traced, verifier, parity
        except (NotLowered, ExportError, *FAILURES) as error:
            reasons.append(f"{name}: {' '.join(str(error).split())[:200] or type(error).__name__}")
            for path in (folder / "onnx").iterdir():
                path.unlink()
    kind = type(checkpoint.model).__name__
    raise ExportError(f"{kind} cannot be exported for {checkpoint.task}: {'; '.join(reasons)}")


def can_write(traced: Traced, precision: str) -> bool:
    """Whether a precision changes anything in the graphs."""
    return precision == "fp32" or any(has_products(graph) for graph in traced.graphs.values())


def write_variant(traced: Traced, precision: str, paths: Mapping[str, Path], verifier: Verifier) -> Parity:
    """Write one variant and measure it.

    Models that generate are quantized weight-only, all others dynamically. Where quantizing everything costs too
    much, the layers that suffer most keep a higher precision (float32 beside dynamic int8, 8 bits beside 4), more of
    them until the outputs are close.
    """
    graphs, probe = traced.graphs, verifier.probe
    if isinstance(probe, EncoderDecoderProbe | VisionLanguageProbe):
        for role, graph in graphs.items():
            save(weight_only(graph, 8), paths[role])
        return verifier.measure(paths)
    if isinstance(probe, DecoderProbe):
        if precision == "int8":
            save(weight_only(graphs["model"], 8), paths["model"])
            return verifier.measure(paths)
        orders = {"model": ends_first(graphs["model"])}
    else:
        assert isinstance(probe, ModelProbe | PartsProbe)
        orders = {role: worst_first(graphs[role], feeds) for role, feeds in probe.calibration.items()}
    for share in (0, 1 / 12, 1 / 8, 1 / 4, 1 / 2):
        for role, order in orders.items():
            keep = order[: round(len(order) * share)]
            graph = weight_only(graphs[role], 4, keep) if precision == "int4" else dynamic_int8(graphs[role], keep)
            save(graph, paths[role])
        parity = verifier.measure(paths)
        if close(parity):
            break
    return parity


def remove(path: Path) -> None:
    for file in path.parent.glob(path.name + "*"):
        file.unlink()


def save(graph: ir.Model, path: Path) -> None:
    """Write a graph with its weights beside it, which onnxruntime maps instead of parsing."""
    remove(path)
    ir.save(graph, path, external_data=f"{path.name}_data")
