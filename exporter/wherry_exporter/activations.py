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

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]
CHUNK = 24
"""Values looked at in one run; more would hold more memory."""


class Watch:
    """A graph whose inner values can be seen.

    Values computed inside the branches of an If are not visible from outside, and left out.
    """

    def __init__(self, model: ir.Model, feeds: Sequence[Feed]) -> None:
        self.feeds = feeds
        watched = model.clone()
        computed = {str(value.name): value for node in watched.graph for value in node.outputs if value.name}
        self.floats = [name for name, value in computed.items() if value.dtype == ir.DataType.FLOAT]
        self.given = {str(value.name) for value in watched.graph.inputs}
        listed = {str(value.name) for value in watched.graph.outputs}
        watched.graph.outputs.extend(computed[name] for name in self.floats if name not in listed)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            ir.save(watched, path, external_data="weights")
            options = SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = thread_count(), 3
            self.session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def values(self, names: Sequence[str]) -> Iterator[tuple[str, list[Array]]]:
        """Name, and the value for each feed."""
        inner = set(self.floats)
        for name in dict.fromkeys(name for name in names if name in self.given):
            yield name, [feed[name] for feed in self.feeds]
        seen = list(dict.fromkeys(name for name in names if name in inner))
        for first in range(0, len(seen), CHUNK):
            chunk = seen[first : first + CHUNK]
            runs = [self.session.run(chunk, dict(feed)) for feed in self.feeds]
            yield from zip(chunk, (list(each) for each in zip(*runs, strict=True)), strict=True)

    def rows(self, name_and_values: tuple[str, list[Array]]) -> Array:
        """A value's vectors along its last axis, those of padding left out where it has the mask's axes."""
        kept = []
        for feed, value in zip(self.feeds, name_and_values[1], strict=True):
            mask = feed.get("attention_mask")
            if mask is not None and value.ndim == 3 and value.shape[:2] == mask.shape:
                kept.append(value[mask.astype(bool)])
            else:
                kept.append(value.reshape(-1, value.shape[-1]))
        return np.concatenate(kept)

    def moments(self, names: Sequence[str]) -> Iterator[tuple[str, Moments]]:
        """Second moments of the vectors of each value."""
        for found in self.values(names):
            rows = self.rows(found).astype(np.float64)
            yield found[0], Moments(rows.T @ rows, len(rows))

    def largest(self) -> dict[str, float]:
        """The largest absolute element of each float value that is finite."""
        found: dict[str, float] = {}
        for name, values in self.values([*self.given, *self.floats]):
            for value in values:
                if value.dtype == np.float32 and value.size:
                    finite = np.abs(value[np.isfinite(value)])
                    found[name] = max(found.get(name, 0.0), float(finite.max()) if finite.size else 0.0)
        return found
