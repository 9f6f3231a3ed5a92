"""Text generation of SmolLM2-135M: wherry beside transformers on torch. See README.md for what is timed."""

from collections.abc import Callable, Sequence

import torch
from transformers import AutoModelForCausalLM

from harness import bundle, compare
from wherry.generation import Decoder, GenerationConfig, generate
from wherry.session import Session, thread_count
from wherry_exporter.probe import PROSE
from wherry_exporter.samples import sample
from wherry_tokenization import Tokenizer

STEPS = 48


def main() -> None:
    """Compare a greedy answer at batch 1 and 8, and a prompt of 512 tokens up to its first token."""
    torch.set_num_threads(thread_count())
    model = AutoModelForCausalLM.from_pretrained(sample("smollm2"))
    built = bundle("smollm2-gguf", ["fp32", "int8", "int4"])
    prose = Tokenizer.load(built.folder).encode(PROSE).input_ids[0].tolist()
    decoders = {
        f"wherry {precision}": Decoder(Session(built.folder / variant.graphs["model"]))
        for precision, variant in built.variants.items()
    }

    def with_torch(rows: Sequence[Sequence[int]], steps: int) -> Callable[[], int]:
        ids = torch.tensor(rows)

        def run() -> int:
            new = {"max_new_tokens": steps, "min_new_tokens": steps}
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **new)
            return len(rows) * steps if steps > 1 else ids.numel()

        return run

    def with_wherry(decoder: Decoder, rows: Sequence[Sequence[int]], steps: int) -> Callable[[], int]:
        config = GenerationConfig(max_new_tokens=steps)

        def run() -> int:
            tokens = generate(decoder, rows, config)
            return sum(map(len, tokens)) if steps > 1 else sum(map(len, rows))

        return run

    long = (prose * 3)[:512]
    workloads = {
        "batch 1, new tokens": ([prose[:16]], STEPS),
        "batch 8, new tokens": ([prose[at : at + 16] for at in range(0, 128, 16)], STEPS),
        "prompt of 512 tokens": ([long], 1),
    }
    expected = model.generate(torch.tensor([prose[:16]]), do_sample=False, max_new_tokens=STEPS, pad_token_id=0)[0, 16:]
    config = GenerationConfig(max_new_tokens=STEPS)
    found = generate(decoders["wherry fp32"], [prose[:16]], config)[0]
    assert found[: len(expected)] == expected.tolist(), "fp32 does not give transformers' tokens"
    compare(
        "SmolLM2-135M generation",
        "tokens/s",
        {
            name: {"torch fp32": with_torch(rows, steps)}
            | {way: with_wherry(decoder, rows, steps) for way, decoder in decoders.items()}
            for name, (rows, steps) in workloads.items()
        },
        rounds=5,
    )


if __name__ == "__main__":
    main()
