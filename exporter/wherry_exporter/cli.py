"""`wherry export`: the command line of `wherry_exporter.export`. Imports torch only once the arguments are known."""

import argparse
import json

from wherry.bundle import SUFFIXES
from wherry.commands.common import short_warnings, variants_table
from wherry_exporter.export import export
from wherry_exporter.plan import ALGORITHMS
from wherry_exporter.tasks import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry export`."""
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder, a .gguf file or a hub repository id")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the bundle to write")
    parser.add_argument("--task", help=f"one of {', '.join(TASKS)} (default: inferred)")
    parser.add_argument(
        "--precision",
        metavar="P,P",
        type=lambda text: text.split(","),
        help=f"variants to write, the default one first: {', '.join(SUFFIXES)}; or auto, the fastest on this machine "
        "that loses little (default: fp32 and the task's smallest)",
    )
    add_quantization_arguments(parser)
    parser.add_argument("--revision", help="branch, tag or commit of the hub repository")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--json", action="store_true", help="print the manifest's figures as one JSON object")
    parser.epilog = (
        "examples:\n  wherry export ./all-MiniLM-L6-v2 --precision fp32,int8 -o minilm\n"
        "  wherry export smollm2.Q4_1.gguf --precision int4 -o smollm2\n"
        "  wherry export ./my-classifier --precision auto --verify-data reviews.jsonl --max-group-gap 0.02 -o mine"
    )


def add_quantization_arguments(parser: argparse.ArgumentParser) -> None:
    """How variants are made and what they are measured on."""
    making = parser.add_argument_group("quantization")
    making.add_argument(
        "--calibration",
        metavar="DATA",
        help="text, images or sounds that show what activations are like",
    )
    making.add_argument("--algorithm", default="gptq", help=f"of 4 bits: {', '.join(ALGORITHMS)} (default: gptq)")
    making.add_argument("--block-size", type=int, default=32, metavar="N", help="weights a scale (default: 32)")
    making.add_argument(
        "--asymmetric", dest="symmetric", action="store_false", help="4-bit blocks have a zero point of their own"
    )
    proof = parser.add_argument_group("proof")
    proof.add_argument(
        "--verify-data",
        metavar="DATA",
        help="measure on these rows too: .txt, .jsonl, images, sounds",
    )
    proof.add_argument("--max-accuracy-loss", type=float, metavar="X", help="refuse what loses more (auto: 0.01)")
    proof.add_argument("--max-group-gap", type=float, metavar="X", help="refuse what hurts one group so much more")


def run(arguments: argparse.Namespace) -> int:
    """Export, and print the table of variants."""
    short_warnings()
    options = vars(arguments)
    as_json = options.pop("json")
    bundle = export(**options)
    if as_json:
        variants = {
            name: {"bytes": variant.bytes, "parity": variant.parity, "speed": variant.speed}
            for name, variant in bundle.variants.items()
        }
        facts = {"folder": str(bundle.folder), "task": bundle.task, **bundle.provenance, "variants": variants}
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    print(variants_table(bundle))
    peak = bundle.provenance["peak_mb"]
    memory = f", at most {peak / 1000:.1f} GB of memory" if peak else ""
    print(f"\n{bundle.folder}: {bundle.task}, exported and verified in {bundle.provenance['seconds']:.0f} s{memory}")
    return 0
