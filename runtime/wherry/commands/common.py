"""What several verbs share: the options of a model, texts from arguments or standard input, tables."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wherry.bundle import Bundle
from wherry.devices import parse_options
from wherry.errors import InputError


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """BUNDLE, --precision, --threads, and those of the device."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a hub repository id")
    add_device_arguments(parser, "auto")
    parser.add_argument("--precision", help="which variant to run (default: the bundle's first)")
    parser.add_argument("--threads", type=int, help="default: every core this process may use")


def add_device_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """--device, --provider-option, --allow-fallback."""
    parser.add_argument(
        "--device",
        default=default,
        help=f"auto, cpu, cuda[:N], tensorrt[:N], openvino[:N] or another that docs/run.md names (default: {default})",
    )
    parser.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for onnxruntime's execution provider, such as gpu_mem_limit=4000000000; repeatable",
    )
    parser.add_argument("--allow-fallback", action="store_true", help="run on the CPU where the device cannot")


def device_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where to run, as `pipeline` and `Session` take it."""
    return {
        "device": arguments.device,
        "provider_options": parse_options(arguments.provider_option),
        "allow_fallback": arguments.allow_fallback,
    }


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of text generation."""
    group = parser.add_argument_group("text generation")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="at most this many new tokens (default: 256)")
    group.add_argument("--max-length", type=int, metavar="N", help="at most this many tokens, prompt included")
    group.add_argument("--temperature", type=float, metavar="T", help="sample; below 1 is sharper")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens")
    group.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest that reach P together")
    group.add_argument(
        "--min-p", type=float, metavar="P", help="sample among tokens at least P times as likely as the best"
    )
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: fewer repetitions")
    group.add_argument("--num-beams", type=int, metavar="N", help="search with N beams")
    group.add_argument("--seed", type=int, help="makes sampling repeatable")
    group.add_argument("--json-schema", metavar="FILE", help="write JSON of this schema (extra: grammar)")
    group.add_argument("--regex", metavar="R", help="write what this regular expression matches (extra: grammar)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The generation options that were given."""
    names = (
        "max_new_tokens",
        "max_length",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "num_beams",
        "seed",
    )
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.stop:
        given["stop_strings"] = arguments.stop
    if arguments.json_schema:
        try:
            given["json_schema"] = Path(arguments.json_schema).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read --json-schema {arguments.json_schema}: {error}") from error
    if arguments.regex:
        given["regex"] = arguments.regex
    return given


def read_inputs(words: Sequence[str]) -> list[str]:
    """The texts or paths to run on: the arguments, or the lines of standard input.

    Raises:
        InputError: there are none, or standard input is not UTF-8.
    """
    if words:
        return list(words)
    if sys.stdin.isatty():
        print("reading standard input, one text or path a line; end with Ctrl-D", file=sys.stderr)
    try:
        lines = sys.stdin.buffer.read().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}"
        ) from error
    texts = [line.removesuffix("\r") for line in lines if line.strip()]
    if not texts:
        raise InputError("no text: give some as arguments or on standard input")
    return texts


def short_warnings() -> None:
    """Warnings as one line on standard error, like errors."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"wherry: {message}", file=sys.stderr)

    warnings.showwarning = show


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns under the first row; the first column to the left, the rest to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def variants_table(bundle: Bundle) -> str:
    """A bundle's variants: size, parity and speed, as far as its manifest tells."""
    names = list(dict.fromkeys(name for variant in bundle.variants.values() for name in variant.parity or {}))
    rows = [["variant", "MB", *(name.replace("_", " ") for name in names), "speed"]]
    for variant in bundle.variants.values():
        figures = variant.parity or {}
        size = variant.bytes or sum((bundle.folder / name).stat().st_size for name in variant.files)
        rows.append(
            [
                variant.precision,
                f"{size / 1e6:.1f}",
                *(f"{figures[name]:.4g}" if name in figures else "-" for name in names),
                f"{variant.speed}x" if variant.speed else "-",
            ]
        )
    return table(rows)
