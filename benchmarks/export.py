"""How long an export takes, and what transformers' own exporter takes to trace the same model, where it is bearable."""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from wherry_exporter import export
from wherry_exporter.load import load
from wherry_exporter.quiet import quiet
from wherry_exporter.samples import sample


def main() -> None:
    """Time whole exports; with --peer also transformers' tracer, which takes minutes for SmolLM2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="store_true", help="time transformers.exporters too")
    peer = parser.parse_args().peer
    seconds: dict[str, float] = {}
    for name, precisions in (("minilm", ["fp32", "int8"]), ("smollm2-gguf", ["fp32", "int4"])):
        source = sample(name)
        with tempfile.TemporaryDirectory() as scratch:
            start = time.perf_counter()
            export(source, Path(scratch) / "bundle", precision=precisions)
            seconds[f"wherry {name} {'+'.join(precisions)}, verified"] = time.perf_counter() - start
        if peer:
            start = time.perf_counter()
            _with_transformers(name)
            seconds[f"transformers.exporters {name} fp32, traced only"] = time.perf_counter() - start
    for what, taken in seconds.items():
        print(f"{what:<60} {taken:6.1f} s")
    print(json.dumps({"benchmark": "export", "unit": "s", "once": seconds}))


def _with_transformers(name: str) -> None:
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    model = load(sample(name)).model
    ids, mask = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    with quiet(), torch.no_grad():
        inputs = {"input_ids": ids, "attention_mask": mask}
        if name == "minilm":
            OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True))
        else:
            OnnxExporter().export_for_generation(model, inputs, OnnxConfig(dynamic=True), multi_token_decode=True)


if __name__ == "__main__":
    main()
