"""What the original and its graphs compute where there are several graphs of unlike inputs.

Knows nothing of how a graph was made and does not judge what it finds.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wherry_exporter.load import Checkpoint
from wherry_exporter.probes import Graphs, ModelProbe, Pair


class PartsProbe:
    """A model and parts of it, each in a graph of its own; a folder of others may lack some of them."""

    def __init__(self, parts: Mapping[str, Checkpoint], folder: Path) -> None:
        self.probes = {role: ModelProbe(part, folder) for role, part in parts.items()}
        self.calibration = {role: probe.calibration["model"] for role, probe in self.probes.items()}

    def pairs(self, graphs: Graphs) -> list[tuple[str, Pair]]:
        found = [self.probes[role].pairs({"model": path}) for role, path in graphs.items()]
        return [pair for pairs in found for pair in pairs]

    def losses(self, graphs: Graphs) -> None:  # noqa: ARG002
        return None

    def racers(self, graphs: Graphs) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return self.probes["model"].racers(graphs)
