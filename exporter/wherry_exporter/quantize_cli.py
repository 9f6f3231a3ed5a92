"""`wherry quantize`: the command line of `wherry_exporter.quantize`."""

import argparse

from wherry.bundle import SUFFIXES
from wherry_exporter.cli import add_quantization_arguments, show
from wherry_exporter.quantize import quantize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry quantize`."""
    parser.add_argument("source", metavar="SOURCE", help="a float32 .onnx file, a folder with one, or a repository id")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the bundle to write")
    parser.add_argument(
        "--precision",
        metavar="P,P",
        type=lambda text: text.split(","),
        help=f"variants to write: {', '.join(SUFFIXES)}, or auto (default: int8, for decoders int4)",
    )
    add_quantization_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print the manifest's figures as one JSON object")
    parser.epilog = (
        "examples:\n  wherry quantize model.onnx --precision int8,fp16 -o smaller\n"
        "  wherry quantize ./resnet50 --calibration photos/ --verify-data labelled.jsonl -o resnet50-int8"
    )


def run(arguments: argparse.Namespace) -> int:
    """Quantize, and print the table of variants."""
    options = vars(arguments)
    as_json = options.pop("json")
    return show(lambda: quantize(**options), as_json, "quantized")
