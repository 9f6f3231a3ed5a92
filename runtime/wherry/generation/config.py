"""How tokens are chosen and when a generation ends: transformers' GenerationConfig, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

from wherry.errors import InputError


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
