"""Runs tiny bundles on the CPU and on a device and prints what came out as JSON: `compare.py FOLDER DEVICE`.

A process of its own, in which nothing but the runtime is imported.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import WherryError
from wherry.generation import Decoder, Engine, GenerationConfig, PrefixCache, generate, search
from wherry.session import Session, onnxruntime

PRECISIONS = {"fp32": "", "fp16": "_fp16", "bf16": "_bf16"}
BESIDE = {"fp32": "", "fp16": "_fp16", "bf16": ""}
"""What a CPU runs of each precision: it has no bfloat16."""
GRAPHS = {"enable_cuda_graph": True}
MODELS = ("encoder", "vision", "decoder", "whisper")
PROMPTS = [np.random.default_rng(at).integers(0, 59, size).tolist() for at, size in enumerate((5, 40, 17, 17, 3))]


def opened(path: Path, device: str, **options: Any) -> Session:
    return Session(path, device=device, provider_options=options if device != "cpu" else None)


def difference(one: Session, other: Session) -> float:
    """The largest difference of outputs, in parts of the largest output, in batches of two sizes.

    Args:
        one: on the CPU, perhaps in a higher precision.
        other: on the device.
    """
    found = []
    for rows, length in ((1, 9), (3, 20)):
        random = np.random.default_rng(rows)
        sizes = {"batch_size": rows, "sequence_length": length, "total_sequence_length": length}
        feeds, past = {}, {}
        for name, port in one.inputs.items():
            shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in port.shape]
            if name.startswith("past_"):
                past[name] = shape
            elif name == "token_type_ids":
                feeds[name] = np.zeros(shape, port.dtype)
            elif port.dtype.kind == "f":
                feeds[name] = random.standard_normal(shape).astype(port.dtype)
            else:
                feeds[name] = np.ones(shape, np.int64) if "mask" in name else random.integers(0, 20, shape)
        outputs = [name for name in one.outputs if not name.startswith("present")]
        for name in outputs:
            expected, got = (ran(session, feeds, past, name).astype(np.float64) for session in (one, other))
            gap = np.abs(got - expected).max()
            found.append(float(gap / np.abs(expected).max()))
    return max(found)


def ran(session: Session, feeds: Mapping[str, Any], past: Mapping[str, Sequence[int]], name: str) -> Any:
    """One output, after nothing."""
    binding = session.raw.io_binding()
    for each, array in feeds.items():
        binding.bind_ortvalue_input(each, session.value(array))
    for each, shape in past.items():
        make = onnxruntime().OrtValue.ortvalue_from_shape_and_type
        binding.bind_ortvalue_input(each, make(shape, session.inputs[each].element, session.memory, session.index))
    binding.bind_output(name)
    session.run_bound(binding, partly=True)
    return binding.copy_outputs_to_cpu()[0]


def texts(decoder: Decoder) -> dict[str, Any]:
    """Tokens that a decoder gives in several ways."""
    plain = GenerationConfig(max_new_tokens=30)
    found: dict[str, Any] = {"greedy": generate(decoder, PROMPTS, plain)}
    found["sampled"] = generate(decoder, PROMPTS, GenerationConfig(max_new_tokens=20, do_sample=True, top_k=8, seed=1))
    (beams,) = search(decoder, PROMPTS[:1], GenerationConfig(max_new_tokens=20, num_beams=4))
    found["beams"] = [np.asarray(each.tokens).tolist() for each in beams]
    engine = Engine(decoder, max_rows=3, prefixes=PrefixCache(10**7))
    for turn in ("first", "again"):  # the second time the prompts are known
        requests = [engine.submit(prompt, GenerationConfig(max_new_tokens=9 + at)) for at, prompt in enumerate(PROMPTS)]
        list(engine.run())
        found[f"joined {turn}"] = [each.choosers[0].ids.tolist() for each in requests]
    guessed = GenerationConfig(max_new_tokens=30, prompt_lookup_num_tokens=4)
    found["guessed"] = generate(decoder, [PROMPTS[1] * 2], guessed)
    return found


def heard(encoder: Session, decoder: Session) -> list[list[int]]:
    """Tokens that whisper's decoder gives for two sounds, one by one and together."""
    sounds = np.random.default_rng(0).standard_normal((2, 8, 60)).astype(np.float32)
    states = encoder.run({"input_features": sounds})["last_hidden_state"]
    engine = Engine(Decoder(decoder, "left"))
    config = GenerationConfig(max_new_tokens=12)
    requests = [engine.submit([2], config, {"encoder_hidden_states": states[at : at + 1]}) for at in range(2)]
    list(engine.run())
    return [each.choosers[0].ids.tolist() for each in requests]


