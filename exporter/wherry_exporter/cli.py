"""`wherry export`: the command line of `wherry_exporter.export`. Imports torch only once the arguments are known."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from wherry.bundle import MANIFEST, SUFFIXES, Bundle
from wherry.commands.common import short_warnings, table, variants_table
from wherry_exporter.card import in_words
from wherry_exporter.export import export
from wherry_exporter.memory import return_large_blocks
from wherry_exporter.plan import ALGORITHMS, METRIC_NAMES
from wherry_exporter.tasks import TASKS

SHOWN = ("rows", "cosine", "top1", *(f"{name}{end}" for name in METRIC_NAMES for end in ("", "_torch")))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry export`."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face folder, a .gguf file, or one of a hub: owner/name, owner/name/file.gguf",
    )
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
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model's repository brings")
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
    making.add_argument("--algorithm", default="imatrix", help=f"of 4 bits: {', '.join(ALGORITHMS)} (default: imatrix)")
    making.add_argument("--block-size", type=int, default=32, metavar="N", help="weights a scale (default: 32)")
    making.add_argument(
        "--asymmetric", dest="symmetric", action="store_false", help="4-bit blocks have a zero point of their own"
    )
    making.add_argument(
        "--fast-prefill",
        action="store_true",
        help="decoders in int8 and int4: another graph, which reads prompts in 8-bit integers, for a byte a weight",
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
    options = vars(arguments)
    as_json = options.pop("json")
    return show(lambda: export(**options), as_json, "exported")


def show(make: Callable[[], Bundle], as_json: bool, done: str) -> int:
    """Make a bundle, and print what it holds."""
    short_warnings()
    return_large_blocks()
    bundle = make()
    manifest = json.loads((bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    entries, sizes = manifest["variants"], manifest["sizes"]
    if as_json:
        variants = {
            name: {"bytes": variant.bytes, "parity": variant.parity, "speed": variant.speed}
            | {key: entries[name][key] for key in ("recipe", "data", "candidates") if key in entries[name]}
            for name, variant in bundle.variants.items()
        }
        facts = {
            "folder": str(bundle.folder),
            "task": bundle.task,
            "sizes": sizes,
            **bundle.provenance,
            "variants": variants,
        }
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    takes = f"takes {in_words(sizes)}" if sizes else ""
    for part in (candidates_table(entries), variants_table(bundle), data_table(entries), takes):
        if part:
            print(f"{part}\n")
    seconds, peak = (bundle.provenance[name] for name in ("seconds", "peak_mb"))
    memory = f", at most {peak / 1000:.1f} GB of memory" if peak else ""
    print(f"{bundle.folder}: {bundle.task or 'graphs'}, {done} and verified in {seconds:.0f} s{memory}")
    return 0


def candidates_table(entries: Mapping[str, Any]) -> str:
    """What `auto` chose from."""
    rows = [["candidate", "speed", "verdict"]]
    for chosen, entry in entries.items():
        for name, tried in entry.get("candidates", {}).items():
            verdict = tried.get("refused") or ("chosen" if name == chosen else "slower")
            rows.append([name, f"{tried['speed']:g}x" if "speed" in tried else "", verdict])
    return table(rows) if len(rows) > 1 else ""


def data_table(entries: Mapping[str, Any]) -> str:
    """Figures on the user's own rows, the whole and by group."""
    rows: list[list[str]] = []
    names: list[str] = []
    for entry in entries.values():
        data = entry.get("data", {})
        for figures in (data.get("figures", {}), *data.get("groups", {}).values()):
            names += [name for name in figures if name not in names and name in SHOWN]
    for precision, entry in entries.items():
        if "data" not in entry:
            continue
        data = entry["data"]
        slices = {"all": {"rows": data["rows"], **data["figures"]}, **data.get("groups", {})}
        for name, figures in slices.items():
            rows.append([precision, name, *(f"{figures[each]:g}" if each in figures else "" for each in names)])
        if "group_gap" in data:
            rows.append(
                [precision, "largest gap", f"{data['group_gap']:g} of {data['group_gap_of']}", *[""] * (len(names) - 1)]
            )
    return table([["variant", "rows of", *(name.replace("_", " ") for name in names)], *rows]) if rows else ""
