"""`wherry run`: a model on texts or images, from the command line or standard input."""

import argparse
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from wherry.commands.common import (
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    read_inputs,
    short_warnings,
)
from wherry.commands.readable import plain, readable
from wherry.errors import InputError
from wherry.pipelines import TASKS, pipeline
from wherry.pipelines.base import Pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry run`."""
    add_model_arguments(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        default=[],
        help="texts, or files where the model takes images (default: lines of standard input)",
    )
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)} (default: what the bundle is for)")
    parser.add_argument("--json", action="store_true", help="one JSON value a line, one line an input")
    parser.add_argument("--stream", action="store_true", help="print generated text as it comes")
    parser.add_argument("--no-truncation", action="store_true", help="refuse texts longer than the model takes")
    add_generation_arguments(parser)
    parser.epilog = (
        'examples:\n  wherry run gpt2-bundle "The river" --max-new-tokens 40 --stream\n'
        "  wherry run minilm-bundle --json < sentences.txt > vectors.jsonl"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run and print: for people by default, for programs with --json."""
    short_warnings()
    if arguments.stream and arguments.json:
        raise InputError("--stream goes without --json")
    inputs = read_inputs(arguments.inputs)
    pipe = pipeline(
        arguments.task,
        arguments.bundle,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    options = _fitting(pipe, arguments)
    if arguments.stream:
        for given in inputs:
            _stream(pipe, given, options)
        return 0
    for given, result in zip(inputs, _results(pipe, inputs, options), strict=True):
        print(json.dumps(plain(result), ensure_ascii=False) if arguments.json else readable(pipe.task, given, result))
    return 0


def _fitting(pipe: Pipeline, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, all of which the pipeline takes."""
    taken = inspect.signature(pipe.__call__).parameters
    generates = "options" in taken
    options = generation_options(arguments)
    if arguments.stream and not hasattr(pipe, "stream"):
        raise InputError(f"--stream is for text-generation and other tasks that write, not for {pipe.task}")
    for name in options:
        if not generates and name not in taken:
            option = name.removesuffix("_strings").replace("_", "-")
            raise InputError(f"--{option} is for text-generation and other tasks that write, not for {pipe.task}")
    if arguments.no_truncation:
        if pipe.task == "text-generation" or "truncation" not in taken:
            raise InputError(f"--no-truncation is for tasks that cut what is too long: {pipe.task} never does")
        options["truncation"] = False
    return options


def _results(pipe: Any, inputs: list[str], options: Mapping[str, Any]) -> Iterable[Any]:
    """A result for each input; those of files as they come, those of texts together, for they are sorted by length."""
    given = inputs if TASKS[pipe.task].takes == "text" else iter(inputs)
    found: Iterable[Any] = pipe(given, **options)
    return found


def _stream(pipe: Any, given: str, options: Mapping[str, Any]) -> None:
    if pipe.task == "text-generation":
        sys.stdout.write(given)
    for piece in pipe.stream(given, **options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
