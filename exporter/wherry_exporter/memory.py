"""How much memory this process has taken, and how it gives back what it has freed."""

import ctypes
import re
import sys
from collections.abc import Collection
from pathlib import Path

LARGE = 2 * 2**20
M_MMAP_THRESHOLD = -3
"""As glibc's malloc.h has it."""
MADV_DONTNEED = 4
"""As Linux's mman.h has it."""
MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \d+ *(.*)$((?:\n\w+:.*)+)", re.MULTILINE)
COPIED = re.compile(r"^(?:Anonymous|Swap): +[1-9]", re.MULTILINE)


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


def let_go(files: Collection[Path]) -> None:
    """Give back the memory of files that are mapped, on Linux; what is used of them again is mapped again.

    A mapping of which anything was changed stays as it is
    (https://man7.org/linux/man-pages/man2/madvise.2.html, https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html).
    Nothing may be changing them meanwhile.
    """
    if sys.platform != "linux" or not files:
        return
    names, library = {str(file.resolve()) for file in files}, ctypes.CDLL(None)
    for first, last, name, figures in MAPPING.findall(Path("/proc/self/smaps").read_text()):
        if name in names and not COPIED.search(figures):
            start, end = int(first, 16), int(last, 16)
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)
