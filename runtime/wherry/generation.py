"""The decode loop: prompts of token ids in, one token a row and step out, over a cache that stays on the device.

Knows nothing of text. Streaming, stop strings and chat are dressings over `generate_steps`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from wherry.errors import InputError, SessionError
from wherry.session import Session

Array = np.ndarray[Any, Any]
Sampler = Callable[[Array], Array]


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen and when to end; names and meaning as in transformers' GenerationConfig.

    Attributes:
        max_new_tokens: at most this many tokens a row.
        max_length: at most this many tokens a row, prompt included; the smaller of the two holds.
        do_sample: draw from the distribution instead of taking the likeliest token.
        temperature: divides the logits before drawing; below 1 is sharper.
        top_k: draw among the k likeliest; 0 for all.
        top_p: draw among the likeliest that together reach this probability; 1 for all.
        seed: of the drawing; None for a new one each time.
        eos_token_ids: tokens that end a row.
    """

    max_new_tokens: int = 256
    max_length: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (
            ("max_new_tokens", Integral),
            ("max_length", Integral),
            ("temperature", Real),
            ("top_k", Integral),
            ("top_p", Real),
            ("seed", Integral),
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                what = "a whole number" if kind is Integral else "a number"
                raise InputError(f"{name} must be {what}, not {value!r:.80}")
        checks = (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("max_length", self.max_length is None or self.max_length >= 1, "at least 1"),
            ("temperature", self.temperature > 0, "above 0"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
        )
        for name, good, want in checks:
            if not good:
                raise InputError(f"{name} must be {want}, not {getattr(self, name)}")

    @classmethod
    def from_files(cls, config: Mapping[str, Any], generation: Mapping[str, Any]) -> "GenerationConfig":
        """The defaults that a model's config.json and generation_config.json give."""
        end = generation.get("eos_token_id", config.get("eos_token_id"))
        ends = end if isinstance(end, list) else [] if end is None else [end]
        names = ("do_sample", "temperature", "top_k", "top_p")
        given = {name: generation[name] for name in names if generation.get(name) is not None}
        if given.get("temperature") == 0:  # some repositories say greedy so
            given |= {"temperature": 1.0, "do_sample": False}
        return cls(eos_token_ids=tuple(int(each) for each in ends), **given)

    def updated(self, **options: Any) -> "GenerationConfig":
        """These settings with some changed.

        Raises:
            InputError: an unknown name, or a value out of range.
        """
        unknown = sorted(set(options) - set(self.__dataclass_fields__))
        if unknown:
            raise InputError(f"unknown generation option {', '.join(unknown)}")
        given = {name: value for name, value in options.items() if value is not None}
        if {"temperature", "top_k", "top_p"} & set(given):
            given.setdefault("do_sample", True)
        return replace(self, **given)


def make_sampler(config: GenerationConfig) -> Sampler:
    """(batch, vocabulary) logits to (batch,) token ids, as the configuration says."""
    if not config.do_sample:
        return lambda logits: logits.argmax(-1)
    random = np.random.default_rng(config.seed)

    def sample(logits: Array) -> Array:
        scores = logits.astype(np.float64) / config.temperature
        if 0 < config.top_k < scores.shape[-1]:
            least = np.partition(scores, -config.top_k, axis=-1)[:, -config.top_k, None]
            scores = np.where(scores < least, -np.inf, scores)
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = np.take_along_axis(scores, order, -1)
        chances = np.exp(ranked - ranked[:, :1])
        chances /= chances.sum(-1, keepdims=True)
        before = chances.cumsum(-1) - chances
        chances = np.where(before < config.top_p, chances, 0.0)
        totals = chances.cumsum(-1)
        drawn = random.random((len(scores), 1)) * totals[:, -1:]
        picks = (totals <= drawn).sum(-1, keepdims=True)
        return np.take_along_axis(order, picks, -1)[:, 0]

    return sample


class Decoder:
    """A graph with a cache, run over prompts padded on one side, each row with a length of its own."""

    def __init__(self, session: Session, padding_side: str = "right") -> None:
        """Look at a graph's inputs and outputs.

        Args:
            session: the graph.
            padding_side: `right` for graphs that put new keys after a row's last real one (GroupQueryAttention),
                `left` for those that append them to the cache.

        Raises:
            SessionError: the graph has no cache.
        """
        self.session, self.padding_side = session, padding_side
        self.past = [name for name in session.inputs if name.startswith("past_")]
        self.present = [name.replace("past_key_values.", "present.").replace("past_", "present_") for name in self.past]
        if not self.past or "logits" not in session.outputs:
            raise SessionError(
                "the graph is no decoder with a cache: it lacks past_key_values, or another past, or logits"
            )

    def steps(self, rows: Sequence[Sequence[int]], config: GenerationConfig, sampler: Sampler) -> Iterator[Array]:
        """Decode a batch.

        Args:
            rows: token ids of each prompt, at least one each.

        Yields:
            (batch,) int64: the token of each row at each step; -1 for rows that have ended.
        """
        batch = len(rows)
        lengths = np.array([len(row) for row in rows])
        width = int(lengths.max())
        limits = np.full(batch, config.max_new_tokens)
        if config.max_length is not None:
            limits = np.minimum(limits, config.max_length - lengths)
        ids = np.zeros((batch, width), np.int64)
        left = self.padding_side == "left"
        for index, row in enumerate(rows):
            ids[index, width - len(row) if left else 0 : width if left else len(row)] = row
        ends = np.array(config.eos_token_ids, np.int64)
        columns = np.arange(width + int(limits.max()))
        active = limits > 0
        past: list[Any] = [self._empty(name, batch) for name in self.past]
        starts = (width - lengths if left else np.zeros_like(lengths))[:, None]
        last = (starts[:, 0] + lengths) - 1  # where in this step's logits each row's next token is
        step = 0
        while active.any():
            # A row that has ended goes on with padding; its tokens are thrown away.
            seen = columns[: width + step]
            mask = ((seen >= starts) & (seen < starts + lengths[:, None] + step)).astype(np.int64)
            positions = np.maximum(columns[:width] - starts, 0) if step == 0 else (lengths + step - 1)[:, None]
            logits, past = self._forward(ids, mask, positions, past)
            tokens = sampler(logits[np.arange(batch), last])
            tokens = np.where(active, tokens, -1)
            yield tokens
            step += 1
            active = active & ~np.isin(tokens, ends) & (step < limits)
            ids = np.maximum(tokens, 0)[:, None]
            last = np.zeros(batch, np.int64)

    def _forward(self, ids: Array, mask: Array, positions: Array, past: list[Any]) -> tuple[Array, list[Any]]:
        """One run with the cache bound: it never passes through numpy."""
        session = self.session
        binding = session.raw.io_binding()
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        for name, array in feeds.items():
            if name in session.inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(array, dtype=session.inputs[name].dtype))
        for name, value in zip(self.past, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        kind = "cpu" if session.device == "cpu" else "cuda"
        for name in self.present:
            binding.bind_output(name, kind)
        session.run_bound(binding)
        values = binding.get_outputs()
        return values[0].numpy(), values[1:]

    def _empty(self, name: str, batch: int) -> Any:
        """Keys and values of no token, or a state of zeros."""
        port = self.session.inputs[name]
        sizes = [size if isinstance(size, int) else 0 for size in port.shape[1:]]
        return self.session.value(np.zeros((batch, *sizes), port.dtype))
