"""text2text-generation: a text in, another out, by an encoder and a decoder: summaries, translations, answers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.generation import Engine, GenerationConfig
from wherry.pipelines.base import TextPipeline, as_texts, encode_batches, feeds
from wherry.pipelines.generated import decoder_roles, defaults, open_decoder, pieces, written

Array = np.ndarray[Any, Any]


class Text2TextGenerationPipeline(TextPipeline):
    """`pipe("text")` is `[{"generated_text": another text}]`; a list of texts gives a list of such results.

    `pipe.stream(text)` yields pieces of the new text as they come.
    """

    task = "text2text-generation"
    key = "generated_text"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.decoder = open_decoder(self.sessions, "left", self.bundle.config)
        self.prefix, self.defaults = self.settings(self.task)

    def needed(self) -> Sequence[str]:
        """An encoder and a decoder, in one graph or in two."""
        return ("encoder_model", *decoder_roles(self.variant.graphs))

    def __call__(
        self,
        inputs: Any,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        truncation: bool = True,
        batch_size: int = 8,
        **options: Any,
    ) -> Any:
        """Write a text for one text, or for each of a list.

        Args:
            src_lang: the language of the input, by the name of its token, for models that are told: `eng_Latn`, `en`.
            tgt_lang: the language to write, likewise.
            truncation: cut texts that are longer than the model takes, with a warning, instead of refusing them.
            batch_size: how many texts run together.
            options: fields of `GenerationConfig`.

        Raises:
            InputError: no text, an unknown language or an unknown option.
        """
        texts, single = as_texts(inputs)
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        config = self._config(tgt_lang, options)
        found: list[list[str]] = [[] for _ in texts]
        for places, states, masks in self._read(texts, src_lang, truncation):
            rows = [_given(states[at : at + 1], masks[at : at + 1]) for at in range(len(states))]
            made = written(self.tokenizer, self.decoder, rows, config, batch_size)
            for place, written_here in zip(places, made, strict=True):
                found[place] = written_here
        results = [[{self.key: text} for text in made] for made in found]
        return results[0] if single else results

    def stream(
        self,
        text: str,
        *,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        truncation: bool = True,
        **options: Any,
    ) -> Iterator[str]:
        """Write a text for one text and yield it piece by piece. Arguments and errors are as in a call."""
        if not isinstance(text, str):
            raise InputError(f"a stream is of one str, not of a {type(text).__name__}")
        config = self._config(tgt_lang, options)
        if config.num_beams > 1 or config.num_return_sequences > 1:
            raise InputError("a stream is of one text: pass num_beams=1 and no num_return_sequences")
        engine = Engine(self.decoder)
        for _, states, masks in self._read([text], src_lang, truncation):
            engine.submit([int(config.decoder_start_token_id or 0)], config, _given(states[:1], masks[:1]))
        return (piece for _, _, piece in pieces(self.tokenizer, engine, config))

    def settings(self, name: str) -> tuple[str, GenerationConfig]:
        """What goes before a text, and the options; T5 has them for each task in config.json."""
        config = self.bundle.config
        told = (config.get("task_specific_params") or {}).get(name)
        own: dict[str, Any] = dict(told) if isinstance(told, Mapping) else {}
        prefix = str(own.pop("prefix", config.get("prefix") or ""))
        known = GenerationConfig.__dataclass_fields__
        return prefix, defaults(self.bundle).updated(**{name: own[name] for name in own if name in known})

    def _config(self, tgt_lang: str | None, options: Mapping[str, Any]) -> GenerationConfig:
        config = self.defaults.updated(**options)
        if config.decoder_start_token_id is None:
            raise InputError(f"{self.bundle.folder} does not tell decoder_start_token_id: pass it")
        return config if tgt_lang is None else config.updated(forced_bos_token_id=self._language(tgt_lang))

    def _read(
        self, texts: Sequence[str], src_lang: str | None, truncation: bool
    ) -> Iterator[tuple[Array, Array, Array]]:
        """(which texts, the encoder's states, their mask), in batches of texts of like length."""
        for number, text in enumerate(texts):
            if not text:
                raise InputError(f"text {number} is empty: give at least one character")
        language = None if src_lang is None else self._language(src_lang)
        for places, encoding in encode_batches(self, [self.prefix + text for text in texts], truncation=truncation):
            given = feeds(encoding)
            if language is not None:
                ids = given["input_ids"]
                given["input_ids"] = np.where(np.isin(ids, self._languages), language, ids)
            states = self.session.run(given, ["last_hidden_state"])["last_hidden_state"]
            yield places, states, encoding.attention_mask

    def language(self, name: str) -> int | None:
        """The token of a language, where the model has one for it."""
        found = self.tokenizer.token_to_id(f"__{name}__")
        return self.tokenizer.token_to_id(name) if found is None else found

    def _language(self, name: str) -> int:
        found = self.language(name)
        if found is None:
            raise InputError(
                f"the model has no language '{name}': give one of its language tokens, such as eng_Latn or en"
            )
        return found

    @cached_property
    def _languages(self) -> list[int]:
        """Tokens that name a language: `eng_Latn`, `__en__`, `en_XX`."""
        named = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}|__[a-z]{2,3}__|[a-z]{2}_[A-Z]{2}")
        return [
            token for token in self.tokenizer.special_ids if named.fullmatch(self.tokenizer.id_to_token(token) or "")
        ]


def _given(states: Array, mask: Array) -> dict[str, Array]:
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


PIPELINE = Text2TextGenerationPipeline
