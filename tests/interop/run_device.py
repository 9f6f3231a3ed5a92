"""Runs graphs with wherry where another onnxruntime is installed: python run_device.py JOBS.json RESULTS.json

A job is {name, graph, device, feeds}, feeds an .npz file; its result is the placement and the file of the outputs, or
what the error says.
"""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "tokenization")]  # wherry itself is not installed there


def main() -> None:
    from wherry.errors import WherryError
    from wherry.session import Session

    jobs, results = map(Path, sys.argv[1:])
    found = {}
    for job in json.loads(jobs.read_text()):
        try:
            session = Session(job["graph"], device=job["device"])
        except WherryError as error:
            found[job["name"]] = {"error": str(error)}
            continue
        outputs = results.with_name(f"{job['name']}.npz")
        np.savez(outputs, **session.run(dict(np.load(job["feeds"]))))
        found[job["name"]] = {"placement": session.placement(), "outputs": str(outputs)}
    results.write_text(json.dumps(found))


main()
