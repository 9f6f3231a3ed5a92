"""How much memory this process has taken."""

import sys


def peak_mb() -> int | None:
    """The largest resident set of this process so far in MB; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    from resource import RUSAGE_SELF, getrusage

    unit = 1 if sys.platform == "darwin" else 1024
    return round(getrusage(RUSAGE_SELF).ru_maxrss * unit / 1e6)
