"""How tokens are chosen and when a generation ends: transformers' GenerationConfig, checked."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from wherry.errors import InputError

Check = Callable[[str, Any], Any]  # (name, value) to the value as it is kept; InputError where it is wrong


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _wrong(name: str, want: str, value: Any) -> InputError:
    return InputError(f"{name} must be {want}, not {value!r:.80}")


def _whole(least: int, most: int | None = None) -> Check:
    def check(name: str, value: Any) -> int:
        if not _is(value, Integral):
            raise _wrong(name, "a whole number", value)
        if value < least or (most is not None and value > most):
            want = {0: "0 or more", 1: "at least 1"}[least] if most is None else f"{least} to {most}"
            raise _wrong(name, want, value)
        return int(value)

    return check


def _number(want: str, good: Callable[[float], bool]) -> Check:
    def check(name: str, value: Any) -> float:
        if not _is(value, Real):
            raise _wrong(name, "a number", value)
        if not good(value):
            raise _wrong(name, want, value)
        return float(value)

    return check


def _optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def _early(name: str, value: Any) -> Any:
    if not isinstance(value, bool) and value != "never":
        raise _wrong(name, 'true, false or "never"', value)
    return value


def _tokens(name: str, value: Any) -> tuple[int, ...]:
    several = (value,) if _is(value, Integral) else value
    if not _is_list(several) or not all(_is(each, Integral) and each >= 0 for each in several):
        raise _wrong(name, "token ids of 0 or more", value)
    return tuple(int(each) for each in several)


def _words(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    if not _is_list(value) or not all(_is_list(word) and len(word) for word in value):
        raise _wrong(name, "a list of lists of token ids", value)
    return tuple(_tokens(name, word) for word in value)


def _decay(name: str, value: Any) -> tuple[int, float]:
    if not _is_list(value) or len(value) != 2:
        raise _wrong(name, "a start and a factor", value)
    return _whole(0)(f"{name}'s start", value[0]), _above_zero(f"{name}'s factor", value[1])


def _texts(name: str, value: Any) -> tuple[str, ...]:
    several = (value,) if isinstance(value, str) else value
    if not _is_list(several) or not all(isinstance(each, str) and each for each in several):
        raise _wrong(name, "texts that are not empty", value)
    return tuple(several)


def _biases(name: str, value: Any) -> dict[int, float]:
    """JSON has texts for keys, so "5" is token 5."""
    if not isinstance(value, Mapping):
        raise _wrong(name, "a mapping from token ids to numbers", value)
    numbers = {int(key) if isinstance(key, str) and key.isdecimal() else key: bias for key, bias in value.items()}
    return {_whole(0)(f"each key of {name}", key): _bias(f"each bias of {name}", bias) for key, bias in numbers.items()}


def _sequence_biases(name: str, value: Any) -> dict[tuple[int, ...], float]:
    """A mapping, or what JSON has for it: a list of pairs."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not _is_list(pairs) or not all(_is_list(pair) and len(pair) == 2 and _is_list(pair[0]) for pair in pairs):
        raise _wrong(name, "a mapping from tuples of token ids to numbers", value)
    words = _words(f"each key of {name}", [sequence for sequence, _ in pairs])
    return {word: _bias(f"each bias of {name}", bias) for word, (_, bias) in zip(words, pairs, strict=True)}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


_above_zero = _number("above 0", lambda value: 0 < value < math.inf)
_finite = _number("finite", math.isfinite)
_bias = _number("below infinity", lambda value: value < math.inf)
_share = _number("above 0 and at most 1", lambda value: 0 < value <= 1)
_least_share = _number("0 or more and at most 1", lambda value: 0 <= value <= 1)
_cutoff = _number("0 or more and below 1", lambda value: 0 <= value < 1)
_token = _optional(_whole(0))


def _option(default: Any, check: Check) -> Any:
    return field(default=default, metadata={"check": check})


