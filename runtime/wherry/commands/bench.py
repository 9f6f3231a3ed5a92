"""`wherry bench`: how fast a bundle's variants run on this machine, side by side."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from wherry import devices
from wherry.bundle import Bundle
from wherry.commands.common import add_model_arguments, device_options, short_warnings, table
from wherry.commands.run import add_task_arguments, fitting, results
from wherry.errors import BundleError, DeviceError, InputError, SessionError
from wherry.hub import resolve
from wherry.pipelines import TASKS, pipeline

TEXT = "A wherry is a light boat that carries people and their goods across the river."
NEW_TOKENS = 32
TURNS = 5


@dataclass
class Timed:
    """One variant's figures.

    Attributes:
        load: seconds until it was loaded.
        first: seconds of the first call, which sets up what later ones use.
        tokens: that a call writes; None for tasks that do not write.
        placement: how many nodes each execution provider runs.
        calls: seconds of the others.
        piece: seconds up to the first piece of text, where it can be streamed.
    """

    precision: str
    load: float
    first: float
    tokens: int | None
    placement: Mapping[str, int]
    calls: list[float] = field(default_factory=list)
    piece: float | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry bench`."""
    add_model_arguments(parser)
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="*", help="texts or files, all in one call (default: a sentence)"
    )
    parser.add_argument("--task", help="default: what the bundle is for")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="time of each variant (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_task_arguments(parser)
    parser.set_defaults(stream=False, no_truncation=False)
    parser.epilog = (
        "--precision takes several, such as fp32,int8; without it every variant is timed.\n\n"
        "examples:\n  wherry bench minilm-bundle\n"
        '  wherry bench smollm2-bundle "Once upon a time" --max-new-tokens 64 --precision int8,int4\n'
        "  wherry bench detr-bundle street.jpg --device cuda --json"
    )


def run(arguments: argparse.Namespace) -> int:
    """Time the variants in turn and print a table, or JSON with --json."""
    short_warnings()
    if arguments.seconds <= 0:
        raise InputError(f"--seconds must be more than 0, not {arguments.seconds:g}")
    if not arguments.allow_fallback:
        devices.resolve(arguments.device)
    bundle = Bundle.load(resolve(arguments.bundle))
    asked = arguments.precision.split(",") if arguments.precision else None
    variants = [bundle.variant(precision).precision for precision in asked or bundle.variants]
    timed: list[tuple[Timed, Callable[[], Any]]] = []
    for precision in dict.fromkeys(variants):
        try:
            timed.append(_opened(arguments, precision))
        except (BundleError, DeviceError, SessionError) as error:
            if asked or len(bundle.variants) == 1:
                raise
            print(f"wherry: {precision} is left out: {error}", file=sys.stderr)
    if not timed:
        raise BundleError(f"{bundle.folder} has no variant that runs on device '{arguments.device}'")
    _time(timed, arguments.seconds)
    facts = {each.precision: _facts(each, len(arguments.inputs or [TEXT])) for each, _ in timed}
    print(json.dumps(facts) if arguments.json else _shown(facts))
    return 0


def _opened(arguments: argparse.Namespace, precision: str) -> tuple[Timed, Callable[[], Any]]:
    """A variant after its first call, and the call."""
    start = time.perf_counter()
    pipe = pipeline(
        arguments.task,
        arguments.bundle,
        **device_options(arguments),
        precision=precision,
        threads=arguments.threads,
    )
    load = time.perf_counter() - start
    inputs = arguments.inputs or [TEXT]
    if not arguments.inputs and TASKS[pipe.task].takes != "text":
        raise InputError(f"{pipe.task} needs a file to run on: `wherry bench {arguments.bundle} FILE`")
    options = fitting(pipe, arguments)
    tokens = None
    if hasattr(pipe, "defaults") and TASKS[pipe.task].takes != "sound":  # a task that writes, always as much
        tokens = options.setdefault("max_new_tokens", NEW_TOKENS)
        options["min_new_tokens"] = tokens

    def call() -> None:
        for _ in results(pipe, inputs, options):
            pass

    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    placement: dict[str, int] = {}
    for session in pipe.sessions.values():
        for provider, count in session.placement().items():
            placement[provider] = placement.get(provider, 0) + count
    found = Timed(precision, load, first, tokens, placement)
    if pipe.task == "text-generation":
        found.piece = median(_until_piece(pipe, inputs[0], options) for _ in range(3))
    return found, call


def _until_piece(pipe: Any, text: str, options: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    next(pipe.stream(text, **options))
    return time.perf_counter() - start


def _time(timed: Sequence[tuple[Timed, Callable[[], Any]]], seconds: float) -> None:
    """Call each until it has run that long, in turns of a fifth of it."""
    for _ in range(TURNS):
        for each, call in timed:
            end = time.perf_counter() + seconds / TURNS
            while True:
                start = time.perf_counter()
                call()
                each.calls.append(time.perf_counter() - start)
                if time.perf_counter() > end:
                    break


def _facts(timed: Timed, inputs: int) -> dict[str, Any]:
    calls = sorted(timed.calls)
    middle = median(calls)
    facts: dict[str, Any] = {
        "load_s": round(timed.load, 3),
        "first_call_ms": round(timed.first * 1e3, 2),
        "call_ms": round(middle * 1e3, 2),
        "call_ms_p95": round(calls[min(len(calls) - 1, int(0.95 * len(calls)))] * 1e3, 2),
        "calls": len(calls),
        "inputs_per_s": round(inputs / middle, 2),
    }
    if timed.tokens is not None:
        facts["new_tokens_per_s"] = round(inputs * timed.tokens / middle, 1)
    if timed.piece is not None:
        facts["first_piece_ms"] = round(timed.piece * 1e3, 2)
    return facts | {"placement": dict(timed.placement)}


def _shown(facts: Mapping[str, Mapping[str, Any]]) -> str:
    names = [name for name in next(iter(facts.values())) if name != "placement"]
    rows = [[precision, *(f"{each[name]:g}" for name in names)] for precision, each in facts.items()]
    placed = [
        f"{precision}: " + ", ".join(f"{count} nodes on {provider}" for provider, count in each["placement"].items())
        for precision, each in facts.items()
    ]
    head = [name.replace("_per_s", "/s").replace("_", " ") for name in names]
    return "\n".join([table([["variant", *head], *rows]), "", *placed])
