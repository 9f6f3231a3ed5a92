"""Encoders with decoders of usual shapes and random weights: wherry beside transformers on torch and CTranslate2.

    python benchmarks/seq2seq.py --peers PYTHON

PYTHON is that of an environment with what peers.txt names. See README.md for what is timed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq, GenerationMixin

import peers
from harness import compare
from wherry.bundle import Bundle
from wherry.generation import Decoder, Engine, GenerationConfig, search
from wherry.session import Session, thread_count

STEPS, WORDS, ROWS = 32, 24, 4
Array = np.ndarray[Any, Any]


class Wherry:
    """A bundle's encoder and decoder, over arrays."""

    def __init__(self, built: Bundle, precision: str, start: list[int]) -> None:
        graphs = built.variant(precision).graphs
        self.encoder, decoder = (
            Session(built.folder / graphs[role]) for role in ("encoder_model", "decoder_model_merged")
        )
        self.decoder, self.start = Decoder(decoder, "left"), start

    def __call__(self, inputs: dict[str, Array], beams: int) -> list[list[int]]:
        config = GenerationConfig(max_new_tokens=STEPS, num_beams=beams)
        states = self.encoder.run(inputs)["last_hidden_state"]
        rows = [{"encoder_hidden_states": states[row : row + 1]} for row in range(len(states))]
        if beams > 1:
            found = search(self.decoder, [self.start] * len(rows), config, rows)
            return [list(best.tokens) for best, *_ in found]
        engine = Engine(self.decoder)
        requests = [engine.submit(self.start, config, row) for row in rows]
        for _ in engine.run():
            pass
        return [request.choosers[0].ids[len(self.start) :].tolist() for request in requests]


def by_torch(model: Any, inputs: dict[str, Array], start: list[int], beams: int) -> list[list[int]]:
    """Without Whisper's own loop, which is about what to suppress and about timestamps."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    ids = torch.tensor([start]).expand(len(next(iter(given.values()))), -1)
    quiet = {"suppress_tokens": None, "begin_suppress_tokens": None, "forced_decoder_ids": None, "eos_token_id": None}
    found = GenerationMixin.generate(
        model,
        **given,
        decoder_input_ids=ids,
        do_sample=False,
        num_beams=beams,
        max_new_tokens=STEPS,
        max_length=None,
        **quiet,
    )
    return found[:, len(start) :].tolist()


def candidates(
    name: str, kind: str, python: Path, inputs: dict[str, Array], start: list[int]
) -> dict[str, Callable[[int], object]]:
    """Runtime to a function of the number of beams."""
    built = Bundle.load(peers.exported(name, ["fp32", "int8"]))
    auto = AutoModelForSpeechSeq2Seq if name.startswith("whisper") else AutoModelForSeq2SeqLM
    model = auto.from_pretrained(peers.checkpoint(name)).eval()
    ours = {f"wherry {precision}": Wherry(built, precision, start) for precision in built.variants}
    for beams in (1, 4):
        found, expected = ours["wherry fp32"](inputs, beams), by_torch(model, inputs, start, beams)
        assert found == expected, f"{name} in fp32 does not give transformers' tokens with {beams} beams"
    ways: dict[str, Callable[[int], object]] = {"torch fp32": lambda beams: by_torch(model, inputs, start, beams)}
    for way, pipe in ours.items():
        ways[way] = lambda beams, pipe=pipe: pipe(inputs, beams)
    for way, peer in peers.ctranslate2(python, name, kind).items():
        ways[way] = lambda beams, peer=peer: asked(peer, inputs, start, beams)
    return ways


def asked(peer: peers.Peer, inputs: dict[str, Array], start: list[int], beams: int) -> object:
    if "input_ids" in inputs:
        rows = [[f"w{token}" for token in row] for row in inputs["input_ids"]]
        return peer("translate", rows=rows, steps=STEPS, beams=beams)
    path = peers.MADE / "features.npy"
    np.save(path, inputs["input_features"])
    return peer("hear", features=str(path), prompt=start, steps=STEPS, beams=beams)


def main() -> None:
    """Compare greedy answers and answers by 4 beams of T5-small, Marian and Whisper-base shapes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True)
    python = parser.parse_args().peers
    torch.set_num_threads(thread_count())
    random = np.random.default_rng(0)
    texts = {"input_ids": random.integers(5, 30000, (ROWS, WORDS)), "attention_mask": np.ones((ROWS, WORDS), np.int64)}
    sounds = {"input_features": random.normal(size=(1, 80, 3000)).astype(np.float32)}
    for name, kind, inputs, start in (
        ("t5-small", "CTranslate2 pair", texts, [0]),
        ("marian", "CTranslate2 pair", texts, [58100]),
        ("whisper-base", "CTranslate2 Whisper", sounds, [50258, 50259, 50359, 50363]),
    ):
        ways = candidates(name, kind, python, inputs, start)
        count = len(next(iter(inputs.values()))) * STEPS
        runs = {
            f"{name}, {said}": {way: counted(run, beams, count) for way, run in ways.items()}
            for said, beams in (("greedy", 1), ("4 beams", 4))
        }
        compare(f"{name}, new tokens", "tokens/s", runs, rounds=9)


def counted(run: Callable[[int], object], beams: int, count: int) -> Callable[[], int]:
    def counting() -> int:
        run(beams)
        return count

    return counting


if __name__ == "__main__":
    main()