def _mapping(check: Check) -> Any:
    return field(default_factory=dict, hash=False, metadata={"check": check})


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen and when to end; names and meaning as in transformers' GenerationConfig.

    Attributes:
        max_new_tokens: at most this many tokens a row.
        max_length: at most this many tokens a row, prompt included; the smaller of the two holds.
        min_length: no end before this many tokens, prompt included.
        min_new_tokens: no end before this many new tokens; holds instead of min_length.
        stop_strings: texts that end a row.
        do_sample: draw from the distribution instead of taking the likeliest token.
        temperature: divides the logits before drawing; below 1 is sharper.
        top_k: draw among the k likeliest; 0 for all.
        top_p: draw among the likeliest that together reach this probability; 1 for all.
        min_p: draw among those at least this many times as likely as the likeliest.
        typical_p: draw among the most typical that together reach this probability; 1 for all.
        epsilon_cutoff: draw among those at least this likely; 0 for all.
        eta_cutoff: as epsilon_cutoff, lower where the distribution is flat; 0 for all.
        seed: of the drawing; None for a new one each time.
        num_return_sequences: so many results a prompt, drawn independently or the best of the beams.
        num_beams: beams of a beam search; 1 for none.
        length_penalty: power of the length that divides a beam's score; above 0 favors long ones.
        early_stopping: whether a beam search ends as soon as it has num_beams results; "never" for the fullest search.
        repetition_penalty: divides the logits of tokens that are there already, the prompt's too; 1 for none.
        frequency_penalty: subtracted from a new token's logit as often as it is there; 0 for none.
        presence_penalty: subtracted once from the logits of new tokens that are there; 0 for none.
        no_repeat_ngram_size: no sequence of this many tokens twice; 0 for any.
        bad_words_ids: sequences of tokens that never come.
        logit_bias: added to the logits of these tokens.
        sequence_bias: added to the logit of the last token of a sequence whose other tokens are there.
        suppress_tokens: tokens that never come.
        begin_suppress_tokens: tokens that never come first.
        forced_bos_token_id: the token right after the first.
        forced_eos_token_id: the last token, or one of several, where a row reaches its greatest length.
        exponential_decay_length_penalty: (start, factor): from this many new tokens on an end gets likelier.
        remove_invalid_values: take logits that are no numbers for 0, and infinite ones for the greatest.
        renormalize_logits: scores are log-probabilities again after all else; for beam search.
        decoder_start_token_id: what the decoder of an encoder-decoder begins with.
        pad_token_id: fills rows that have ended.
        eos_token_ids: tokens that end a row.
        prompt_lookup_num_tokens: guess so many tokens from what followed the same ones before, and take those that come
            out anyway; None not to. Faster where a text repeats itself or its prompt, and never another text.
        num_assistant_tokens: the most tokens that an assistant guesses before they are looked at.
        assistant_confidence_threshold: the least probability that it must give to a token to go on guessing.
        max_time: seconds after which no further token is begun; None for any time.
        logprobs: also tell each token's log-probability in the model's own distribution.
        top_logprobs: and those of so many likeliest tokens.
    """

    max_new_tokens: int = _option(256, _whole(1))
    max_length: int | None = _option(None, _optional(_whole(1)))
    min_length: int = _option(0, _whole(0))
    min_new_tokens: int | None = _option(None, _optional(_whole(0)))
    stop_strings: tuple[str, ...] = _option((), _texts)
    do_sample: bool = _option(False, _flag)
    temperature: float = _option(1.0, _above_zero)
    top_k: int = _option(50, _whole(0))
    top_p: float = _option(1.0, _share)
    min_p: float | None = _option(None, _optional(_least_share))
    typical_p: float = _option(1.0, _share)
    epsilon_cutoff: float = _option(0.0, _cutoff)
    eta_cutoff: float = _option(0.0, _cutoff)
    seed: int | None = _option(None, _optional(_whole(0)))
    num_return_sequences: int = _option(1, _whole(1))
    num_beams: int = _option(1, _whole(1))
    length_penalty: float = _option(1.0, _finite)
    early_stopping: bool | str = _option(False, _early)
    repetition_penalty: float = _option(1.0, _above_zero)
    frequency_penalty: float = _option(0.0, _finite)
    presence_penalty: float = _option(0.0, _finite)
    no_repeat_ngram_size: int = _option(0, _whole(0))
    bad_words_ids: tuple[tuple[int, ...], ...] = _option((), _words)
    logit_bias: Mapping[int, float] = _mapping(_biases)
    sequence_bias: Mapping[tuple[int, ...], float] = _mapping(_sequence_biases)
    suppress_tokens: tuple[int, ...] = _option((), _tokens)
    begin_suppress_tokens: tuple[int, ...] = _option((), _tokens)
    forced_bos_token_id: int | None = _option(None, _token)
    forced_eos_token_id: tuple[int, ...] = _option((), _tokens)
    exponential_decay_length_penalty: tuple[int, float] | None = _option(None, _optional(_decay))
    remove_invalid_values: bool = _option(False, _flag)
    renormalize_logits: bool = _option(False, _flag)
    decoder_start_token_id: int | None = _option(None, _token)
    pad_token_id: int | None = _option(None, _token)
    eos_token_ids: tuple[int, ...] = _option((), _tokens)
    prompt_lookup_num_tokens: int | None = _option(None, _optional(_whole(1)))
    num_assistant_tokens: int = _option(20, _whole(1))
    assistant_confidence_threshold: float = _option(0.4, _least_share)
    max_time: float | None = _option(None, _optional(_above_zero))
    logprobs: bool = _option(False, _flag)
    top_logprobs: int = _option(0, _whole(0, 20))

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, each.metadata["check"](each.name, getattr(self, each.name)))
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise InputError(
                f"num_return_sequences is {self.num_return_sequences}, but without sampling or beams all would be the "
                f"same: pass do_sample=True or num_beams={self.num_return_sequences}"
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise InputError(
                f"num_return_sequences must be at most num_beams ({self.num_beams}), not {self.num_return_sequences}"
            )
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InputError(
                f"min_new_tokens must be at most max_new_tokens ({self.max_new_tokens}), not {self.min_new_tokens}"
            )
        if self.top_logprobs and not self.logprobs:
            raise InputError(f"top_logprobs is {self.top_logprobs}, but logprobs is not on: pass logprobs=True")
        first = () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)
        for name, forced in (("forced_bos_token_id", first), ("forced_eos_token_id", self.forced_eos_token_id)):
            if forced and set(forced) <= set(self.suppress_tokens):
                raise InputError(f"{name} is in suppress_tokens too: a token cannot be both forced and ruled out")

    @classmethod
    def from_files(cls, config: Mapping[str, Any], generation: Mapping[str, Any]) -> "GenerationConfig":
        """The defaults that a model's config.json and generation_config.json give.

        Without a generation_config.json they are config.json's or, there, those of its decoder, as in transformers.

        Raises:
            InputError: a value that no model can mean.
        """
        parts = [config.get(name) for name in ("decoder", "generator", "text_config")]
        inner: list[Mapping[str, Any]] = [part for part in parts if isinstance(part, Mapping)][:1]
        legacy = {name: value for part in (*inner, config) for name, value in _without_null(part).items()}
        told = _without_null(generation) or legacy
        tokens = {name: told.get(name, legacy.get(name)) for name in _TOKENS}
        if config.get("is_encoder_decoder") and tokens["decoder_start_token_id"] is None:
            tokens["decoder_start_token_id"] = tokens["bos_token_id"]
        tokens["eos_token_ids"] = tokens.pop("eos_token_id")
        del tokens["bos_token_id"]
        given = {name: told[name] for name in _IN_FILES if name in told} | _without_null(tokens)
        given = {name: _tolerated(name, value) for name, value in given.items()}
        if given.get("temperature") == 0 or given.get("top_p") == 0:  # some repositories say greedy so
            given |= {"temperature": 1.0, "top_p": 1.0, "do_sample": False}
        if "max_length" in given:  # then it alone is the limit
            given.setdefault("max_new_tokens", given["max_length"])
        try:
            return cls(**_without_null(given))
        except InputError as error:
            raise InputError(f"{'generation_config.json' if generation else 'config.json'}: {error}") from error

    def updated(self, **options: Any) -> "GenerationConfig":
        """These settings with some changed; None leaves a setting as it is.

        Raises:
            InputError: an unknown name, a value out of range, or values that do not go together.
        """
        names = [each.name for each in fields(self)]
        unknown = sorted(set(options) - set(names))
        if unknown:
            near = [match for name in unknown for match in difflib.get_close_matches(name.lower(), names, 1)]
            hint = f": did you mean {', '.join(near)}?" if near else ""
            raise InputError(f"unknown generation option {', '.join(unknown)}{hint}")
        given = _without_null(options)
        if _SAMPLING & set(given):
            given.setdefault("do_sample", True)
        if "max_new_tokens" in given:  # it says how long: a length that the model's files give no longer holds
            given.setdefault("max_length", None)
        return replace(self, **given)


_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
_TOKENS = ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id")
# The rest are not transformers', or are a caller's to choose.
_IN_FILES = {each.name for each in fields(GenerationConfig)} - {
    *("seed", "logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty"),
    *("eos_token_ids", "decoder_start_token_id", "pad_token_id"),
}


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _tolerated(name: str, value: Any) -> Any:
    """A value of a model's file, where files say in other words what is meant: -1 for none, 50.0 for 50."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if name == "top_k" and value == -1:
        return 0
    if "token" in name and _is_list(value):
        return [each for each in value if each != -1]
    return None if "token" in name and value == -1 else value
