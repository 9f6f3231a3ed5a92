"""What a GPU gives for tiny models, beside what the CPU gives."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles of models.py, or those in $WHERRY_GPU_BUNDLES, for a machine on which nothing can be exported."""
    given = os.environ.get("WHERRY_GPU_BUNDLES")
    if given:
        return Path(given)
    made = tmp_path_factory.mktemp("bundles")
    subprocess.run([sys.executable, HERE / "models.py", made], check=True)
    return made


@pytest.fixture(scope="session")
def found(folder: Path) -> Mapping[str, Any]:
    """What compare.py prints for the device $WHERRY_GPU, by default cuda."""
    device = os.environ.get("WHERRY_GPU", "cuda")
    command = [sys.executable, HERE / "compare.py", folder, device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    results: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results
