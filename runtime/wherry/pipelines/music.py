"""text-to-audio by MusicGen: a text in, music or sounds out.

A decoder writes a token of each codebook in a step, each codebook a step behind the one before; the codec makes a
waveform of them (https://arxiv.org/abs/2306.05284).
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.errors import BundleError, InputError
from wherry.files import read_json
from wherry.generation import GenerationConfig
from wherry.generation.sampling import Chooser
from wherry.pipelines.base import TextPipeline
from wherry.pipelines.generated import defaults
from wherry.pipelines.speaking import Spoken, each_text
from wherry.pipelines.steps import Steps

Array = np.ndarray[Any, Any]


class MusicPipeline(TextPipeline):
    """`pipe("text")` is `{"audio": float32 (samples,), "sampling_rate"}`; a list of texts gives a list.

    In stereo `audio` is (2, samples).
    """

    task = "text-to-audio"
    roles = ("text_encoder", "decoder_model_merged", "encodec_decode")

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        path = bundle.folder / "generation_config.json"
        generation = read_json(path) if path.exists() else {}
        try:
            decoder, codec = bundle.config["decoder"], bundle.config["audio_encoder"]
            self.channels = int(decoder.get("audio_channels", 1))
            self.delays = np.arange(int(decoder["num_codebooks"])) // self.channels  # of each codebook, in tokens
            self.rate, self.shortest = int(codec["sampling_rate"]), int(codec["kernel_size"])
            self.start = int(generation.get("decoder_start_token_id", decoder["pad_token_id"]))
            self.guidance_scale = float(generation.get("guidance_scale") or 1)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{bundle.folder} does not tell how its music is made: {error!r} is wrong") from error
        self.defaults = defaults(bundle)

    def __call__(self, text_inputs: Any, *, guidance_scale: float | None = None, **options: Any) -> Any:
        """Make music of one text, or of each of several.

        Args:
            guidance_scale: how many times what the text changes in the logits counts; 1 to take them as they are
                (https://arxiv.org/abs/2207.12598).
            options: fields of `GenerationConfig`; `max_new_tokens` is the length, about 50 of them a second.

        Raises:
            InputError: no text, or an option that is unknown or does not fit.
        """
        config = self.defaults.updated(**options)
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        if not isinstance(scale, int | float) or not 1 <= scale < math.inf:
            raise InputError(f"guidance_scale must be at least 1, not {scale!r}")
        if config.num_beams > 1 or config.num_return_sequences > 1:
            raise InputError("music is written without beams, once a text: pass num_beams=1, num_return_sequences=1")
        return each_text(text_inputs, lambda texts: self._play(texts[0], scale, config), self._ids)

    def _ids(self, item: Any) -> Iterator[tuple[Array, Array]]:
        if not isinstance(item, str):
            raise InputError(f"the text is a {type(item).__name__}, not a str")
        if item.strip():
            encoding = self.tokenizer.encode([item], max_length=self.max_length)
            yield encoding.input_ids, encoding.attention_mask

    def _play(self, text: tuple[Array, Array], scale: float, config: GenerationConfig) -> Spoken:
        ids, mask = text
        given = self.session.run({"input_ids": ids, "attention_mask": mask}, ["last_hidden_state"])
        states = given["last_hidden_state"]
        if scale > 1:  # a row more, without the text
            states, mask = (np.concatenate([each, np.zeros_like(each)]) for each in (states, mask))
        tokens = self._tokens(states, mask, scale, config)
        frames = tokens.shape[1] - 1 - int(self.delays[-1])
        codes = np.stack([row[delay + 1 : delay + 1 + frames] for row, delay in zip(tokens, self.delays, strict=True)])
        audio = self.sessions["encodec_decode"].run({"audio_codes": codes[None, None]}, ["audio_values"])
        waves = audio["audio_values"][0]
        return {"audio": waves[0] if self.channels == 1 else waves, "sampling_rate": self.rate}

    def _tokens(self, states: Array, mask: Array, scale: float, config: GenerationConfig) -> Array:
        """The start and all tokens after it, (codebooks, tokens); those before a codebook begins do not count."""
        length = 1 + config.max_new_tokens if config.max_length is None else config.max_length
        delays, longest = self.delays, int(self.delays[-1])
        least = self.shortest + longest + 1
        if length < least:
            raise InputError(f"music has at least {least - 1} new tokens, about 50 a second, not {length - 1}")
        deadline = math.inf if config.max_time is None else time.monotonic() + config.max_time
        given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        step = Steps(self.sessions["decoder_model_merged"], given, len(states))
        tokens = np.full((len(delays), length), self.start, np.int64)
        choosers: list[Chooser] = []
        for at in range(1, length):
            if at >= least and time.monotonic() > deadline:
                return tokens[:, :at]
            (found,) = step({"input_ids": np.tile(tokens[:, at - 1 : at], (len(states), 1))}, ["logits"])
            logits = found[:, -1]
            if scale > 1:
                wanted, free = np.split(logits, 2)
                logits = free + (wanted - free) * np.float32(scale)
            if not choosers:
                choosers = [Chooser(config, [self.start], logits.shape[1], index) for index in range(len(delays))]
            chosen = np.array([chooser.choose(row) for chooser, row in zip(choosers, logits, strict=True)])
            playing = (delays < at) & (at < length - longest + delays)
            tokens[:, at] = np.where(playing, chosen, self.start)
        return tokens
