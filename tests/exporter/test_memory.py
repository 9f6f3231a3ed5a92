"""Memory that is freed goes back to the system, where the C library's allocator is asked to."""

import platform
import subprocess
import sys

import pytest

FREED = """
import sys
import numpy as np
from wherry_exporter.memory import return_large_blocks
if sys.argv[1] == "returned":
    return_large_blocks()
np.ones(3 * 2**20)  # once freed, it lets glibc keep blocks of up to 24 MB
blocks = [np.ones(2**20) for _ in range(20)]  # 8 MB each
del blocks[:-1]
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is asked")
def test_large_blocks_go_back_when_they_are_freed():
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", FREED, kind], capture_output=True, check=True, text=True).stdout)
        for kind in ("kept", "returned")
    )
    assert kept - returned > 100
