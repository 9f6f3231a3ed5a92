"""Times candidates side by side: rounds in random order after a warm-up, medians, a table, then one JSON line."""

import json
import platform
import random
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
    """Run every workload with every candidate in turn, `rounds` times, and print medians of items per second.

    Each round has another order: what runs behind a candidate that leaves the processor cool is faster.
    """
    order = random.Random(0)
    rates: dict[str, dict[str, float]] = {}
    for workload, candidates in runs.items():
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        for turn in range(rounds + 1):
            for name, run in order.sample(list(candidates.items()), len(candidates)):
                start = time.perf_counter()
                count = run()
                if turn:
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


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {thread_count()} threads"
