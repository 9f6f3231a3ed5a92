"""How close a graph comes to the torch model it was made from, and whether that is close enough.

Each graph runs in a bare onnxruntime session on inputs of `probes.py`. Knows nothing of how the graph was made.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from wherry.bundle import PREFILL
from wherry.session import thread_count
from wherry_exporter.errors import ParityError
from wherry_exporter.load import Checkpoint
from wherry_exporter.memory import let_go
from wherry_exporter.probes import DecoderProbe, EncoderDecoderProbe, Graphs, ModelProbe, Probe
from wherry_exporter.probes_multimodal import AudioLanguageProbe, PartsProbe, SeeingPairProbe, VisionLanguageProbe
from wherry_exporter.probes_speech import MusicProbe, SpeechProbe, TransducerProbe
from wherry_exporter.tasks import has_encoder, shape_of
from wherry_exporter.towers import parts_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Parity:
    """Figures of one variant against torch in float32.

    Attributes:
        max_abs_diff: largest absolute difference of an output element.
        mean_abs_diff: mean absolute difference.
        max_rel_diff: largest absolute difference in an output over the largest element of that output.
        cosine: mean cosine similarity of output vectors: per sentence for sentence embeddings, else per token or row.
            Of logits for the next token without their mean.
        cosine_min: the smallest of those.
        top1: share of logit vectors, of tokens or pixels, whose largest element is one of the original's largest, which
            rounding may not tell apart; None where outputs are no logits.
        perplexity: of a page of English, for language models.
        perplexity_torch: of the same page, for the original.
        vectors: how many output vectors were compared.
    """

    max_abs_diff: float
    mean_abs_diff: float
    max_rel_diff: float
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
    max_rel_diff: float = math.inf
    """At most."""


LIMITS = {
    "fp32": Limit(cosine=0.9999, cosine_min=0.999, top1=0.99, perplexity=1.001, max_rel_diff=1e-3),
    "fp16": Limit(cosine=0.999, cosine_min=0.99, top1=0.98, perplexity=1.01),
    "bf16": Limit(cosine=0.995, cosine_min=0.95, top1=0.9, perplexity=1.02),
    "int8": Limit(cosine=0.99, cosine_min=0.95, top1=0.9, perplexity=1.05),
    "int4": Limit(cosine=0.9, cosine_min=-1.0, top1=0.4, perplexity=1.15),
}
LIMITS |= {"quantized": LIMITS["int8"], "uint8": LIMITS["int8"], "int4f16": LIMITS["int4"], "bnb4": LIMITS["int4"]}


def close(precision: str, parity: Parity) -> bool:
    """Whether a quantized variant is so close that no layer needs a higher precision.

    `PREFILL` is judged with the decoder in 8 bits behind it.
    """
    if precision == PREFILL:
        try:
            judge("int8", parity)
        except ParityError:
            return False
        return True
    if parity.perplexity is not None and parity.perplexity_torch is not None:
        return parity.perplexity <= 1.05 * parity.perplexity_torch
    if "4" in precision:
        cosine, smallest, top1 = 0.98, 0.9, 0.95
    else:  # of what only gives vectors, the whole direction counts; where classes are chosen, the choice does
        cosine, smallest, top1 = (0.9935, 0.975, 1.0) if parity.top1 is None else (0.99, 0.96, 0.985)
    return parity.cosine >= cosine and parity.cosine_min >= smallest and (parity.top1 is None or parity.top1 >= top1)


def judge(precision: str, parity: Parity) -> None:
    """Refuse a variant that is beyond the limit of its precision.

    Raises:
        ParityError: names the figure and the limit.
    """
    limit = LIMITS[precision]
    ratio, difference = None, parity.max_rel_diff
    if parity.perplexity is not None and parity.perplexity_torch is not None:
        ratio = parity.perplexity / parity.perplexity_torch
    for name, figure, bound, good in (
        ("mean cosine", parity.cosine, limit.cosine, parity.cosine >= limit.cosine),
        ("smallest cosine", parity.cosine_min, limit.cosine_min, parity.cosine_min >= limit.cosine_min),
        ("top-1 agreement", parity.top1, limit.top1, parity.top1 is None or parity.top1 >= limit.top1),
        ("largest relative difference", difference, limit.max_rel_diff, difference <= limit.max_rel_diff),
        ("perplexity ratio", ratio, limit.perplexity, ratio is None or ratio <= limit.perplexity),
    ):
        if not good:
            raise ParityError(f"{precision} is too far from the original: {name} {figure:.5f}, limit {bound}")


class Verifier:
    """Measures variants of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, padding_side: str = "right") -> None:
        """Run the original.

        Args:
            checkpoint: the model.
            folder: holds the tokenizer's and the pooling's files.
            padding_side: where a decoder's rows of unlike length are padded.
        """
        self.writes = shape_of(checkpoint.task, checkpoint.model) != "model"
        self.model, self.weights = checkpoint.model, checkpoint.weights
        self._seconds: float | None = None
        with torch.no_grad():
            self.probe = probe_for(checkpoint, folder, padding_side)

    def prove(self, graphs: Graphs, *, timed: bool) -> tuple[Parity, float | None]:
        """Figures of the float32 graphs, by role, and, if `timed`, how many times as fast as torch they run.

        Raises:
            ParityError: they do not compute what the original does.
        """
        opened = self._open(graphs)
        parity = self._compare(opened)
        judge("fp32", parity)
        if not timed:
            return parity, None
        with torch.no_grad():
            slow, fast = self.probe.racers(opened)
        del opened
        taken = pace(fast)
        del fast  # and the graphs, to make room for the original
        return parity, self._original(slow) / taken

    def measure(self, graphs: Graphs) -> Parity:
        """Figures of the graphs, by role."""
        return self._compare(self._open(graphs))

    def speed(self, graphs: Graphs) -> float:
        """How many times as fast as torch the graphs run."""
        with torch.no_grad():
            slow, fast = self.probe.racers(self._open(graphs))
        fast()
        taken = pace(fast)
        del fast
        return self._original(slow) / taken

    def _original(self, run: Callable[[], Any]) -> float:
        """Seconds of the original, timed once: its work is the same for every variant.

        Its weights, which made room, are mapped again before the clock runs.
        """
        if self._seconds is None:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.flatten()[::PAGE].sum()
                self._seconds = pace(run)
        return self._seconds

    def _open(self, graphs: Graphs) -> Any:
        """What runs the graphs; the original's weights, which it does without, make room for theirs."""
        let_go(self.weights)
        return self.probe.open(graphs)

    def _compare(self, opened: Any) -> Parity:
        tally = Tally(writes=self.writes)
        for name, pair in self.probe.pairs(opened):
            tally.add(name, *pair)
            del pair  # before the next outputs are computed
        losses = self.probe.losses(opened)
        with np.errstate(over="ignore"):
            return tally.parity(*(float(np.exp(loss)) for loss in losses) if losses else (None, None))


