"""Runs bundles in onnxruntime-genai: python run_genai.py JOBS.json RESULTS.json

A job is {name, folder, overlay, prompts, options}; its result is the tokens and the text of each prompt's row.
"""

import json
import sys
from pathlib import Path

import onnxruntime_genai as og


def main() -> None:
    jobs, results = map(Path, sys.argv[1:])
    found = {}
    for job in json.loads(jobs.read_text()):
        config = og.Config(job["folder"])
        config.overlay(json.dumps(job["overlay"]))
        model = og.Model(config)
        tokenizer = og.Tokenizer(model)
        params = og.GeneratorParams(model)
        params.set_search_options(batch_size=len(job["prompts"]), **job["options"])
        generator = og.Generator(model, params)
        generator.append_tokens(tokenizer.encode_batch(job["prompts"]))
        while not generator.is_done():
            generator.generate_next_token()
        rows = [generator.get_sequence(at).tolist() for at in range(len(job["prompts"]))]
        found[job["name"]] = [{"tokens": row, "text": tokenizer.decode(row)} for row in rows]
    results.write_text(json.dumps(found))


main()
