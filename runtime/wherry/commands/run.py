"""`wherry run`: a model on texts, images or sounds, from the command line or standard input."""

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wherry.commands.common import (
    add_generation_arguments,
    add_model_arguments,
    device_options,
    generation_options,
    read_inputs,
    short_warnings,
)
from wherry.commands.draw import DRAWERS, draw
from wherry.commands.readable import plain, readable
from wherry.commands.speak import save
from wherry.errors import InputError
from wherry.pipelines import TASKS, pipeline
from wherry.vision import read_image

OPTIONS = {
    "candidate_labels": ("labels", "cat,dog"),
    "threshold": ("threshold", "0.5"),
    "subtask": ("subtask", "semantic"),
    "points": ("points", "450,600"),
    "language": ("language", "en"),
    "task": ("translate", ""),
    "chunk_length_s": ("chunk-length", "30"),
    "return_timestamps": ("timestamps", "word"),
    "query": ("query", "How do I cross the river?"),
    "question": ("question", "What is a wherry?"),
    "speaker_embeddings": ("voice", "voice.npy"),
    "vocoder": ("vocoder", "bundles/hifigan"),
}
"""A pipeline's argument to the option for it, and an example of one."""

SPEECH = "text-to-audio"
ASKED = ("image-text-to-text", "audio-text-to-text")
"""Tasks whose inputs are asked about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry run`."""
    add_model_arguments(parser)
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        default=[],
        help="texts, or files where the model takes images or sounds (default: lines of standard input)",
    )
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)} (default: what the bundle is for)")
    parser.add_argument("--json", action="store_true", help="one JSON value a line, one line an input")
    parser.add_argument("--stream", action="store_true", help="print generated text as it comes")
    parser.add_argument("--no-truncation", action="store_true", help="refuse texts longer than the model takes")
    parser.add_argument(
        "--output", metavar="FILE", help="what was found, over the image (.png, .jpg, .webp), or what was said (.wav)"
    )
    add_task_arguments(parser)
    parser.epilog = (
        'examples:\n  wherry run gpt2-bundle "The river" --max-new-tokens 40 --stream\n'
        "  wherry run minilm-bundle --json < sentences.txt > vectors.jsonl\n"
        "  wherry run detr-bundle street.jpg --output found.png\n"
        '  wherry run smolvlm-bundle street.jpg --question "What is this?" --stream\n'
        "  wherry run whisper-bundle speech.wav --timestamps segment"
    )


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What pipelines are asked for beside their inputs."""
    add_generation_arguments(parser)
    group = parser.add_argument_group("texts that are asked for something")
    group.add_argument(
        "--labels", metavar="A,B", help="what to look for, in images and sounds too, for zero-shot tasks"
    )
    group.add_argument("--question", metavar="TEXT", help="what a text, an image or a sound shall answer")
    group.add_argument("--query", metavar="TEXT", help="what texts are ordered for, for text-ranking")
    group = parser.add_argument_group("images")
    group.add_argument("--threshold", type=float, metavar="S", help="tell what scores more than S")
    group.add_argument("--subtask", help="of image-segmentation: panoptic, instance or semantic")
    group.add_argument(
        "--points",
        metavar="X,Y",
        help="what masks are of, for mask-generation; several with spaces between",
    )
    group = parser.add_argument_group("sounds")
    group.add_argument("--language", metavar="L", help="of speech: en, german (default: found out)")
    group.add_argument(
        "--translate", action="store_const", const="translate", help="write speech of any language down in English"
    )
    group.add_argument("--timestamps", choices=["segment", "word", "char"], help="tell when each part was said")
    group.add_argument("--voice", metavar="FILE", help="what SpeechT5 speaks with: its speaker's embedding, a .npy")
    group.add_argument("--vocoder", metavar="MODEL", help="what makes a sound of SpeechT5's spectrograms: its HifiGan")
    group.add_argument("--chunk-length", type=float, metavar="S", help="cut speech into parts of so many seconds")


def _points(text: str) -> list[list[float]]:
    try:
        points = [[float(edge) for edge in point.split(",")] for point in text.split()]
    except ValueError:
        points = []
    if not points or any(len(point) != 2 for point in points):
        raise InputError(f"--points is '{text}': give points as 450,600 or '450,600 120,80'")
    return points


READ: Mapping[str, Callable[[str], Any]] = {
    "points": _points,
    "return_timestamps": lambda kind: True if kind == "segment" else kind,
}
"""What an option's words stand for, where not for themselves."""


