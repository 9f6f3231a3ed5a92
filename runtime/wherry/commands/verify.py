"""`wherry verify`: is every file of a bundle what its manifest says?"""

import argparse

from wherry.bundle import MANIFEST, Bundle
from wherry.errors import BundleError
from wherry.hub import resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry verify`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a hub repository id")
    parser.epilog = "example:\n  wherry verify my-bundle && echo intact"


def run(arguments: argparse.Namespace) -> int:
    """Compare sizes and sha256 of all files."""
    bundle = Bundle.load(resolve(arguments.bundle))
    count = bundle.check()
    if not count:
        raise BundleError(f"{bundle.folder} has no {MANIFEST} to verify it against: export it with wherry")
    print(f"{bundle.folder}: {count} files are what {MANIFEST} says")
    return 0
