"""When Python searches for garbage: not amid imports and traces, whose millions of objects nearly all stay."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_waits() -> Iterator[None]:
    """Collect garbage once, at the end of the block, and only what was made there."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.collect(0)  # none was collected since, so all that is new is in the first generation


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import torch and what uses it; the modules are never searched for garbage, not even at the end of the process.

    Does nothing where torch is imported already.
    """
    if "torch" in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
