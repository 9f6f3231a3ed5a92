"""What generation costs beside the graph: Python's share of a step, the first token, and keeping to a form.

On SmolLM2-135M. See README.md for what is timed.
"""

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from harness import bundle, machine
from wherry import pipeline
from wherry.commands.common import table
from wherry.generation import Decoder, Engine, GenerationConfig
from wherry.generation.grammar import Grammar, Vocabulary
from wherry.session import Session
from wherry_exporter.probe import PROSE

STEPS, ROUNDS = 64, 5
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tons": {"type": "number"},
        "ports": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "tons", "ports"],
}


class Timed:
    """Seconds spent in a session's bound runs."""

    def __init__(self, session: Session) -> None:
        self.seconds, self.run = 0.0, session.run_bound
        session.run_bound = self  # type: ignore[method-assign]

    def __call__(self, *arguments: object, **options: bool) -> None:
        start = time.perf_counter()
        self.run(*arguments, **options)
        self.seconds += time.perf_counter() - start


def main() -> None:
    """Print the shares and one JSON line."""
    built = bundle("smollm2-gguf", ["fp32", "int8", "int4"])
    found: dict[str, float] = {}
    for precision in ("fp32", "int4"):
        pipe = pipeline(None, built.folder, precision=precision)
        prose = pipe.tokenizer.encode(PROSE * 4, truncation=False).input_ids[0].tolist()
        timed = Timed(pipe.session)
        for rows in (1, 8):
            for name, options in (("greedy", {}), ("sampled", {"do_sample": True, "top_p": 0.9, "seed": 0})):
                config = GenerationConfig(max_new_tokens=STEPS, **options)
                shares = [share(pipe.decoder, timed, prose, rows, config) for _ in range(ROUNDS)]
                found[f"{precision}, batch {rows}, {name}: Python's share of a step, %"] = 100 * median(shares)
        found[f"{precision}: first token behind 512 over the bare prefill"] = first(pipe, prose[:512])
        size = pipe.session.outputs["logits"].shape[-1]
        grammar = Grammar(Vocabulary(pipe.tokenizer, size, pipe.defaults.eos_token_ids), json_schema=SCHEMA)
        form, plain = ([step(pipe, each) for _ in range(ROUNDS)] for each in (grammar, None))
        found[f"{precision}: a token by a JSON schema, more ms"] = 1000 * (median(form) - median(plain))
    print(table([["SmolLM2-135M", ""], *([name, f"{value:.3f}"] for name, value in found.items())]))
    print(json.dumps({"benchmark": "loop", "machine": machine(), "rounds": ROUNDS, "median": found}))


def share(decoder: Decoder, timed: Timed, prose: list[int], rows: int, config: GenerationConfig) -> float:
    engine = Engine(decoder, max_rows=rows)
    for row in range(rows):
        engine.submit(prose[row * 16 : row * 16 + 16], config)
    engine.step()
    start, timed.seconds = time.perf_counter(), 0.0
    for _ in engine.run():
        pass
    return 1 - timed.seconds / (time.perf_counter() - start)


def first(pipe: Any, row: list[int]) -> float:
    """The first piece of a stream's text, tokenization included, over reading the same tokens alone."""
    text = pipe.tokenizer.decode(row)
    ids = np.array([pipe.tokenizer.encode(text).input_ids[0]])

    def streamed() -> None:
        next(iter(pipe.stream(text, max_new_tokens=8)))

    def bare() -> None:
        pipe.decoder.batch(1, ids.shape[1]).add(ids)

    taken: dict[Callable[[], None], list[float]] = {streamed: [], bare: []}
    for _ in range(ROUNDS + 1):
        for run, seconds in taken.items():
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return median(taken[streamed][1:]) / median(taken[bare][1:])


def step(pipe: Any, grammar: Grammar | None) -> float:
    """Seconds a token, without the prompt and the first one."""
    engine = Engine(pipe.decoder, max_rows=1)
    config = GenerationConfig(max_new_tokens=STEPS, eos_token_ids=pipe.defaults.eos_token_ids)
    engine.submit(pipe.tokenizer.encode("A ship's record: ").input_ids[0].tolist(), config, grammar=grammar)
    engine.step()
    start = time.perf_counter()
    count = len(list(engine.run()))
    return (time.perf_counter() - start) / count


if __name__ == "__main__":
    main()
