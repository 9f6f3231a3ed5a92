"""Text generation of SmolLM2-135M and GPT-2: wherry beside transformers on torch, and other runtimes where they are.

    python benchmarks/generation.py [--peers PYTHON]

PYTHON is that of an environment with what peers.txt names. See README.md for what is timed.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import peers
from harness import bundle, compare
from wherry.bundle import PREFILL, Bundle
from wherry.commands.common import table
from wherry.generation import Assistant, Decoder, Engine, GenerationConfig, generate
from wherry.session import Session, thread_count
from wherry_exporter.probe import PROSE
from wherry_exporter.samples import sample
from wherry_tokenization import Tokenizer

STEPS = 48
Rows = Sequence[Sequence[int]]
Way = tuple[Callable[[Rows, int], object], Callable[[Sequence[int]], Callable[[], object]] | None]
"""How to continue rows by so many tokens, and how to read one and get what continues it again and again."""


def main() -> None:
    """Compare greedy answers at batch 1 and 8, long prompts up to their first token, and answers behind one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    python = parser.parse_args().peers
    torch.set_num_threads(thread_count())
    built = bundle("smollm2-gguf", ["fp32", "int8", "int4"], fast_prefill=True)
    prose = Tokenizer.load(built.folder).encode(PROSE).input_ids[0].tolist()
    smollm2(built, prose, python)
    if python is not None:
        gpt2(python)


def smollm2(built: Bundle, prose: list[int], python: Path | None) -> None:
    model = AutoModelForCausalLM.from_pretrained(sample("smollm2"))
    decoders = decoders_of(built)
    check(model, decoders["wherry fp32"], prose[:16])
    ways = {"torch fp32": with_torch(model)} | {name: with_wherry(decoder) for name, decoder in decoders.items()}
    others = {} if python is None else peers.smollm2(python)
    ways |= {name: with_peer(peer) for name, peer in others.items()}
    tell_distances(model, decoders, others, prose[:200])
    readers = readers_of(built, decoders)
    tell_distances(model, decoders | readers, {}, prose[:200], prompt=100)
    assistant = Assistant(decoders["wherry int4"])
    workloads = over(ways, readers, (prose * 32)[:4000], [prose[at : at + 16] for at in range(0, 128, 16)])
    workloads["batch 1, new tokens"]["wherry fp32, int4 guesses"] = runner(
        lambda rows, steps: guessed(decoders["wherry fp32"], assistant, rows[0], steps), [prose[:16]], STEPS
    )
    compare("SmolLM2-135M generation", "tokens/s", workloads, rounds=9)


def gpt2(python: Path) -> None:
    built = Bundle.load(peers.exported("gpt2", ["fp32", "int8", "int4"], fast_prefill=True))
    model = AutoModelForCausalLM.from_pretrained(peers.checkpoint("gpt2"))
    shared = peers.exported("gpt2", ["int4"])  # the one variant there, which genai's configuration names
    decoders = decoders_of(built) | {"wherry int4": Decoder(Session(shared / "onnx/model_q4.onnx"))}
    words = np.random.default_rng(0).integers(5, 49000, 1000).tolist()
    rows = [words[at : at + 16] for at in range(0, 128, 16)]
    check(model, decoders["wherry fp32"], rows[0])
    ways = {"torch fp32": with_torch(model)} | {name: with_wherry(decoder) for name, decoder in decoders.items()}
    ways |= {
        name: with_peer(peer, fills=False) for name, peer in peers.ctranslate2(python, "gpt2", "CTranslate2").items()
    }
    ways["genai, our int4"] = with_peer(peers.Peer(python, "genai", shared))
    compare("GPT-2 124M generation", "tokens/s", over(ways, readers_of(built, decoders), words[:900], rows), rounds=9)


def over(
    ways: Mapping[str, Way], readers: Mapping[str, Decoder], long: list[int], rows: Rows
) -> dict[str, dict[str, Callable[[], int]]]:
    named = {
        "batch 1, new tokens": (rows[:1], STEPS),
        "batch 8, new tokens": (rows, STEPS),
        "prompt of 512 tokens": ([long[:512]], 1),
    }
    workloads = {
        name: {way: runner(run, prompts, steps) for way, (run, _) in ways.items()}
        for name, (prompts, steps) in named.items()
    }
    workloads["prompt of 512 tokens"] |= {
        way: runner(with_wherry(decoder)[0], [long[:512]], 1) for way, decoder in readers.items()
    }
    behind = {way: fill(long) for way, (_, fill) in ways.items() if fill is not None}
    if behind:
        workloads[f"new tokens behind {len(long)}"] = {way: counted(run, 16) for way, run in behind.items()}
    return workloads


