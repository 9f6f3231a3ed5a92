"""The `wherry` command: a table of verbs, each in a module that is imported only when it runs."""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import FrameType

from wherry_tokenization.errors import WherryError


@dataclass(frozen=True)
class Verb:
    """One row: the module with `add_arguments(parser)` and `run(arguments) -> int`, and the line for --help."""

    module: str
    about: str
    extra: str | None = None
    """The extra that installs what the module imports."""


VERBS = {
    "export": Verb("wherry_exporter.cli", "convert, quantize and verify a model", "export"),
    "run": Verb("wherry.commands.run", "run a model on texts"),
    "chat": Verb("wherry.commands.chat", "talk to a model"),
    "inspect": Verb("wherry.commands.inspect", "show what is in a bundle"),
    "verify": Verb("wherry.commands.verify", "check a bundle's files against its manifest"),
    "demo": Verb("wherry_exporter.demo", "export, verify and run two small models", "export"),
}

USAGE = """\
usage: wherry COMMAND ...

Carries a pretrained model across: from the framework it was trained in to wherever it has to run.

{verbs}

examples:
  wherry export ./my-model --precision fp32,int8 -o my-bundle
  wherry run my-bundle "A wherry is a light boat."
  wherry inspect my-bundle

`wherry COMMAND --help` tells more; `wherry --version` prints the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        the exit code: 0 for success, 1 for a failure, 2 for misuse, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<9}{verb.about}" for name, verb in VERBS.items())
        print(USAGE.format(verbs=verbs))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"wherry {version('wherry')}")
        return 0
    if words[0] not in VERBS:
        return _fail(f"unknown command '{words[0]}': choose one of {', '.join(VERBS)}", 2)
    signal.signal(signal.SIGTERM, _interrupt)
    verb = VERBS[words[0]]
    try:
        module = import_module(verb.module)
        parser = argparse.ArgumentParser(
            prog=f"wherry {words[0]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.description = f"{verb.about[0].upper()}{verb.about[1:]}."
        module.add_arguments(parser)
        code: int = module.run(parser.parse_args(words[1:]))
        return code
    except WherryError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if verb.extra is None or (error.name or "").startswith("wherry."):
            raise
        return _fail(f"`wherry {words[0]}` needs {error.name}: pip install 'wherry[cpu,{verb.extra}]'", 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, which is its right
        return 0


def _fail(message: str, code: int) -> int:
    print(f"wherry: {message}", file=sys.stderr)
    return code


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
