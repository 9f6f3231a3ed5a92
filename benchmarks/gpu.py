"""On a GPU: wherry beside torch, eager and compiled, in fp16 where nothing else is said. See README.md."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from wherry.commands.common import table
from wherry.devices import installed, onnxruntime
from wherry.nvidia import cards, driver_version

LENGTH = 128
TEXTS = (1, 32, 256)
ROWS = (1, 8, 32)
PROMPT, STEPS = 16, 128
LONG = (512, 2048)
DRAWN = {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.8}
Ways = tuple[tuple[str, str, dict[str, bool]], ...]
Timed = tuple[str, str, float]
"""Workload, candidate, items per second."""


def timed(run: Callable[[], Any], count: int, *, rounds: int = 7, warm: int = 2) -> float:
    """The median of items per second, of rounds after those that warm up."""
    for _ in range(warm):
        run()
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        rates.append(count / (time.perf_counter() - start))
    return median(rates)


def tokens(rows: int, length: int) -> Any:
    return np.random.default_rng(rows).integers(1000, 20000, (rows, length))


def wherry_side(folder: Path, device: str) -> Iterator[Timed]:
    """Without torch in the process."""
    from wherry.generation import Decoder, GenerationConfig, generate
    from wherry.session import Session

    def decoded(decoder: Decoder, ids: Any, steps: int, **options: Any) -> Callable[[], Any]:
        rows, config = ids.tolist(), GenerationConfig(max_new_tokens=steps, **options)
        return lambda: generate(decoder, rows, config)

    graph = {"enable_cuda_graph": True}
    ways: Ways = (("wherry", "fp16", {}), ("wherry, CUDA graph", "fp16", graph), ("wherry, bf16", "bf16", graph))
    for name, suffix, options in ways:
        session = Session(folder / "minilm" / "onnx" / f"model_{suffix}.onnx", device=device, provider_options=options)
        for rows in TEXTS:
            ids = tokens(rows, LENGTH)
            feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            for what, output in (("encoder", "last_hidden_state"), ("embeddings", "sentence_embedding")):
                rate = timed(partial(session.run, feeds, [output]), rows)
                yield f"{what}, {rows} x {LENGTH}, texts/s", name, rate
    for name, suffix, options in (*ways, ("wherry, int4f16", "q4f16", graph)):
        session = Session(folder / "smollm2" / "onnx" / f"model_{suffix}.onnx", device=device, provider_options=options)
        decoder = Decoder(session)
        for rows in ROWS:
            rate = timed(decoded(decoder, tokens(rows, PROMPT), STEPS), rows * STEPS, rounds=5)
            yield f"decoder, batch {rows}, new tokens/s", name, rate
        rows = ROWS[1]
        rate = timed(decoded(decoder, tokens(rows, PROMPT), STEPS, **DRAWN), rows * STEPS, rounds=5)
        yield f"decoder, batch {rows}, drawn, new tokens/s", name, rate
        for length in LONG:
            rate = timed(decoded(decoder, tokens(1, length), 1), length)
            yield f"decoder, prompt of {length}, tokens/s", name, rate


def torch_side(folder: Path, device: str) -> Iterator[Timed]:
    """The same shapes with random weights, on which the speed does not depend."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    def fp16(kind: Any, name: str) -> Any:
        return kind.from_config(AutoConfig.from_pretrained(folder / name)).to(device, torch.float16).eval()

    def encoder(model: Any, ids: Any, *, pooled: bool) -> Callable[[], Any]:
        def run() -> Any:
            given = torch.from_numpy(ids).to(device)
            mask = torch.ones_like(given)
            states = model(input_ids=given, attention_mask=mask).last_hidden_state
            if pooled:
                weights = mask[..., None].to(states.dtype)
                states = torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1))
            return states.cpu().numpy()

        return run

    def decoder(model: Any, ids: Any, steps: int, **options: Any) -> Callable[[], Any]:
        def run() -> Any:
            given = torch.from_numpy(ids).to(device)
            found = model.generate(
                given,
                attention_mask=torch.ones_like(given),
                **{"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": steps, **options},
            )
            return found.cpu().numpy()

        return run

    with torch.inference_mode():
        model = fp16(AutoModel, "minilm")
        compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
        for rows in TEXTS:
            ids = tokens(rows, LENGTH)
            for name, each in (("torch eager", model), ("torch.compile", compiled)):
                for what, pooled in (("encoder", False), ("embeddings", True)):
                    rate = timed(encoder(each, ids, pooled=pooled), rows, warm=4)
                    yield f"{what}, {rows} x {LENGTH}, texts/s", name, rate
        model = fp16(AutoModelForCausalLM, "smollm2")
        model.generation_config.eos_token_id = None
        for length in LONG:
            rate = timed(decoder(model, tokens(1, length), 1), length)
            yield f"decoder, prompt of {length}, tokens/s", "torch eager", rate
        for name, options in (("torch eager", {}), ("torch.compile", {"cache_implementation": "static"})):
            for rows in ROWS:
                rate = timed(decoder(model, tokens(rows, PROMPT), STEPS, **options), rows * STEPS, rounds=3)
                yield f"decoder, batch {rows}, new tokens/s", name, rate
            rows = ROWS[1]
            rate = timed(decoder(model, tokens(rows, PROMPT), STEPS, **options, **DRAWN), rows * STEPS, rounds=3)
            yield f"decoder, batch {rows}, drawn, new tokens/s", name, rate


SIDES = {"wherry": wherry_side, "torch": torch_side}


def exported() -> Path:
    """The bundles of MiniLM and SmolLM2 as GPUs run them, exported on first use."""
    from harness import bundle

    kinds = ["fp16", "bf16", "int4f16"]
    folder = bundle("minilm", kinds).folder.parent / "gpu"
    folder.mkdir(exist_ok=True)
    for name, sample in (("minilm", "minilm"), ("smollm2", "smollm2-gguf")):
        if not (folder / name).exists():
            (folder / name).symlink_to(bundle(sample, kinds).folder)
    return folder


def main() -> None:
    """Time each side in a process of its own; print a table, then a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--bundles", type=Path, help="a folder that holds minilm and smollm2 in fp16, bf16 and int4f16")
    parser.add_argument("--sides", default="wherry,torch")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        for row in SIDES[arguments.side](arguments.bundles, arguments.device):
            print(json.dumps(row), flush=True)
        return
    folder = arguments.bundles or exported()
    rates: dict[str, dict[str, float]] = {}
    for side in arguments.sides.split(","):
        command = [sys.executable, __file__, "--side", side, "--bundles", folder, "--device", arguments.device]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", file=sys.stderr)
                if line.startswith('["'):
                    workload, candidate, rate = json.loads(line)
                    rates.setdefault(workload, {})[candidate] = round(rate, 1)
    names = list(dict.fromkeys(name for row in rates.values() for name in row))
    rows = [[workload, *(str(row.get(name, "-")) for name in names)] for workload, row in rates.items()]
    print(table([["on a GPU", *names], *rows]))
    card = cards()[0].name if cards() else arguments.device
    tools = {name: installed(name) for name in ("torch", "transformers")}
    tools["onnxruntime"] = f"{onnxruntime().__version__}, CUDA {getattr(onnxruntime(), 'cuda_version', None)}"
    facts = {"benchmark": "gpu", "device": card, "driver": driver_version(), "tools": tools, "median": rates}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
