"""`wherry chat`: talk to a model; each answer is streamed, and the conversation kept until it no longer fits."""

import argparse
import sys
from typing import Any

from wherry.commands.common import (
    add_generation_arguments,
    add_model_arguments,
    device_options,
    generation_options,
    short_warnings,
)
from wherry.errors import InputError
from wherry.pipelines import pipeline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry chat`."""
    add_model_arguments(parser)
    parser.add_argument("--system", help="what the model is told before the conversation")
    add_generation_arguments(parser)
    parser.epilog = "example:\n  wherry chat smollm2-bundle --system 'Answer in one sentence.'"


def run(arguments: argparse.Namespace) -> int:
    """Read a line, stream an answer, until the end of standard input; `/new` forgets what was said."""
    short_warnings()
    pipe: Any = pipeline(
        "text-generation",
        arguments.bundle,
        **device_options(arguments),
        precision=arguments.precision,
        threads=arguments.threads,
    )
    options = generation_options(arguments)
    system = [{"role": "system", "content": arguments.system}] if arguments.system else []
    messages: list[dict[str, str]] = [*system]
    person = sys.stdin.isatty()
    if person:
        print("Ctrl-D ends, /new begins a new conversation.", file=sys.stderr)
    while True:
        if person:
            sys.stderr.write("> ")
            sys.stderr.flush()
        try:
            line = sys.stdin.buffer.readline().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not UTF-8 text: byte {error.start} of the line") from error
        if not line:
            return 0
        if line.strip() == "/new":
            messages = [*system]
            continue
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.strip()})
        answer = ""
        for piece in pipe.stream(messages, **options):
            sys.stdout.write(piece)
            sys.stdout.flush()
            answer += piece
        sys.stdout.write("\n")
        messages.append({"role": "assistant", "content": answer})
