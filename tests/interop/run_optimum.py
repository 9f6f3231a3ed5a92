"""Runs bundles in optimum-onnx's ORTModel classes: python run_optimum.py JOBS.json RESULTS.json

A job is {name, class, folder, options, texts, arrays, generate}. Its inputs are texts, tokenized by transformers with
the bundle's own files, or arrays in an .npz file; its result is the tokens where it generates, else all outputs.
"""

import json
import sys
from pathlib import Path

import numpy as np
import optimum.onnxruntime
import torch
from transformers import AutoTokenizer


def main() -> None:
    jobs, results = map(Path, sys.argv[1:])
    found = {}
    for job in json.loads(jobs.read_text()):
        model = getattr(optimum.onnxruntime, job["class"]).from_pretrained(job["folder"], **job["options"])
        if job["texts"]:
            tokenizer = AutoTokenizer.from_pretrained(job["folder"])
            inputs = dict(tokenizer(job["texts"], padding=True, return_tensors="pt"))
        else:
            inputs = {name: torch.from_numpy(value) for name, value in np.load(job["arrays"]).items()}
        if job["generate"]:
            found[job["name"]] = {"tokens": model.generate(**inputs, **job["generate"]).tolist()}
        else:
            found[job["name"]] = {name: value.tolist() for name, value in model(**inputs).items()}
    results.write_text(json.dumps(found))


main()
