"""Exports of models of usual sizes by `wherry export` and by optimum-onnx's `optimum-cli export onnx`: time and memory.

    python benchmarks/export_peer.py OPTIMUM_CLI

OPTIMUM_CLI is that program in an environment of its own. Weights are random, in float32; both verify what they wrote,
in turn, three times.
This process imports no torch, for a child's peak memory is never less than its parent's.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROUNDS = 3
BIN = Path(sys.executable).parent
MODELS = {
    "bert-base": "fill-mask",
    "gpt2": "text-generation-with-past",
    "whisper-base": "automatic-speech-recognition-with-past",
    "vit-base": "image-classification",
}
MAKE = """
import shutil, sys
import torch, transformers as t
from wherry_exporter.samples import sample
name, folder = sys.argv[1:]
torch.manual_seed(0)
whisper = dict(d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
               encoder_ffn_dim=2048, decoder_ffn_dim=2048)
model, files = {
    "bert-base": lambda: (t.BertForMaskedLM(t.BertConfig()), sample("minilm")),
    "gpt2": lambda: (t.GPT2LMHeadModel(t.GPT2Config()), sample("smollm2")),
    "whisper-base": lambda: (t.WhisperForConditionalGeneration(t.WhisperConfig(**whisper)), sample("whisper")),
    "vit-base": lambda: (t.ViTForImageClassification(t.ViTConfig()), None),
}[name]()
model.save_pretrained(folder)
for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
    if files and (files / file).exists():
        shutil.copy(files / file, folder)
if name == "vit-base":
    t.ViTImageProcessor().save_pretrained(folder)
"""
IMPORTS = {
    "wherry": "import onnxruntime, transformers, wherry_exporter.build",
    "optimum": "import onnxruntime, transformers, optimum.exporters.onnx",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optimum_cli", type=Path)
    optimum = parser.parse_args().optimum_cli
    pythons = {"wherry": BIN / "python", "optimum": optimum.parent / "python"}
    base = {name: run(pythons[name], "-c", IMPORTS[name])[1] for name in IMPORTS}
    print(f"{'':<14} {'weights':>9} {'wherry':>16} {'optimum':>16}")
    print(f"{'imports':<14} {'':>9}" + "".join(f" {'':>7} {base[name]:5.0f} MB" for name in IMPORTS))
    found: dict[str, dict[str, float]] = {}
    for model, task in MODELS.items():
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / model
            run(BIN / "python", "-c", MAKE, model, source)
            weights = (source / "model.safetensors").stat().st_size / 1e6
            commands: dict[str, list[str | Path]] = {
                "wherry": [BIN / "wherry", "export", source, "--precision", "fp32", "-o"],
                "optimum": [optimum, "export", "onnx", "--model", source, "--task", task],
            }
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
            for _ in range(ROUNDS):
                for name in random.sample(list(commands), len(commands)):
                    runs[name].append(run(*commands[name], Path(scratch) / name))
                    shutil.rmtree(Path(scratch) / name)
        found[model], line = {"weights MB": round(weights)}, f"{model:<14} {weights:6.0f} MB"
        for name, taken in runs.items():
            seconds, peak = (median(figures) for figures in zip(*taken, strict=True))
            found[model] |= {f"{name} s": round(seconds, 1), f"{name} peak MB": round(peak)}
            line += f" {seconds:5.1f} s {peak:5.0f} MB"
        print(line)
    imports = {name: round(peak) for name, peak in base.items()}
    print(json.dumps({"benchmark": "export beside optimum-onnx", "imports peak MB": imports, "medians": found}))


def run(*command: str | Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a program that must succeed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, stdout=told, stderr=told)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        if process.returncode:
            sys.exit(f"{command[0]} failed: {told.read().decode(errors='replace')[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
