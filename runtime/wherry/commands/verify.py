"""`wherry verify`: is every file of a bundle what its manifest says, and does it still answer as the original does?"""

import argparse
import json
from dataclasses import replace
from importlib import import_module

from wherry.bundle import MANIFEST, Bundle
from wherry.commands.common import variants_table
from wherry.errors import BundleError
from wherry.hub import resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry verify`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a hub repository id")
    parser.add_argument("--against", metavar="MODEL", help="measure every variant against this model, too")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that MODEL's repository brings")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = (
        "examples:\n  wherry verify my-bundle && echo intact\n  wherry verify my-bundle --against ./all-MiniLM-L6-v2"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare sizes and sha256 of all files, then, where asked, outputs."""
    bundle = Bundle.load(resolve(arguments.bundle))
    count = bundle.check()
    if not count and arguments.against is None:
        raise BundleError(f"{bundle.folder} has no {MANIFEST} to verify it against: export it with wherry")
    parity = {}
    if arguments.against is not None:
        reprove = import_module("wherry_exporter.reprove").reprove  # only this needs the extra `export`
        measured = reprove(bundle, arguments.against, trust_remote_code=arguments.trust_remote_code)
        parity = {name: found.as_dict() for name, found in measured.items()}
    if arguments.json:
        print(json.dumps({"folder": str(bundle.folder), "files": count, "parity": parity}, ensure_ascii=False))
        return 0
    if count:
        print(f"{bundle.folder}: {count} files are what {MANIFEST} says")
    if parity:
        variants = {
            name: replace(variant, parity=parity[name], speed=None) for name, variant in bundle.variants.items()
        }
        print(f"\n{variants_table(replace(bundle, variants=variants))}")
    return 0
