"""What flows through a graph on given inputs: the numbers that decide how it is quantized. Changes nothing."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime import InferenceSession, SessionOptions

from wherry.session import thread_count
from wherry_exporter.blocks import Moments
from wherry_exporter.unpack import initializer

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]
CHUNK = 128
"""Values looked at in one run; more would hold more memory."""
MASKING = 1e30
"""Elements beyond this stand for minus infinity, and may as well be float16's lowest."""


class Watch:
    """A graph some of whose inner values can be seen. All others vanish while it runs, as they do otherwise.

    Values computed inside the branches of an If are not visible from outside, and left out.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feed], names: Sequence[str]) -> None:
        """Prepare.

        Args:
            model: stays as it is.
            feeds: inputs to run it on.
            names: of values to see; those that are not float32 are left out.
        """
        self.feeds = feeds
        watched = model.clone()
        computed = {str(value.name): value for node in watched.graph for value in node.outputs if value.name}
        wanted = [name for name in dict.fromkeys(names) if name in computed]
        shown = [name for name in wanted if computed[name].dtype in (None, ir.DataType.FLOAT)]
        given = {str(value.name) for value in watched.graph.inputs}
        self.given = [name for name in dict.fromkeys(names) if name in given]
        listed = {str(value.name) for value in watched.graph.outputs}
        watched.graph.outputs.extend(computed[name] for name in shown if name not in listed)
        with tempfile.TemporaryDirectory() as scratch:
            self.session = _session(watched, scratch)
        # Where a graph does not tell the type of a value, onnxruntime does.
        floats = {port.name for port in self.session.get_outputs() if port.type == "tensor(float)"}
        self.seen = [name for name in shown if name in floats]

    def values(self) -> Iterator[tuple[str, list[Array]]]:
        """Name, and the value for each feed."""
        for name in self.given:
            yield name, [feed[name] for feed in self.feeds]
        for first in range(0, len(self.seen), CHUNK):
            chunk = self.seen[first : first + CHUNK]
            runs = [self.session.run(chunk, dict(feed)) for feed in self.feeds]
            yield from zip(chunk, (list(each) for each in zip(*runs, strict=True)), strict=True)

    def rows(self, name_and_values: tuple[str, list[Array]]) -> Array:
        """A value's vectors along its last axis, those of padding left out where it has the mask's axes."""
        return np.concatenate([_real(value, feed) for feed, value in zip(self.feeds, name_and_values[1], strict=True)])

    def products(self) -> Iterator[tuple[str, Moments]]:
        """Second moments of the vectors of each value, with those of pairs of elements."""
        for found in self.values():
            rows = self.rows(found)
            pairs = (rows.T @ rows.astype(np.float64)) / len(rows)
            yield found[0], Moments(np.square(rows).mean(0), pairs, len(rows))

    def squares(self) -> dict[str, Moments]:
        """Mean squares of the elements of each value's vectors. One feed's values are in memory at a time."""
        sums: dict[str, Array] = {}
        counts: dict[str, int] = {}
        for feed in self.feeds:
            seen = self.session.run(self.seen, dict(feed)) if self.seen else []
            for name, value in [*((name, feed[name]) for name in self.given), *zip(self.seen, seen, strict=True)]:
                rows = _real(value, feed)
                sums[name] = sums.get(name, 0) + np.square(rows).sum(0, dtype=np.float64)
                counts[name] = counts.get(name, 0) + len(rows)
        return {name: Moments((sums[name] / counts[name]).astype(np.float32), None, counts[name]) for name in sums}


def _real(value: Array, feed: Feed) -> Array:
    """A value's vectors along its last axis, those of padding left out where it has the mask's axes."""
    mask = feed.get("attention_mask")
    if mask is not None and value.ndim == 3 and value.shape[:2] == mask.shape:
        return np.asarray(value[mask.astype(bool)])
    return value.reshape(-1, value.shape[-1])


def largest(model: ir.Model, feeds: Sequence[Feed]) -> dict[str, float]:
    """The largest absolute element of each float32 value of a graph, those that only mask others left out.

    Computed inside the graph, so that nothing but one number a value comes out.
    """
    watched = model.clone()
    graph = watched.graph
    bound, zero = (initializer(graph, f"largest.{number}", np.array(number, np.float32)) for number in (MASKING, 0))
    none, every = (
        initializer(graph, "largest.none", np.zeros(1, np.float32)),
        initializer(graph, "largest.all", np.array([-1])),
    )
    inputs = [value for value in graph.inputs if value.dtype == ir.DataType.FLOAT]
    computed = [value for node in graph for value in node.outputs if value.name and value.dtype == ir.DataType.FLOAT]
    names, numbers = [], []
    for value in [*inputs, *computed]:
        size = ir.node("Abs", [value])
        real = ir.node("Less", [size.outputs[0], bound])
        kept = ir.node("Where", [real.outputs[0], size.outputs[0], zero])
        flat = ir.node("Reshape", [kept.outputs[0], every])
        some = ir.node("Concat", [flat.outputs[0], none], {"axis": 0})  # an empty cache has no largest element
        most = ir.node("ReduceMax", [some.outputs[0]], {"keepdims": 0})
        most.outputs[0].name, most.outputs[0].type = f"{value.name}.largest", ir.TensorType(ir.DataType.FLOAT)
        most.outputs[0].shape = ir.Shape([])
        graph.extend([size, real, kept, flat, some, most])
        names.append(str(value.name))
        numbers.append(most.outputs[0])
    graph.outputs[:] = numbers
    with tempfile.TemporaryDirectory() as scratch:
        session = _session(watched, scratch)
        runs = [session.run(None, {name: feed[name] for name in _ports(session)}) for feed in feeds]
    return {name: max(map(float, each)) for name, each in zip(names, zip(*runs, strict=True), strict=True)}


def _ports(session: InferenceSession) -> list[str]:
    return [port.name for port in session.get_inputs()]


def _session(model: ir.Model, folder: str) -> InferenceSession:
    path = Path(folder) / "model.onnx"
    ir.save(model, path, external_data="weights")
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = thread_count(), 3
    options.enable_cpu_mem_arena = False
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])
