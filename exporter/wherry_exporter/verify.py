"""How close a graph comes to the torch model it was made from, and whether that is close enough.

Each graph runs in a bare onnxruntime session on batches and lengths other than those it was traced with, padded,
decoders also step by step over their cache. Knows nothing of how the graph was made.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions

from wherry.pooling import Pooling
from wherry.session import thread_count
from wherry_exporter.errors import ParityError
from wherry_exporter.load import Checkpoint
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.tasks import TASKS
from wherry_tokenization import Tokenizer

Array = np.ndarray[Any, Any]

BATCHES = ((0, 5), (5, 6), (6, 17), (17, 24))
"""Slices of the probe sentences: batches of 5, 1, 11 and 7 rows, each padded to its longest."""

DECODE_STEPS = 6


@dataclass(frozen=True)
class Parity:
    """Figures of one variant against torch in float32.

    Attributes:
        max_abs_diff: largest absolute difference of an output element.
        mean_abs_diff: mean absolute difference.
        cosine: mean cosine similarity of output vectors: per sentence for sentence embeddings, else per token or row.
        cosine_min: the smallest of those.
        top1: share of logit rows whose largest element is the same; None where outputs are no logits.
        perplexity: of a page of English, for language models.
        perplexity_torch: of the same page, for the original.
        vectors: how many output vectors were compared.
    """

    max_abs_diff: float
    mean_abs_diff: float
    cosine: float
    cosine_min: float
    top1: float | None
    perplexity: float | None
    perplexity_torch: float | None
    vectors: int

    def as_dict(self) -> dict[str, float]:
        """The figures that there are, rounded to six significant digits."""
        return {name: float(f"{value:.6g}") for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Limit:
    """What a precision must reach. Figures that a task does not have are not judged."""

    cosine: float
    cosine_min: float
    top1: float
    perplexity: float
    """At most this many times the original's perplexity."""


LIMITS = {
    "fp32": Limit(cosine=0.9999, cosine_min=0.999, top1=0.99, perplexity=1.001),
    "int8": Limit(cosine=0.99, cosine_min=0.95, top1=0.9, perplexity=1.05),
    "int4": Limit(cosine=0.9, cosine_min=-1.0, top1=0.4, perplexity=1.15),
}


def close(parity: Parity) -> bool:
    """Whether a quantized variant is so close that no layer needs a higher precision."""
    if parity.perplexity is not None and parity.perplexity_torch is not None:
        return parity.perplexity <= 1.05 * parity.perplexity_torch
    return parity.cosine >= 0.9935 and parity.cosine_min >= 0.975 and (parity.top1 is None or parity.top1 >= 0.99)


def judge(precision: str, parity: Parity) -> None:
    """Refuse a variant that is beyond the limit of its precision.

    Raises:
        ParityError: names the figure and the limit.
    """
    limit = LIMITS[precision]
    ratio = None
    if parity.perplexity is not None and parity.perplexity_torch is not None:
        ratio = parity.perplexity / parity.perplexity_torch
    for name, figure, bound, good in (
        ("mean cosine", parity.cosine, limit.cosine, parity.cosine >= limit.cosine),
        ("smallest cosine", parity.cosine_min, limit.cosine_min, parity.cosine_min >= limit.cosine_min),
        ("top-1 agreement", parity.top1, limit.top1, parity.top1 is None or parity.top1 >= limit.top1),
        ("perplexity ratio", ratio, limit.perplexity, ratio is None or ratio <= limit.perplexity),
    ):
        if not good:
            raise ParityError(f"{precision} is too far from the original: {name} {figure:.5f}, limit {bound}")


