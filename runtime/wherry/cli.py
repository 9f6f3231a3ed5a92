"""The `wherry` command: a table of verbs, each in a module that is imported only when it runs."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import FrameType
from typing import NoReturn


@dataclass(frozen=True)
class Verb:
    """One row: the module with `add_arguments(parser)` and `run(arguments) -> int`, and the line for --help."""

    module: str
    about: str
    extra: str | None = None
    """The extra that installs what the module imports."""


VERBS = {
    "export": Verb("wherry_exporter.cli", "convert, quantize and verify a model", "export"),
    "quantize": Verb("wherry_exporter.quantize_cli", "quantize graphs that are there already", "export"),
    "run": Verb("wherry.commands.run", "run a model on texts"),
    "tasks": Verb("wherry.commands.tasks", "list what models can be run for"),
    "chat": Verb("wherry.commands.chat", "talk to a model"),
    "bench": Verb("wherry.commands.bench", "time a bundle's variants on this machine"),
    "inspect": Verb("wherry.commands.inspect", "show what is in a bundle"),
    "verify": Verb("wherry.commands.verify", "check a bundle against its manifest, or against the original", "export"),
    "doctor": Verb("wherry.commands.doctor", "look whether this machine can run models, and on what"),
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


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments in one line."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_fail(f"{message}; see `{self.prog} --help`", 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        the exit code: 0 for success, 1 for a failure, 2 for misuse, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run_verb(words[0], words[1:]) if words and words[0] in VERBS else _about(words)
        sys.stdout.flush()  # a reader that has gone or a full disk shows here, not at exit
        return code
    except BrokenPipeError:  # the reader of our output has gone, which is its right
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        return _fail(str(error), 1)


def command() -> NoReturn:
    """Run the command line as a program, which ends at once: taking what torch imports apart takes half a second."""
    code = main()
    sys.stderr.flush()
    os._exit(code)


def _about(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        verbs = "\n".join(f"  {name:<9}{verb.about}" for name, verb in VERBS.items())
        print(USAGE.format(verbs=verbs))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"wherry {version('wherry')}")
        return 0
    return _fail(f"unknown command '{words[0]}': choose one of {', '.join(VERBS)}", 2)


def _run_verb(name: str, words: Sequence[str]) -> int:
    from wherry_tokenization.errors import WherryError  # comes with numpy and tokenizers, which --help does without

    interrupts: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    verb = VERBS[name]
    try:
        module = import_module(verb.module)
        parser = _Parser(
            prog=f"wherry {name}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.description = f"{verb.about[0].upper()}{verb.about[1:]}."
        module.add_arguments(parser)
        code: int = module.run(parser.parse_intermixed_args(words))  # options may stand before texts and after them
        return code
    except WherryError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if verb.extra is None or (error.name or "").startswith("wherry."):
            raise
        return _fail(f"`wherry {name}` needs {error.name}: pip install 'wherry[cpu,{verb.extra}]'", 1)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception:
        if not interrupts:
            raise
        return _interrupted()  # while a native module was being imported, which then reports its own failure


def _interrupted() -> int:
    # Python notes an interrupt that leaves exec, as one in the making of a dataclass does, and dies of SIGINT at its
    # end though it was caught here; the next exec takes the note back
    exec("")
    return _fail("interrupted", 130)


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that it does not fail once more at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"wherry: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    command()
