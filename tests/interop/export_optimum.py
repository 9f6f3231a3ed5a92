"""Exports checkpoints with optimum-onnx: python export_optimum.py JOBS.json RESULTS.json

A job is {name, checkpoint, folder, task, options}; its result is the names of the graphs.
"""

import json
import sys
from pathlib import Path

from optimum.exporters.onnx import main_export


def main() -> None:
    jobs, results = map(Path, sys.argv[1:])
    found = {}
    for job in json.loads(jobs.read_text()):
        main_export(job["checkpoint"], job["folder"], task=job["task"], do_validation=False, **job["options"])
        found[job["name"]] = sorted(path.name for path in Path(job["folder"]).glob("*.onnx"))
    results.write_text(json.dumps(found))


main()