def tried(run: Callable[..., Any], *arguments: Any) -> Any:
    """What it gives, or what it says is wrong, which a test then shows."""
    try:
        return run(*arguments)
    except WherryError as error:
        return f"{type(error).__name__}: {error}"


def spoken(path: Path, device: str, options: dict[str, Any]) -> dict[str, Any]:
    return texts(Decoder(opened(path, device, **options)))


def graphs_of(folder: Path, suffix: str) -> dict[str, Path]:
    """The graphs of one precision."""
    paths = {name: folder / name / f"onnx/model{suffix}.onnx" for name in ("encoder", "vision", "decoder")}
    whisper = folder / "whisper" / "onnx"
    return paths | {
        "whisper": whisper / f"encoder_model{suffix}.onnx",
        "merged": whisper / f"decoder_model_merged{suffix}.onnx",
    }


def replayed(path: Path, device: str) -> float:
    """The largest difference between captured runs and plain ones, of inputs of two shapes that change each time."""
    plain, captured = opened(path, device), opened(path, device, **GRAPHS)
    random, gaps = np.random.default_rng(0), []
    for rows in (1, 3, 1, 3, 1, 3):
        feeds = {}
        for name, port in plain.inputs.items():
            shape = [{"batch_size": rows, "sequence_length": 9}.get(size, size) for size in port.shape]
            feeds[name] = random.standard_normal(shape) if port.dtype.kind == "f" else random.integers(0, 2, shape)
        expected, got = plain.run(feeds), captured.run(feeds)
        gaps += [float(np.abs(got[name] - expected[name]).max()) for name in expected]
    return max(gaps)


def main(folder: Path, device: str) -> None:
    found: dict[str, Any] = {"differences": {}, "placement": {}, "cpu": {}, "device": {}, "graphs": {}}
    for precision, suffix in PRECISIONS.items():
        paths, beside = graphs_of(folder, suffix), graphs_of(folder, BESIDE[precision])
        for name in MODELS:
            sessions = [opened(beside[name], "cpu"), opened(paths[name], device)]
            found["differences"][f"{name} {precision}"] = tried(difference, *sessions)
            found["placement"][f"{name} {precision}"] = sessions[1].placement()
        ways = (("cpu", "cpu", beside, {}), ("device", device, paths, {}), ("graphs", device, paths, GRAPHS))
        for key, where, given, options in ways:
            found[key][f"decoder {precision}"] = tried(spoken, given["decoder"], where, options)
        for key, where, given in (("cpu", "cpu", beside), ("device", device, paths)):
            sessions = [opened(given[name], where) for name in ("whisper", "merged")]
            found[key][f"whisper {precision}"] = tried(heard, *sessions)
    quantized = folder / "decoder" / "onnx/model_q4f16.onnx"
    for key, where, options in (("cpu", "cpu", {}), ("device", device, {}), ("graphs", device, GRAPHS)):
        found[key]["decoder int4f16"] = tried(spoken, quantized, where, options)
    found["replayed"] = {
        f"{name} {precision}": tried(replayed, graphs_of(folder, PRECISIONS[precision])[name], device)
        for name in ("encoder", "vision", "whisper")
        for precision in ("fp16", "bf16")
    }
    found["modules"] = [name for name in ("torch", "transformers", "onnx") if name in sys.modules]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
