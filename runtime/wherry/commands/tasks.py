"""`wherry tasks`: what models can be run for, from the table that `pipeline` reads."""

import argparse
import json

from wherry.pipelines import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry tasks`."""
    parser.add_argument("--json", action="store_true", help="one JSON object of all tasks")
    parser.epilog = "example:\n  wherry tasks --json"


def run(arguments: argparse.Namespace) -> int:
    """Print the table: for people by default, for programs with --json."""
    if arguments.json:
        print(
            json.dumps(
                {
                    name: {
                        "about": task.about,
                        "aliases": task.aliases,
                        "models_for": task.serves,
                        "takes": task.takes,
                        "example": task.example,
                    }
                    for name, task in TASKS.items()
                }
            )
        )
        return 0
    for name, task in TASKS.items():
        aliases = f" ({', '.join(task.aliases)})" if task.aliases else ""
        print(f"{name}{aliases}: {task.about}\n    {task.example}")
    return 0