def probe_for(checkpoint: Checkpoint, folder: Path, padding_side: str) -> Probe:
    """The probe of a checkpoint whose tokenizer and pooling are in `folder`."""
    torch.set_num_threads(thread_count())
    shape = shape_of(checkpoint.task, checkpoint.model)
    if shape == "decoder":
        return DecoderProbe(checkpoint, folder, padding_side)
    if shape == "encoder-decoder":
        return EncoderDecoderProbe(checkpoint, folder)
    if shape == "vision-language" and has_encoder(checkpoint.model):
        return SeeingPairProbe(checkpoint, folder)
    if shape == "vision-language":
        return VisionLanguageProbe(checkpoint, folder, padding_side)
    if shape == "audio-language":
        return AudioLanguageProbe(checkpoint, folder, padding_side)
    if shape == "speech":
        return SpeechProbe(checkpoint)
    if shape == "transducer":
        return TransducerProbe(checkpoint)
    if shape == "music":
        return MusicProbe(checkpoint, folder)
    parts = parts_of(checkpoint)
    return PartsProbe(parts, folder) if len(parts) > 1 else ModelProbe(checkpoint, folder)


ROUNDING = 1e-5
"""By so much of the largest logit the original itself says nothing of which is the larger."""
UNHEARD_OF, HALF = float(np.finfo(np.float32).max), float(np.finfo(np.float16).max)
"""The original says by the one, or by infinity, what cannot be; a graph of float16 by the other at least."""
BLOCK = 2**16
"""Elements that are compared at once: in float64 they fit in a cache."""


