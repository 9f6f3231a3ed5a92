"""Text to arrays: wherry beside the tokenizers library and transformers. See README.md for what is timed."""

from collections.abc import Callable, Sequence
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import tokenizers
from transformers import AutoTokenizer

from harness import compare
from wherry_exporter.samples import sample
from wherry_tokenization import Tokenizer

LENGTHS = {"1 text, 12 words": (1, 12), "64 texts, 12 words": (64, 12), "64 texts, 120 words": (64, 120)}
"""How many texts, and of how many words each."""

NAMES = {"minilm": "MiniLM, WordPiece", "smollm2": "SmolLM2, byte-level BPE"}


def main() -> None:
    """Compare on texts of two lengths, and on texts longer than the model takes, which are cut."""
    words = " ".join(topics.values()).split()
    workloads = {
        name: [" ".join(words[start * size : (start + 1) * size]) for start in range(count)]
        for name, (count, size) in LENGTHS.items()
    }
    workloads["16 texts, 2,000 words, cut to 512 tokens"] = [
        " ".join(words[start * 2000 : (start + 1) * 2000]) for start in range(16)
    ]
    runs: dict[str, dict[str, Callable[[], int]]] = {}
    for name, title in NAMES.items():
        ways = candidates(name)
        for workload, texts in workloads.items():
            count = int(ways["wherry"](texts)[1].sum())
            for way, encode in ways.items():
                arrays = encode(texts)
                for one, other in zip(arrays, ways["wherry"](texts), strict=True):
                    np.testing.assert_array_equal(one, other, f"{way} on {workload}")
            runs[f"{title}: {workload}"] = {
                way: (lambda encode=encode, texts=texts, count=count: repeated(encode, texts, count))
                for way, encode in ways.items()
            }
    compare("Tokenization", "tokens/s", runs)


def candidates(name: str) -> dict[str, Callable[[Sequence[str]], list[Any]]]:
    """Texts to input ids, attention mask and token types as padded int64 arrays, cut to 512 tokens."""
    ours, theirs = Tokenizer.load(sample(name)), AutoTokenizer.from_pretrained(sample(name))
    rust = tokenizers.Tokenizer.from_file(str(sample(name) / "tokenizer.json"))
    rust.enable_truncation(512)
    rust.enable_padding(pad_id=ours.pad_token_id, pad_token=ours.pad_token)

    def by_wherry(texts: Sequence[str]) -> list[Any]:
        encoding = ours.encode(texts, max_length=512, padding_side="right")
        return [encoding.input_ids, encoding.attention_mask, encoding.token_type_ids]

    def by_tokenizers(texts: Sequence[str]) -> list[Any]:
        encodings = rust.encode_batch(texts)
        return [
            np.array([getattr(encoding, kind) for encoding in encodings], np.int64)
            for kind in ("ids", "attention_mask", "type_ids")
        ]

    def by_transformers(texts: Sequence[str]) -> list[Any]:
        encoded = theirs(
            texts,
            max_length=512,
            truncation=True,
            padding=True,
            padding_side="right",
            return_token_type_ids=True,
            return_tensors="np",
        )
        return [encoded[kind] for kind in ("input_ids", "attention_mask", "token_type_ids")]

    return {"wherry": by_wherry, "tokenizers": by_tokenizers, "transformers": by_transformers}


def repeated(encode: Callable[[Sequence[str]], Any], texts: Sequence[str], count: int) -> int:
    """Encode the texts until it has taken long enough to time; gives the tokens made."""
    times = max(1, 20_000 // count)
    for _ in range(times):
        encode(texts)
    return times * count


if __name__ == "__main__":
    main()
