"""`wherry run`: a model on texts from the command line or standard input."""

import argparse
import json
import sys
from typing import Any

import numpy as np

from wherry.commands.common import (
    add_generation_arguments,
    add_model_arguments,
    device_options,
    generation_options,
    read_texts,
    short_warnings,
    table,
)
from wherry.errors import InputError
from wherry.pipelines import TASKS, pipeline
from wherry.pipelines.text2text_generation import Text2TextGenerationPipeline
from wherry.pipelines.text_generation import TextGenerationPipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry run`."""
    add_model_arguments(parser)
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", default=[], help="texts to run on (default: lines of standard input)"
    )
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)} (default: what the bundle is for)")
    parser.add_argument("--json", action="store_true", help="one JSON value a line, one line a text")
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
    texts = read_texts(arguments.texts)
    pipe = pipeline(
        arguments.task,
        arguments.bundle,
        **device_options(arguments),
        precision=arguments.precision,
        threads=arguments.threads,
    )
    options = generation_options(arguments)
    if arguments.stream and arguments.json:
        raise InputError("--stream goes without --json")
    if isinstance(pipe, TextGenerationPipeline | Text2TextGenerationPipeline):
        if isinstance(pipe, Text2TextGenerationPipeline):
            options["truncation"] = not arguments.no_truncation
        elif arguments.no_truncation:
            raise InputError("--no-truncation is for other tasks: text-generation never cuts a prompt")
        if arguments.stream:
            for text in texts:
                _stream(pipe, text, options)
            return 0
    elif options or arguments.stream:
        option = "stream" if arguments.stream else next(iter(options)).removesuffix("_strings").replace("_", "-")
        raise InputError(f"--{option} is for text-generation and text2text-generation, which this model does not do")
    else:
        options["truncation"] = not arguments.no_truncation
    results = pipe(texts, **options)
    for text, result in zip(texts, results, strict=True):
        print(json.dumps(_plain(result), ensure_ascii=False) if arguments.json else _readable(text, result))
    return 0


def _stream(pipe: TextGenerationPipeline | Text2TextGenerationPipeline, text: str, options: dict[str, Any]) -> None:
    if isinstance(pipe, TextGenerationPipeline):
        sys.stdout.write(text)
    for piece in pipe.stream(text, **options):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _readable(text: str, result: Any) -> str:
    """A result for people."""
    if isinstance(result, np.ndarray):
        vector = result.reshape(-1, result.shape[-1])
        start = ", ".join(f"{value:.4f}" for value in vector[0, :6])
        return f"{text}\n  {' x '.join(map(str, result.shape))} floats: [{start}, ...]"
    if isinstance(result, dict):
        bar = "#" * round(result["score"] * 20)
        return f"{text}\n  {result['label']:<20} {result['score']:.4f} {bar}"
    written = [name for name in ("generated_text", "summary_text", "translation_text") if result and name in result[0]]
    if written:
        return "\n".join(str(each[written[0]]) for each in result)
    if not result:
        return f"{text}\n  nothing found"
    name = "entity" if "entity" in result[0] else "entity_group"
    rows = [["label", "text", "score", "from", "to"]]
    rows += [
        [
            each[name],
            text[each["start"] : each["end"]],
            f"{each['score']:.4f}",
            str(each["start"]),
            str(each["end"]),
        ]
        for each in result
    ]
    return f"{text}\n{table(rows)}"
