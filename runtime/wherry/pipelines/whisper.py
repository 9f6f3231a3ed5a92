"""Whisper's way through a sound: 30 seconds at a time, each from the last timestamp of what was written before.

As transformers' generate for Whisper: prompts, language detection, and hotter tries where a text is doubtful.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wherry.audio.alignment import first_frames
from wherry.audio.features import WhisperFeatures
from wherry.errors import InputError
from wherry.generation import Decoder, Engine, GenerationConfig, search
from wherry.generation.processors import Processor
from wherry.generation.timestamps import Confidence, Timestamps
from wherry.pipelines.languages import CODES
from wherry.pipelines.transcript import STEP, Piece
from wherry.session import Session

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Manner:
    """How a sound is written down; names and meaning as in transformers' generate for Whisper.

    Attributes:
        timestamps: whether the model writes timestamps.
        words: whether to find out when each token was said.
        language: a name, a code or a token; None to find out.
        task: `transcribe` or `translate` (into English).
        prompt_ids: tokens before the first window: words and names to expect.
        condition_on_prev_tokens: whether each window is told what was written before.
        temperatures: tried one after another while a text is doubtful.
        compression_ratio_threshold: a text that compresses better repeats itself.
        logprob_threshold: a text of a lower mean log-probability is a guess.
        no_speech_threshold: such a guess is left out where no speech is likelier than this.
    """

    config: GenerationConfig
    timestamps: bool = False
    words: bool = False
    language: str | None = None
    task: str | None = None
    prompt_ids: tuple[int, ...] = ()
    condition_on_prev_tokens: bool = False
    temperatures: tuple[float, ...] = (0.0,)
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None


OPTIONS = (
    "language",
    "task",
    "prompt_ids",
    "condition_on_prev_tokens",
    "compression_ratio_threshold",
    "logprob_threshold",
    "no_speech_threshold",
)


@dataclass(eq=False)
class Reading:
    """A sound, or a part of one, that is being written down.

    Attributes:
        window: gives the features (mels, frames) from a frame on.
        frames: how many there are.
        heard: how many of them are the sound; the rest is padding.
        language: the token of its language, once that is known.
        segments: the tokens of what was written.
        seek: the frame where the next window begins.
    """

    window: Callable[[int], Array]
    frames: int
    heard: int
    language: int | None = None
    segments: list[list[int]] = field(default_factory=list)
    seek: int = 0
    calm: bool = True

    @property
    def done(self) -> bool:
        return self.seek >= self.frames


@dataclass(frozen=True)
class _Written:
    tokens: list[int]
    ended: bool
    doubtful: bool
    silent: bool


class Whisper:
    """The model: an encoder of windows and a decoder.

    Attributes:
        first: the token of 0.00 seconds.
    """

    def __init__(
        self,
        encoder: Session,
        decoder: Decoder,
        features: WhisperFeatures,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
    ) -> None:
        self.encoder, self.decoder, self.features = encoder, decoder, features
        self.generation, self.vocabulary = generation, int(config["vocab_size"])
        self.positions = int(config["max_target_positions"])
        self.frames = 2 * int(config["max_source_positions"])
        self.languages: Mapping[str, int] = generation.get("lang_to_id") or {}
        self.tasks: Mapping[str, int] = generation.get("task_to_id") or {}
        self.no_timestamps: int | None = generation.get("no_timestamps_token_id")
        self.first = self.vocabulary + 1 if self.no_timestamps is None else self.no_timestamps + 1
        self.heads: Sequence[Sequence[int]] = generation.get("alignment_heads") or ()
        self.smoothing = int(config.get("median_filter_width", 7))
        self.forced = generation.get("forced_decoder_ids") or config.get("forced_decoder_ids") or ()

    def manner(
        self, config: GenerationConfig, *, timestamps: bool, words: bool, temperature: Any, **options: Any
    ) -> Manner:
        """Checked options; what is None is as the model's generation_config.json says.

        Raises:
            InputError: an option of the wrong type, an unknown language, or one that the model does not have.
        """
        told = {name: self.generation.get(name) for name in OPTIONS} | {
            name: value for name, value in options.items() if value is not None
        }
        given = {name: value for name, value in told.items() if value is not None}
        if timestamps and self.no_timestamps is None:
            raise InputError(
                "this model's generation_config.json has no no_timestamps_token_id: it writes no timestamps"
            )
        if words and not self.heads:
            raise InputError(
                "this model's generation_config.json has no alignment_heads, which tell when words were said: pass "
                "return_timestamps=True for timestamps of segments"
            )
        if words and not {layer for layer, _ in self.heads} <= self.decoder.attends:
            raise InputError(
                "timestamps of words need the decoder's cross-attention, which its graph does not give: export the "
                "model anew with wherry export, or pass return_timestamps=True for those of segments"
            )
        if not self.generation.get("is_multilingual", True) and {"language", "task"} & set(given):
            raise InputError("this model knows English alone: leave language and task out")
        temperatures = temperature if isinstance(temperature, list | tuple) else (temperature or 0.0,)
        for name in ("temperature", *(name for name in given if name.endswith("_threshold"))):
            for value in temperatures if name == "temperature" else (given[name],):
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise InputError(f"{name} must be a number, not {value!r:.80}")
        if not temperatures or min(temperatures) < 0:
            raise InputError("temperature must be 0 or more, or several such numbers")
        if "no_speech_threshold" in given and "logprob_threshold" not in given:
            raise InputError("no_speech_threshold needs logprob_threshold too: only a guess is left out")
        if given.get("task", "transcribe") not in ("transcribe", "translate"):
            raise InputError(f"task must be transcribe or translate, not {given['task']!r:.80}")
        if "task" in given and given["task"] not in self.tasks:
            raise InputError(f"this model does not {given['task']}: its generation_config.json has no task_to_id")
        if "prompt_ids" in given:
            given["prompt_ids"] = tuple(int(token) for token in np.asarray(given["prompt_ids"]).reshape(-1))
        if "language" in given:
            self.language(given["language"])
        temperatures = tuple(map(float, temperatures))
        return Manner(config, timestamps=timestamps, words=words, temperatures=temperatures, **given)

    def stamped(self, manner: Manner) -> Manner:
        """The same with timestamps, which tell where the next window of a long sound begins."""
        if self.no_timestamps is None:
            raise InputError("this model writes no timestamps, so it takes 30 seconds: pass chunk_length_s=30")
        return replace(manner, timestamps=True)

    def language(self, name: str) -> int:
        """The token of a language.

        Raises:
            InputError: there is none of that name.
        """
        if not isinstance(name, str):
            raise InputError(f"language must be a name or a code, not a {type(name).__name__}")
        code = name.lower().removeprefix("<|").removesuffix("|>")
        token = f"<|{CODES.get(code, code)}|>"
        if token not in self.languages:
            known = ", ".join(sorted(each[2:-2] for each in self.languages))
            raise InputError(f"this model has no language '{name:.40}': it has {known or 'none to choose'}")
        return self.languages[token]

    def whole(self, samples: Array) -> Reading:
        """Samples of up to 30 seconds."""
        features = self.features([samples])["input_features"][0]
        heard = -(-len(samples) // self.features.hop)
        return Reading(lambda seek: features[:, seek : seek + self.frames], self.frames, heard)

    def long(self, blocks: Callable[[], Iterator[Array]]) -> Reading:
        """A sound of any length, read twice: once for how loud it is."""
        count = 0

        def counted() -> Iterator[Array]:
            nonlocal count
            for block in blocks():
                count += len(block)
                yield block

        loudest = self.features.loudest(counted())
        frames = count // self.features.hop
        return Reading(self.features.windows(blocks(), loudest).at, frames, frames)

    def write(self, readings: Sequence[Reading], manner: Manner) -> Iterator[tuple[Reading, Piece]]:
        """Write sounds down, one window of each at a time: which one, and what is new."""
        while active := [reading for reading in readings if not reading.done]:
            states = [self.encode(reading) for reading in active]
            prompts = [self.prompt(reading, given, manner) for reading, given in zip(active, states, strict=True)]
            every = self._tried(active, states, prompts, manner)
            for reading, given, prompt, written in zip(active, states, prompts, every, strict=True):
                begin, frames = reading.seek, min(self.frames, reading.frames - reading.seek)
                segments, end = ([], frames) if written.silent else self._segments(written.tokens, frames)
                tokens = [token for segment in segments for token in segment]
                ends = self._ends(written, given, prompt, reading.heard - begin) if manner.words and tokens else ()
                reading.segments += segments
                reading.seek += end
                yield reading, Piece(begin * STEP / 2, tokens, ends[: len(tokens)])

    def encode(self, reading: Reading) -> dict[str, Array]:
        """What the decoder is given of the window that comes next."""
        features = reading.window(reading.seek)
        features = np.pad(features, ((0, 0), (0, self.frames - features.shape[1])))[None]
        states = self.encoder.run({"input_features": features}, ["last_hidden_state"])["last_hidden_state"]
        return {"encoder_hidden_states": states}

    def _logits(self, given: Mapping[str, Array], prompt: Sequence[int]) -> Array:
        """What follows a prompt, (vocabulary,)."""
        logits = self.decoder.batch(1, len(prompt) + 1).add(np.array([prompt], np.int64), given)
        assert logits is not None
        return np.asarray(logits[0], np.float32)

    def prompt(self, reading: Reading, given: Mapping[str, Array], manner: Manner) -> list[int]:
        """What the decoder begins with: what was written before, the language and the task."""
        start = int(manner.config.decoder_start_token_id or 0)
        tokens: list[int | None] = [start]
        if manner.language is None and manner.task is None:
            tokens += [token for _, token in self.forced]
        if manner.language is not None:
            reading.language = self.language(manner.language)
        elif self.languages and (len(tokens) == 1 or tokens[1] is None) and reading.language is None:
            known = np.array(list(self.languages.values()))
            reading.language = int(known[self._logits(given, [start])[known].argmax()])
        if reading.language is not None:
            tokens[1:2] = [reading.language]
        if manner.task is not None:
            task = self.tasks[manner.task]
            others = [token for token in tokens if token in self.tasks.values()]
            tokens = [task if token in others else token for token in tokens] if others else [*tokens, task]
        elif reading.language is not None and self.tasks and not set(tokens) & set(self.tasks.values()):
            tokens.append(self.tasks["transcribe"])  # transformers leaves it out, and the model stammers then
        if self.no_timestamps is not None:
            if manner.timestamps and tokens[-1] == self.no_timestamps:
                tokens.pop()
            elif not manner.timestamps and tokens[-1] != self.no_timestamps:
                tokens.append(self.no_timestamps)
        return self._before(reading, manner) + [token for token in tokens if token is not None]

    def _before(self, reading: Reading, manner: Manner) -> list[int]:
        """What the model is told of before the window."""
        prompt = list(manner.prompt_ids)
        told = self.generation.get("prev_sot_token_id")
        first = [] if told is None else [int(told)]
        segments = [prompt[len(first) if prompt[: len(first)] == first else 0 :], *reading.segments]
        if not manner.condition_on_prev_tokens or not reading.calm or not any(segments):
            return prompt
        tokens: list[int] = []
        for segment in segments:
            twice = len(segment) > 2 and segment[-2] >= self.first
            tokens += segment[:-1] if twice else segment
        return first + tokens[-(self.positions // 2 - 1) :]

    def _tried(
        self,
        readings: Sequence[Reading],
        states: Sequence[Mapping[str, Array]],
        prompts: list[list[int]],
        manner: Manner,
    ) -> list[_Written]:
        """The text of each window, of the first temperature at which it is not doubtful."""
        found: dict[int, _Written] = {}
        left = list(range(len(states)))
        for temperature in manner.temperatures:
            hot = temperature > 0
            config = replace(
                manner.config,
                do_sample=hot,
                temperature=temperature if hot else 1.0,
                num_beams=1 if hot else manner.config.num_beams,
            )
            tried = self._decode([states[at] for at in left], [prompts[at] for at in left], config, manner)
            found |= dict(zip(left, tried, strict=True))
            for at in left:
                readings[at].calm = temperature < 0.5
            left = [at for at in left if found[at].doubtful]
            if not left:
                break
        return [found[at] for at in range(len(states))]

    def _decode(
        self,
        states: Sequence[Mapping[str, Array]],
        prompts: Sequence[Sequence[int]],
        config: GenerationConfig,
        manner: Manner,
    ) -> list[_Written]:
        """Tokens for each window, judged."""
        engine = Engine(self.decoder, max_rows=max(1, len(states)))
        sure = [Confidence() for _ in states]
        rows: list[list[int]] = []
        means: list[float] = []
        if config.num_beams > 1:
            every = [self.processors(prompt, config, manner) for prompt in prompts]
            for best, *_ in search(self.decoder, prompts, config, states, every):
                rows.append(list(best.tokens))
                means.append(best.score * len(best.tokens) ** config.length_penalty / len(best.tokens))
        else:
            requests = []
            for prompt, given, each in zip(prompts, states, sure, strict=True):
                rules = self.processors(prompt, config, manner)
                if manner.logprob_threshold is not None:
                    rules.append(each)
                requests.append(engine.submit(prompt, config, given, further=rules))
            for _ in engine.run():
                pass
            for request, each in zip(requests, sure, strict=True):
                rows.append(request.choosers[0].ids[len(request.prompt) :].tolist())
                means.append(each.mean(request.choosers[0].ids))
        return [self._judged(*each, manner, config) for each in zip(rows, means, states, prompts, strict=True)]

    def _ends(self, written: _Written, given: Mapping[str, Array], prompt: Sequence[int], frames: int) -> list[float]:
        """When each token was said, in seconds of the window, of which so many frames are not padding.

        As in transformers, the last token of a text that was cut short has the time of the one before.
        """
        read = written.tokens if written.ended else written.tokens[:-1]
        if not read:
            return [0.0] * len(written.tokens)
        found = self.decoder.attention(np.array([[*prompt, *read]]), given, {layer for layer, _ in self.heads})
        states = frames // 2 if frames > 1 else None
        weights = [found[layer][0, head, len(prompt) :, :states] for layer, head in self.heads]
        ends: list[float] = (first_frames(np.stack(weights).astype(np.float32), self.smoothing) * STEP).tolist()
        return [*ends, ends[-1]]

    def processors(self, prompt: Sequence[int], config: GenerationConfig, manner: Manner) -> list[Processor]:
        """What Whisper has beside the processors of every model."""
        if not manner.timestamps:
            return []
        latest = self.generation.get("max_initial_timestamp_index")
        return [Timestamps(self.first, config.eos_token_ids[0], len(prompt), latest)]

    def _judged(
        self,
        tokens: list[int],
        mean: float,
        given: Mapping[str, Array],
        prompt: Sequence[int],
        manner: Manner,
        config: GenerationConfig,
    ) -> _Written:
        guess = manner.logprob_threshold is not None and mean < manner.logprob_threshold
        doubtful = guess
        if manner.compression_ratio_threshold is not None and tokens:
            width = int(math.log2(self.vocabulary) / 8) + 1
            raw = b"".join(token.to_bytes(width, "little") for token in tokens)
            doubtful = doubtful or len(raw) / len(zlib.compress(raw)) > manner.compression_ratio_threshold
        silent = False
        if guess and manner.no_speech_threshold is not None and self.no_timestamps is not None:
            start = list(prompt).index(int(config.decoder_start_token_id or 0))
            logits = self._logits(given, prompt[: start + 1])
            chance = float(np.exp(logits[self.no_timestamps - 1] - logits.max()) / np.exp(logits - logits.max()).sum())
            silent = chance > manner.no_speech_threshold
        ended = bool(tokens) and tokens[-1] in config.eos_token_ids
        return _Written(tokens[:-1] if ended else tokens, ended, doubtful and not silent, silent)

    def _segments(self, tokens: list[int], frames: int) -> tuple[list[list[int]], int]:
        """Tokens cut behind each pair of timestamps, and how many frames further the next window begins."""
        stamps = [token >= self.first for token in tokens]
        cuts = [at + 1 for at in range(len(tokens) - 1) if stamps[at] and stamps[at + 1]]
        if not cuts:
            return [tokens], frames
        single = stamps[-2:] == [False, True]  # nothing is said behind it
        if single:
            cuts.append(len(tokens))
        else:
            cuts[-1] += 1
        segments = [tokens[first:last] for first, last in zip([0, *cuts[:-1]], cuts, strict=True)]
        end = frames if single else 2 * (tokens[cuts[-1] - 2] - self.first)
        return segments, end if end > 0 else frames