def runner(run: Callable[[Rows, int], object], rows: Rows, steps: int) -> Callable[[], int]:
    count = len(rows) * steps if steps > 1 else sum(map(len, rows))
    return counted(lambda: run(rows, steps), count)


def counted(run: Callable[[], object], count: int) -> Callable[[], int]:
    def counting() -> int:
        run()
        return count

    return counting


def with_torch(model: AutoModelForCausalLM) -> Way:
    def run(rows: Rows, steps: int) -> object:
        ids, new = torch.tensor(rows), {"max_new_tokens": steps, "min_new_tokens": steps}
        return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **new)

    return run, None


def with_wherry(decoder: Decoder) -> Way:
    def fill(row: Sequence[int]) -> Callable[[], object]:
        """A batch that holds all but the last token, and what goes on 16 times and forgets that."""
        batch = decoder.batch(1, len(row) + 16)
        batch.add(np.array([row[:-1]]), logits=False)

        def run() -> list[int]:
            made = [row[-1]]
            for _ in range(16):
                made.append(int(batch.step(made[-1:]).argmax()))
            batch.cut(0, len(row) - 1)
            return made

        return run

    return lambda rows, steps: generate(decoder, rows, GenerationConfig(max_new_tokens=steps)), fill


def with_peer(peer: peers.Peer, *, fills: bool = True) -> Way:
    def fill(row: Sequence[int]) -> Callable[[], object]:
        return lambda: peer("go_on", row=row, steps=16)

    return lambda rows, steps: peer("generate", rows=rows, steps=steps), fill if fills else None


def guessed(decoder: Decoder, assistant: Assistant, row: Sequence[int], steps: int) -> object:
    engine = Engine(decoder, max_rows=1, assistant=assistant)
    engine.submit(row, GenerationConfig(max_new_tokens=steps))
    return list(engine.run())


def tell_distances(
    model: AutoModelForCausalLM,
    decoders: Mapping[str, Decoder],
    others: Mapping[str, peers.Peer],
    row: list[int],
    prompt: int = 1,
) -> None:
    """How far from torch's float32 each is on what follows a prompt, read token by token: what speed is paid with."""
    with torch.no_grad():
        exact = torch.log_softmax(model(torch.tensor([row])).logits[0, prompt - 1 :], -1)
    found = {}
    for name, decoder in decoders.items():
        batch = decoder.batch(1, len(row))
        logits = [
            batch.add(np.array([row[:prompt]]))[0].copy(),
            *(batch.step([token])[0].copy() for token in row[prompt:]),
        ]
        found[name] = np.stack(logits)
    with TemporaryDirectory() as folder:
        for name, peer in others.items():
            peer("read", row=row, path=f"{folder}/logits.npy")
            found[name] = np.load(f"{folder}/logits.npy")
    figures = {}
    for name, logits in found.items():
        near = torch.log_softmax(torch.from_numpy(logits), -1)
        nats = float((exact.exp() * (exact - near)).sum(-1).mean())
        figures[name] = {"nats": nats, "same token": float((near.argmax(-1) == exact.argmax(-1)).float().mean())}
    print(
        table(
            [[f"distance from torch fp32 behind {prompt}", "nats a token", "same likeliest token"]]
            + [[name, f"{each['nats']:.4f}", f"{each['same token']:.3f}"] for name, each in figures.items()]
        )
    )
    print(json.dumps({"benchmark": "SmolLM2-135M distance from torch fp32", "tokens": len(exact), "found": figures}))


def decoders_of(built: Bundle) -> dict[str, Decoder]:
    return {
        f"wherry {precision}": Decoder(Session(built.folder / variant.graphs["model"]))
        for precision, variant in built.variants.items()
    }


def readers_of(built: Bundle, decoders: Mapping[str, Decoder]) -> dict[str, Decoder]:
    """The decoders whose prompts a graph of its own reads."""
    graphs = {f"wherry {precision}": variant.graphs for precision, variant in built.variants.items()}
    found = [name for name in decoders if PREFILL in graphs[name]]
    prefill = Session(built.folder / graphs[found[0]][PREFILL])
    return {f"{name}, fast prefill": Decoder(decoders[name].session, prefill=prefill) for name in found}


def check(model: AutoModelForCausalLM, decoder: Decoder, row: list[int]) -> None:
    """fp32 gives transformers' tokens."""
    expected = model.generate(torch.tensor([row]), do_sample=False, max_new_tokens=STEPS, pad_token_id=0)[0, len(row) :]
    found = generate(decoder, [row], GenerationConfig(max_new_tokens=STEPS))[0]
    assert found[: len(expected)] == expected.tolist(), "fp32 does not give transformers' tokens"


if __name__ == "__main__":
    main()