def run(arguments: argparse.Namespace) -> int:
    """Run and print: for people by default, for programs with --json."""
    short_warnings()
    if arguments.stream and arguments.json:
        raise InputError("--stream goes without --json")
    inputs = read_inputs(arguments.inputs)
    pipe = pipeline(
        arguments.task,
        arguments.bundle,
        **device_options(arguments),
        precision=arguments.precision,
        threads=arguments.threads,
    )
    options = fitting(pipe, arguments)
    _check_output(pipe.task, inputs, arguments.output)
    if arguments.stream:
        for given in inputs:
            _stream(pipe, given, options)
        return 0
    for given, result in results(pipe, inputs, options):
        shown = save(result, Path(arguments.output)) if pipe.task == SPEECH else result
        print(json.dumps(plain(shown), ensure_ascii=False) if arguments.json else readable(pipe.task, given, shown))
        if arguments.output and pipe.task in DRAWERS:
            draw(pipe.task, read_image(given), result).save(arguments.output)
    return 0


def fitting(pipe: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, all of which the pipeline takes."""
    if arguments.stream and not hasattr(pipe, "stream"):
        raise InputError(f"--stream is for text-generation and other tasks that write, not for {pipe.task}")
    taken = dict(inspect.signature(pipe.stream if arguments.stream else pipe.__call__).parameters)
    if pipe.task in ASKED:
        taken |= inspect.signature(pipe.asking).parameters
    generates = "options" in taken
    options = generation_options(arguments)
    for name, (option, example) in OPTIONS.items():
        value = getattr(arguments, option.replace("-", "_"))
        if value is not None and name not in taken:
            raise InputError(f"--{option} is not for this model's {pipe.task}{' with --stream' * arguments.stream}")
        if value is not None:
            options[name] = READ[name](value) if name in READ else value
        elif name in taken and (taken[name].default is inspect.Parameter.empty or name == "question"):
            raise InputError(f"{pipe.task} needs --{option}, such as --{option} '{example}'")
    for name in options:
        if not (generates or name in taken):
            option = name.removesuffix("_strings").replace("_", "-")
            raise InputError(f"--{option} is for text-generation and other tasks that write, not for {pipe.task}")
    if arguments.no_truncation:
        if pipe.task in ("text-generation", *ASKED) or "truncation" not in taken:
            raise InputError(f"--no-truncation is for tasks that cut what is too long: {pipe.task} never does")
        options["truncation"] = False
    return options


def _check_output(task: str, inputs: Sequence[str], path: str | None) -> None:
    if path is None:
        if task == SPEECH:
            raise InputError("speech goes to a file: pass --output speech.wav")
        return
    if task not in (*DRAWERS, SPEECH):
        raise InputError(f"--output is for {', '.join((*DRAWERS, SPEECH))}, not for {task}")
    if len(inputs) > 1:
        raise InputError(f"--output is one file: give one input, not {len(inputs)}")
    endings = (".wav",) if task == SPEECH else (".png", ".jpg", ".jpeg", ".webp")
    if Path(path).suffix.lower() not in endings:
        raise InputError(f"--output must end in {', '.join(endings)}, not be {path}")


def results(pipe: Any, inputs: list[str], options: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Each input and its result: of files as they come, of texts all at once, for they are sorted by length."""
    if pipe.task == "text-ranking":
        return [(inputs[found["corpus_id"]], found) for found in pipe(documents=inputs, **options)]
    given: Any = tuple(inputs) if TASKS[pipe.task].takes == "text" else iter(inputs)
    if pipe.task in (*ASKED, "question-answering"):
        options = dict(options)
        question = options.pop("question")
        if pipe.task in ASKED:
            return ((each, pipe(pipe.asking(each, question), return_full_text=False, **options)) for each in inputs)
        given = tuple({"question": question, "context": text} for text in inputs)
    return zip(inputs, pipe(given, **options), strict=True)


def _stream(pipe: Any, given: Any, options: Mapping[str, Any]) -> None:
    if pipe.task == "text-generation":
        sys.stdout.write(given)
    if pipe.task in ASKED:
        options = dict(options)
        given = pipe.asking(given, options.pop("question"))
    for piece in pipe.stream(given, **options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