class Tally:
    """Adds up how alike vectors are."""

    def __init__(self, *, writes: bool) -> None:
        """Of outputs whose logits, if `writes`, are for the next token.

        Those pass through softmax, which does not see what is added to all of them, so their cosine is taken without
        their mean. A mean near zero that moves by a few tenths would else turn a vector that says the same.
        """
        self.writes = writes
        self.largest: dict[str, tuple[float, float]] = {}  # of each output: difference, and element
        self.total, self.count = 0.0, 0
        self.cosines: list[Array] = []
        self.same: list[Array] = []

    def add(self, name: str, expected: Array, found: Array) -> None:
        """Compare (vectors, size) of the output of that name."""
        rows = max(1, BLOCK // expected.shape[-1])
        for first in range(0, len(expected), rows):
            self._add(name, expected[first : first + rows], found[first : first + rows])

    def _add(self, name: str, expected: Array, found: Array) -> None:
        expected, found = expected.astype(np.float64), found.astype(np.float64)
        never = (np.abs(expected) >= UNHEARD_OF) & (np.abs(found) >= HALF) & ((expected > 0) == (found > 0))
        if hidden := bool(never.any()):
            expected, found = (np.where(never, 0, each) for each in (expected, found))
        differences = np.abs(expected - found)
        difference, element = self.largest.get(name, (0.0, 0.0))
        self.largest[name] = max(difference, float(differences.max())), max(element, float(np.abs(expected).max()))
        self.total, self.count = self.total + float(differences.sum()), self.count + found.size
        if "logits" in name and "mask" not in name and expected.shape[-1] > 1:  # whether a mask holds is no choice
            choices, chosen = expected, found
            if hidden:
                lowest = min(expected.min(), found.min()) - 1  # so that nobody chooses what cannot be
                choices, chosen = (np.where(never, lowest, each) for each in (expected, found))
            best = np.take_along_axis(choices, chosen.argmax(-1)[:, None], -1)[:, 0]
            self.same.append(choices.max(-1) - best <= ROUNDING * np.abs(expected).max(-1))
        if "logits" in name and self.writes:
            expected, found = (each - each.mean(-1, keepdims=True) for each in (expected, found))
        norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(found, axis=-1)
        products = (expected * found).sum(-1)
        self.cosines.append(np.where(norms > 0, products / np.where(norms > 0, norms, 1), norms == products))

    def parity(self, reference: float | None, perplexity: float | None) -> Parity:
        """The figures, with the perplexities of the original and of the graph where there are some."""
        cosine = np.concatenate(self.cosines)
        return Parity(
            max_abs_diff=max(difference for difference, _ in self.largest.values()),
            mean_abs_diff=self.total / self.count,
            max_rel_diff=max(difference / max(element, 1e-30) for difference, element in self.largest.values()),
            cosine=float(cosine.mean()),
            cosine_min=float(cosine.min()),
            top1=float(np.concatenate(self.same).mean()) if self.same else None,
            perplexity=perplexity,
            perplexity_torch=reference,
            vectors=len(cosine),
        )


PAGE = 1024
"""Elements of float32 in a page of memory."""
ROUNDS, ENOUGH = 4, 0.25
"""Of timing: so many, or fewer once they took more seconds than that."""


def pace(run: Callable[[], Any]) -> float:
    """Median seconds of what has run before."""
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) <= ENOUGH:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)
