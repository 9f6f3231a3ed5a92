"""`wherry run`: a model on texts or images, from the command line or standard input."""

import argparse
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wherry.commands.common import (
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    read_inputs,
    short_warnings,
)
from wherry.commands.draw import DRAWERS, draw
from wherry.commands.readable import plain, readable
from wherry.errors import InputError
from wherry.pipelines import TASKS, pipeline
from wherry.pipelines.base import Pipeline
from wherry.vision import read_image

TASK_OPTIONS = {
    "candidate_labels": ("labels", "cat,dog"),
    "threshold": ("threshold", "0.5"),
    "subtask": ("subtask", "semantic"),
    "query": ("query", "How do I cross the river?"),
    "question": ("question", "What is a wherry?"),
}
"""A pipeline's argument to the option for it, and an example of one."""


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
    group = parser.add_argument_group("texts that are asked for something")
    group.add_argument("--labels", metavar="A,B", help="what to look for, in images too, for zero-shot tasks")
    group.add_argument("--question", metavar="TEXT", help="what a text shall answer, for question-answering")
    group.add_argument("--query", metavar="TEXT", help="what texts are ordered for, for text-ranking")
    group = parser.add_argument_group("images")
    group.add_argument("--threshold", type=float, metavar="S", help="tell what scores more than S")
    group.add_argument("--subtask", help="of image-segmentation: panoptic, instance or semantic")
    group.add_argument("--output", metavar="FILE", help="draw what was found over the image, as a .png, .jpg or .webp")
    parser.epilog = (
        'examples:\n  wherry run gpt2-bundle "The river" --max-new-tokens 40 --stream\n'
        "  wherry run minilm-bundle --json < sentences.txt > vectors.jsonl\n"
        "  wherry run detr-bundle street.jpg --output found.png"
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
    if arguments.output:
        _check_output(pipe.task, inputs, arguments.output)
    if arguments.stream:
        for given in inputs:
            _stream(pipe, given, options)
        return 0
    for given, result in _results(pipe, inputs, options):
        print(json.dumps(plain(result), ensure_ascii=False) if arguments.json else readable(pipe.task, given, result))
        if arguments.output:
            draw(pipe.task, read_image(given), result).save(arguments.output)
    return 0


def _fitting(pipe: Pipeline, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, all of which the pipeline takes."""
    taken = inspect.signature(pipe.__call__).parameters
    generates = "options" in taken
    options = generation_options(arguments)
    for name, (option, example) in TASK_OPTIONS.items():
        value = getattr(arguments, option)
        if value is not None and name not in taken:
            raise InputError(f"--{option} is not for {pipe.task}")
        if value is not None:
            options[name] = value
        elif name in taken and (taken[name].default is inspect.Parameter.empty or name == "question"):
            raise InputError(f"{pipe.task} needs --{option}, such as --{option} '{example}'")
    if arguments.stream and not hasattr(pipe, "stream"):
        raise InputError(f"--stream is for text-generation and other tasks that write, not for {pipe.task}")
    for name in options:
        if not (generates or name in taken):
            option = name.removesuffix("_strings").replace("_", "-")
            raise InputError(f"--{option} is for text-generation and other tasks that write, not for {pipe.task}")
    if arguments.no_truncation:
        if pipe.task == "text-generation" or "truncation" not in taken:
            raise InputError(f"--no-truncation is for tasks that cut what is too long: {pipe.task} never does")
        options["truncation"] = False
    return options


def _check_output(task: str, inputs: Sequence[str], path: str) -> None:
    if task not in DRAWERS:
        raise InputError(f"--output is for {', '.join(DRAWERS)}, not for {task}")
    if len(inputs) > 1:
        raise InputError(f"--output is one picture: give one image, not {len(inputs)}")
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(f"--output must end in .png, .jpg or .webp, not be {path}")


def _results(pipe: Any, inputs: list[str], options: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Each input and its result: of files as they come, of texts all at once, for they are sorted by length."""
    if pipe.task == "text-ranking":
        return [(inputs[found["corpus_id"]], found) for found in pipe(documents=inputs, **options)]
    given: Any = tuple(inputs) if TASKS[pipe.task].takes == "text" else iter(inputs)
    if pipe.task == "question-answering":
        question = options["question"]
        given = tuple({"question": question, "context": text} for text in inputs)
        options = {name: value for name, value in options.items() if name != "question"}
    return zip(inputs, pipe(given, **options), strict=True)


def _stream(pipe: Any, given: str, options: Mapping[str, Any]) -> None:
    if pipe.task == "text-generation":
        sys.stdout.write(given)
    for piece in pipe.stream(given, **options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
