"""How much memory this process has taken, and how it gives back what it has freed."""

import ctypes
import sys

LARGE = 2 * 2**20
M_MMAP_THRESHOLD = -3
"""As glibc's malloc.h has it."""


def peak_mb() -> int | None:
    """The largest resident set of this process so far in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if sys.platform == "darwin" else 1024
    return round(getrusage(RUSAGE_SELF).ru_maxrss * unit / 1e6)


def return_large_blocks() -> None:
    """Let every block of 2 MiB or more go back to the system once it is freed, where the allocator is glibc's.

    It would else keep blocks of up to 32 MiB, in pieces that the next activations do not fit in
    (https://man7.org/linux/man-pages/man3/mallopt.3.html).
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
