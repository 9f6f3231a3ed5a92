"""Times candidates side by side: rounds in balanced order after a warm-up, medians, a table, then one JSON line."""

import json
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median

from wherry.bundle import Bundle
from wherry.commands.common import table
from wherry.hub import cache_folder
from wherry.session import thread_count
from wherry_exporter import export
from wherry_exporter.samples import sample

Runs = Mapping[str, Mapping[str, Callable[[], int]]]
"""Workload to candidate to a function that does the work once and returns how many items it did."""


def bundle(name: str, precisions: list[str], *, fast_prefill: bool = False) -> Bundle:
    """The bundle of a sample model, exported anew where this version has not done so yet."""
    parts = [version("wherry"), name, *precisions, *(["prefill"] if fast_prefill else [])]
    folder = cache_folder() / "benchmarks" / "-".join(parts)
    if folder.exists():
        return Bundle.load(folder)
    return export(sample(name), folder, precision=precisions, fast_prefill=fast_prefill)


def compare(title: str, unit: str, runs: Runs, *, rounds: int = 7) -> None:
    """Run every workload with every candidate in turn, about `rounds` times, and print medians of items per second."""
    rates: dict[str, dict[str, float]] = {}
    for workload, candidates in runs.items():
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        for run in candidates.values():
            run()
        for order in balanced(list(candidates), rounds):
            for name in order:
                start = time.perf_counter()
                count = candidates[name]()
                taken[name].append(count / (time.perf_counter() - start))
        rates[workload] = {name: median(values) for name, values in taken.items()}
    names = list(dict.fromkeys(name for candidates in rates.values() for name in candidates))
    rows = [[f"{title}, {unit}", *names]]
    rows += [
        [workload, *(f"{values[name]:.1f}" if name in values else "-" for name in names)]
        for workload, values in rates.items()
    ]
    print(table(rows))
    tools = {name: version(name) for name in ("wherry", "onnxruntime", "torch", "transformers")}
    facts = {"benchmark": title, "unit": unit, "machine": machine(), "tools": tools, "rounds": rounds, "median": rates}
    print(json.dumps(facts))


def balanced(names: list[str], rounds: int) -> list[list[str]]:
    """Orders in which each candidate follows each other one as often, or once more.

    What follows one that leaves the processor cool is faster, by up to a fifth.
    Those of E. J. Williams, Experimental designs balanced for the estimation of residual effects of treatments (1949);
    of an odd number, one that does nothing is added. As many as make whole squares, near to `rounds`.
    """
    size = len(names) + len(names) % 2
    first = [0, *(place for pair in zip(range(1, size), range(size - 1, 0, -1), strict=True) for place in pair)][:size]
    square = [[(place + shift) % size for place in first] for shift in range(size)]
    orders = [[names[place] for place in row if place < len(names)] for row in square]
    return orders * max(1, round(rounds / size))


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {thread_count()} threads"
