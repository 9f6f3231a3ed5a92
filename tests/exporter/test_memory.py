"""Memory that is freed goes back to the system, and that of weights which are not in use."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wherry_exporter.memory import let_go

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


def mapped_mb(file: Path) -> float:
    """How much of a file is in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(
        next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024
        for line in lines
        if line.endswith(str(file))
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what is mapped")
def test_weights_that_are_mapped_are_let_go_and_read_again(tmp_path):
    weights = {name: torch.from_numpy(np.random.default_rng(0).random((2048, 2048), np.float32)) for name in "ab"}
    paths = [tmp_path / "unchanged.safetensors", tmp_path / "changed.safetensors", tmp_path / "others.safetensors"]
    found = []
    for path in paths:
        save_file(weights, path)
        found.append(load_file(path))
        assert torch.equal(found[-1]["a"], weights["a"])
        assert torch.equal(found[-1]["b"], weights["b"])
    found[1]["a"][0, 0] = 7
    let_go(paths[:2])
    assert [round(mapped_mb(path)) for path in paths] == [0, 32, 32]
    assert torch.equal(found[0]["a"], weights["a"])
    assert found[1]["a"][0, 0] == 7
    assert torch.equal(found[1]["a"][1:], weights["a"][1:])