class Verifier:
    """The original's outputs on the probe text, computed once, to compare each variant with."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Run the original.

        Args:
            checkpoint: the model.
            folder: holds the tokenizer's and the pooling's files.
        """
        self.model: Any = checkpoint.model
        self.task = TASKS[checkpoint.task]
        self.pooling = Pooling.load(folder) if checkpoint.task == "sentence-embeddings" else None
        self.tokenizer = Tokenizer.load(folder)
        self.limit = int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 512) or 512)
        torch.set_num_threads(thread_count())
        with torch.no_grad():
            if self.task.decoder:
                self.rows = [self._ids(text, 24) for text in (*SENTENCES[1:8], SENTENCES[17])]
                self.prose = self._ids(PROSE, 256)
                self.expected = [self._logits(row) for row in self.rows]
                self.prose_loss = _loss(self._logits(self.prose), self.prose)
            else:
                longest = " ".join([*SENTENCES, PROSE])
                texts = [list(SENTENCES[first:last]) for first, last in BATCHES] + [[longest, SENTENCES[0]]]
                self.feeds = [self.feed(batch) for batch in texts]
                self.expected = [self._encoded(feed) for feed in self.feeds]

    def feed(self, texts: Sequence[str]) -> dict[str, Array]:
        """Texts as the inputs of an encoder's graph, padded to the longest."""
        length = min(self.limit, self.tokenizer.model_max_length or self.limit, 256)
        encoded = self.tokenizer.encode(texts, max_length=length)
        feed = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
        if (getattr(self.model.config, "type_vocab_size", 0) or 0) > 1:
            feed["token_type_ids"] = encoded.token_type_ids
        return feed

    def measure(self, path: Path) -> Parity:
        """Figures of the graph at `path`."""
        session = _open(path)
        if self.task.decoder:
            return self._measure_decoder(session)
        pairs = [
            (expected, self._vectors(session.run([self.task.output], feed)[0], feed))
            for feed, expected in zip(self.feeds, self.expected, strict=True)
        ]
        return _compare(pairs, logits=self.task.output == "logits")

    def speed(self, path: Path) -> float:
        """How many times as fast as torch the graph runs: a batch of 11 texts, or decoding at batch 1."""
        session = _open(path)
        with torch.no_grad():
            if self.task.decoder:
                return self._decode_speed(session)
            feed = self.feeds[2]
            tensors = {name: torch.from_numpy(array) for name, array in feed.items()}
            return _ratio(lambda: self.model(**tensors), lambda: session.run(None, feed))

    def _encoded(self, feed: dict[str, Array]) -> Array:
        output = self.model(**{name: torch.from_numpy(array) for name, array in feed.items()})
        return self._vectors(output[self.task.output].numpy(), feed)

    def _vectors(self, output: Array, feed: dict[str, Array]) -> Array:
        """The vectors that matter of a graph's output: pooled, or of real tokens, or as they are."""
        if self.pooling is not None:
            return self.pooling.apply(output, feed["attention_mask"])
        vectors: Array = output[feed["attention_mask"].astype(bool)] if output.ndim == 3 else output
        return vectors

    def _measure_decoder(self, session: InferenceSession) -> Parity:
        pairs: list[tuple[Array, Array]] = []
        for first in range(0, len(self.rows), 3):
            rows, expected = self.rows[first : first + 3], self.expected[first : first + 3]
            pairs += zip(expected, _forced(session, rows), strict=True)
        loss = _loss(_forced(session, [self.prose], steps=0)[0], self.prose)
        return _compare(pairs, logits=True, loss=loss, reference=self.prose_loss)

    def _ids(self, text: str, length: int) -> Array:
        encoded = self.tokenizer.encode(text, max_length=min(length, self.limit))
        row: Array = encoded.input_ids[0]
        return row

    def _logits(self, row: Array) -> Array:
        logits: Array = self.model(input_ids=torch.from_numpy(row[None])).logits[0].numpy()
        return logits

    def _decode_speed(self, session: InferenceSession) -> float:
        row, steps = self.rows[0], 8
        prompt = torch.from_numpy(row[None])

        def run_torch() -> None:
            output = self.model(input_ids=prompt, use_cache=True)
            for _ in range(steps):
                token = output.logits[:, -1:].argmax(-1)
                output = self.model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)

        def run_graph() -> None:
            logits, past = _step(session, row[None], np.ones((1, len(row)), np.int64), _no_past(session, 1))
            for step in range(1, steps + 1):
                token = logits[:, -1:].argmax(-1)
                logits, past = _step(session, token, np.ones((1, len(row) + step), np.int64), past)

        return _ratio(run_torch, run_graph, rounds=3)


def _open(path: Path) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = thread_count(), 3
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _forced(session: InferenceSession, rows: Sequence[Array], steps: int = DECODE_STEPS) -> list[Array]:
    """Logits at each position of each row: all but the last `steps` tokens as a prefill, those one at a time."""
    lengths = np.array([len(row) for row in rows])
    prefill = lengths - steps
    width = int(prefill.max())
    ids = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : prefill[index]] = row[: prefill[index]]
    mask = (np.arange(width) < prefill[:, None]).astype(np.int64)
    logits, past = _step(session, ids, mask, _no_past(session, len(rows)))
    found = [[logits[index, : prefill[index]]] for index in range(len(rows))]
    for step in range(steps):
        ids = np.array([[row[at + step]] for row, at in zip(rows, prefill, strict=True)])
        mask = (np.arange(width + step + 1) < (prefill + step + 1)[:, None]).astype(np.int64)
        logits, past = _step(session, ids, mask, past)
        for index in range(len(rows)):
            found[index].append(logits[index])
    return [np.concatenate(parts) for parts in found]


def _step(session: InferenceSession, ids: Array, mask: Array, past: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    logits, *present = session.run(None, {"input_ids": ids, "attention_mask": mask, **past})
    return logits, dict(zip(past, present, strict=True))


def _no_past(session: InferenceSession, batch: int) -> dict[str, Array]:
    return {
        port.name: np.zeros((batch, port.shape[1], 0, port.shape[3]), np.float32)
        for port in session.get_inputs()
        if port.name.startswith("past_key_values")
    }


def _loss(logits: Array, ids: Array) -> float:
    """Mean negative log-likelihood of each token given those before it."""
    scores = logits[:-1].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    chosen = scores[np.arange(len(scores)), ids[1:]]
    return float((np.log(np.exp(scores).sum(-1)) - chosen).mean())


def _compare(
    pairs: Sequence[tuple[Array, Array]],
    *,
    logits: bool,
    loss: float | None = None,
    reference: float | None = None,
) -> Parity:
    expected = np.concatenate([pair[0] for pair in pairs]).astype(np.float64)
    found = np.concatenate([pair[1] for pair in pairs]).astype(np.float64)
    differences = np.abs(expected - found)
    norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(found, axis=-1)
    cosines = (expected * found).sum(-1) / np.maximum(norms, 1e-30)
    return Parity(
        max_abs_diff=float(differences.max()),
        mean_abs_diff=float(differences.mean()),
        cosine=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        top1=float((expected.argmax(-1) == found.argmax(-1)).mean()) if logits else None,
        perplexity=None if loss is None else float(np.exp(loss)),
        perplexity_torch=None if reference is None else float(np.exp(reference)),
        vectors=len(cosines),
    )


def _ratio(slow: Any, fast: Any, rounds: int = 5) -> float:
    """Median time of `slow` over that of `fast`, run in turn after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for run, taken in zip((slow, fast), times, strict=True):
            start = time.perf_counter()
            run()
            if turn:
                taken.append(time.perf_counter() - start)
    return median(times[0]) / median(times[1])
