"""`wherry inspect`: what is in a bundle, without running it."""

import argparse
import json
from typing import Any

from wherry.bundle import PREFILL, Bundle
from wherry.commands.common import add_device_arguments, device_options, short_warnings, table, variants_table
from wherry.hub import resolve
from wherry.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry inspect`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or a hub repository id")
    add_device_arguments(parser, "cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "example:\n  wherry inspect my-bundle"


def run(arguments: argparse.Namespace) -> int:
    """Print task, provenance, variants with parity, and the inputs and outputs of the graphs."""
    short_warnings()
    bundle = Bundle.load(resolve(arguments.bundle))
    variant = bundle.variant()
    bundle.check(variant)
    sessions = {
        role: Session(
            bundle.folder / path,
            threads=1,
            recommended=variant.provider_options.get(role),
            **({"device": "cpu"} if role == PREFILL else device_options(arguments)),
        )
        for role, path in variant.graphs.items()
    }
    if arguments.json:
        print(json.dumps(_facts(bundle, sessions), indent=2, ensure_ascii=False))
        return 0
    print(f"{bundle.folder}: {bundle.task or 'task unknown'}, {bundle.config.get('model_type', 'model type unknown')}")
    for name, value in bundle.provenance.items():
        if isinstance(value, dict):
            value = ", ".join(f"{tool} {number}" for tool, number in value.items())
        if value is not None:
            print(f"  {name:<13}{value}")
    print()
    print(variants_table(bundle))
    print()
    for role, session in sessions.items():
        print(_ports(role, session))
        placed = ", ".join(f"{count} nodes on {provider}" for provider, count in session.placement().items())
        print(f"device {session.device}: {placed}")
    return 0


def _ports(role: str, session: Session) -> str:
    """A graph's inputs and outputs as a table, its cache summed up in a line."""
    ports = [("in", port) for port in session.inputs.values()] + [("out", port) for port in session.outputs.values()]
    shown = [(way, port) for way, port in ports if not port.name.startswith(("past_", "present"))]
    cache = [port for _, port in ports if port.name.startswith("past_")]
    rows = [[way, port.name, port.kind, _shape(port.shape)] for way, port in shown]
    text = table([[role, "name", "type", "shape"], *rows])
    if cache:
        first = f"{cache[0].kind} {_shape(cache[0].shape)}"
        inputs = "input" if len(cache) == 1 else "inputs"
        text += f"\nand {len(cache)} {inputs} of the cache with as many outputs, each {first}"
    return text


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _facts(bundle: Bundle, sessions: dict[str, Session]) -> dict[str, Any]:
    def ports(ports: Any) -> list[dict[str, Any]]:
        return [{"name": port.name, "dtype": port.kind, "shape": list(port.shape)} for port in ports.values()]

    return {
        "folder": str(bundle.folder),
        "task": bundle.task,
        "model_type": bundle.config.get("model_type"),
        "provenance": dict(bundle.provenance),
        "variants": {
            name: {
                "graphs": dict(variant.graphs),
                "bytes": variant.bytes,
                "opset": variant.opset,
                "parity": variant.parity,
                "speed": variant.speed,
            }
            for name, variant in bundle.variants.items()
        },
        "graphs": {
            role: {
                "inputs": ports(session.inputs),
                "outputs": ports(session.outputs),
                "device": session.device,
                "placement": session.placement(),
            }
            for role, session in sessions.items()
        },
    }
