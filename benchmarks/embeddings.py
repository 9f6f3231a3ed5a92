"""Sentence embeddings of MiniLM: wherry beside transformers on torch. See README.md for what is timed."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from harness import bundle, compare
from wherry import pipeline
from wherry.session import thread_count
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.samples import sample


def main() -> None:
    """Compare on one short text, on a batch of them, and on texts of mixed length."""
    torch.set_num_threads(thread_count())
    tokenizer, model = AutoTokenizer.from_pretrained(sample("minilm")), AutoModel.from_pretrained(sample("minilm"))

    def with_torch(texts: Sequence[str]) -> Any:
        """As transformers' documentation does it, texts sorted by length, 32 at a time."""
        ordered, vectors = sorted(texts, key=len), []
        with torch.no_grad():
            for first in range(0, len(ordered), 32):
                batch = ordered[first : first + 32]
                encoded = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
                mask = encoded["attention_mask"][..., None]
                pooled = (model(**encoded).last_hidden_state * mask).sum(1) / mask.sum(1)
                vectors.append(torch.nn.functional.normalize(pooled))
        return torch.cat(vectors).numpy()

    folder = bundle("minilm", ["fp32", "int8"]).folder
    ways = {
        "torch fp32": with_torch,
        "wherry fp32": pipeline(model=folder, precision="fp32"),
        "wherry int8": pipeline(model=folder, precision="int8"),
    }
    words = PROSE.split()
    short = [" ".join(words[start : start + 12]) for start in range(0, 96, 3)]
    mixed = [*SENTENCES, *(" ".join(words[: 10 + 25 * length]) for length in range(8))] * 2
    workloads = {"1 text, 12 words": short[:1], "32 texts, 12 words": short, "64 texts, 1 to 185 words": mixed}
    compare(
        "MiniLM embeddings",
        "texts/s",
        {
            name: {way: (lambda run=run, texts=texts: len(run(texts))) for way, run in ways.items()}
            for name, texts in workloads.items()
        },
    )


if __name__ == "__main__":
    main()
