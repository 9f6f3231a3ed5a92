"""text-generation: a prompt or a chat in, the text that goes on out, whole or piece by piece."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from wherry.bundle import PREFILL
from wherry.errors import InputError
from wherry.generation import Assistant, Engine, GenerationConfig, PrefixCache, search
from wherry.generation.batch import Given
from wherry.generation.grammar import FORMS, Grammar, Vocabulary
from wherry.pipelines.base import TextPipeline
from wherry.pipelines.generated import decoder_roles, defaults, open_decoder, pieces, whole
from wherry.session import Session

Chat = Sequence[Mapping[str, Any]]

KEPT = 2**28
"""Bytes of keys and values of chats that are kept between their turns."""


class TextGenerationPipeline(TextPipeline):
    """`pipe("text")` is `[{"generated_text": text and what follows}]`; a chat gives its messages and the answer.

    A chat is a list of `{"role", "content"}`. A list of prompts or of chats gives a list of such results.
    `pipe.stream(...)` yields pieces of the new text as they come.
    """

    task = "text-generation"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        graphs = self.variant.graphs
        if PREFILL in graphs and self.session.device == "cpu":
            self.sessions[PREFILL] = Session(
                self.bundle.folder / graphs[PREFILL], device="cpu", threads=options.get("threads")
            )
        self.decoder = open_decoder(self.sessions, self.bundle.padding_side, self.bundle.config)
        self.defaults = defaults(self.bundle)
        self.context = self._context()
        self._turns = PrefixCache(KEPT)

    def needed(self) -> Sequence[str]:
        """The one graph, or those of a decoder as optimum writes them."""
        graphs = self.variant.graphs
        return self.roles if "model" in graphs else decoder_roles(graphs)

    def __call__(
        self,
        inputs: Any,
        *,
        return_full_text: bool = True,
        truncation: bool = False,
        batch_size: int = 8,
        assistant_model: "TextGenerationPipeline | None" = None,
        **options: Any,
    ) -> Any:
        """Continue one prompt or chat, or each of a list.

        Args:
            return_full_text: whether the result begins with the prompt or the chat's messages.
            truncation: cut the beginning of a prompt that is longer than the model takes, instead of refusing it.
            batch_size: how many sequences run together.
            assistant_model: a pipeline of a smaller model with the same tokens, or of the same in fewer bits: it
                guesses what a sequence that runs alone goes on with. Faster where it is often right; no text changes.
            options: fields of `GenerationConfig`, and one of `json_schema`, `regex`, `lark` and `choices`: the form
                that the new text must have (extra `grammar`; see `Grammar`). `stop_strings` are not part of the result;
                with `logprobs` a result also has `logprobs`, a list of `TokenLogprob`.

        Raises:
            InputError: an empty prompt, one that does not fit the model's context, or an unknown option.
            ChatTemplateError: a chat for a model that has no chat template.
        """
        prompts, single = _prompts(inputs)
        continued = self.continued(prompts, batch_size, assistant_model, truncation=truncation, **options)
        results = [
            [_result(joined(prompt, text) if return_full_text else text, logprobs) for text, logprobs in found]
            for prompt, found in zip(prompts, continued, strict=True)
        ]
        return results[0] if single else results

    def stream(
        self,
        inputs: str | Chat,
        *,
        truncation: bool = False,
        assistant_model: "TextGenerationPipeline | None" = None,
        **options: Any,
    ) -> Iterator[str]:
        """Continue one prompt or chat and yield the new text piece by piece, as soon as it is sure.

        Pieces never split a character and never hold part of a stop string. Arguments and errors are as in a call. What
        a chat said before is not read again in its next turn: keys and values of the last turns are kept.
        """
        prompts, single = _prompts(inputs)
        if not single:
            raise InputError("a stream is of one prompt or chat, not of a list of them")
        return self.streamed(prompts[0], assistant_model, truncation=truncation, **options)

    def streamed(
        self, prompt: Any, assistant_model: "TextGenerationPipeline | None", *, truncation: bool, **options: Any
    ) -> Iterator[str]:
        """The pieces of what follows one prompt."""
        grammar = self._grammar(options)
        config = self._config(options)
        if config.num_beams > 1 or config.num_return_sequences > 1:
            raise InputError("a stream is of one text: leave num_beams and num_return_sequences out")
        row, given = self.encode(prompt, config, truncation=truncation)
        prefixes = self._turns if is_chat(prompt) else None
        engine = Engine(self.decoder, max_rows=1, prefixes=prefixes, assistant=self._assistant(assistant_model))
        engine.submit(row, config, given, grammar=grammar)
        return (piece for _, _, piece in pieces(self.tokenizer, engine, config))

    def _config(self, options: Mapping[str, Any]) -> GenerationConfig:
        config = self.defaults.updated(**options)
        if self.context is not None:
            config = config.updated(max_length=min(self.context, config.max_length or self.context))
        return config

    def _grammar(self, options: dict[str, Any]) -> Grammar | None:
        """Take the form that a text must have out of the options."""
        form = {name: value for name in FORMS if (value := options.pop(name, None)) is not None}
        return Grammar(self._vocabulary, **form) if form else None

    @cached_property
    def _tokens(self) -> list[str | None]:
        return [self.tokenizer.id_to_token(token) for token in range(self.tokenizer.vocab_size)]

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        size = self.session.outputs["logits"].shape[-1]
        assert isinstance(size, int)
        return Vocabulary(self.tokenizer, size, self.defaults.eos_token_ids)

    def _assistant(self, pipe: "TextGenerationPipeline | None") -> Assistant | None:
        if pipe is None:
            return None
        if pipe._tokens != self._tokens:
            raise InputError(f"{pipe.bundle.folder} has other tokens than {self.bundle.folder}: it cannot assist")
        return Assistant(pipe.decoder, pipe.context)

    def continued(
        self,
        prompts: Sequence[Any],
        batch_size: int,
        assistant_model: "TextGenerationPipeline | None",
        *,
        truncation: bool,
        **options: Any,
    ) -> list[list[tuple[str, Any]]]:
        """For each prompt its texts, each with the log-probabilities of its tokens where they are asked for."""
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}")
        grammar = self._grammar(options)
        config = self._config(options)
        assistant = self._assistant(assistant_model)
        rows = [self.encode(prompt, config, truncation=truncation) for prompt in prompts]
        if config.num_beams > 1:
            if grammar is not None:
                raise InputError("beam search keeps to no form: leave num_beams out")
            ids, given = [row for row, _ in rows], [given for _, given in rows]
            searched = search(self.decoder, ids, config, given, batch_size=batch_size)
            return [[(whole(self.tokenizer, found.tokens, config), None) for found in each] for each in searched]
        engine = Engine(self.decoder, max_rows=max(batch_size, config.num_return_sequences), assistant=assistant)
        requests = [engine.submit(row, config, given, grammar=grammar) for row, given in rows]
        texts = {request: [""] * config.num_return_sequences for request in requests}
        for request, index, piece in pieces(self.tokenizer, engine, config):
            texts[request][index] += piece
        return [
            [
                (text, chooser.logprobs if config.logprobs else None)
                for text, chooser in zip(texts[request], request.choosers, strict=True)
            ]
            for request in requests
        ]

    def encode(self, prompt: Any, config: GenerationConfig, *, truncation: bool) -> tuple[list[int], Given]:
        """The tokens of a prompt, and what else the decoder is given of it."""
        text = prompt if isinstance(prompt, str) else self.written(prompt)
        return self.tokens(text, config, special=isinstance(prompt, str), truncation=truncation), {}

    def written(self, chat: Chat) -> str:
        """A chat as the model's template writes it."""
        goes_on = chat[-1].get("role") == "assistant"
        return self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=not goes_on, continue_final_message=goes_on
        )

    def tokens(self, text: str, config: GenerationConfig, *, special: bool, truncation: bool) -> list[int]:
        """The tokens of a prompt's text, which leave room for one more."""
        if not text:
            raise InputError("the prompt is empty: give at least one character")
        encoding = self.tokenizer.encode(text, add_special_tokens=special, truncation=False, max_length=2**62)
        row: list[int] = encoding.input_ids[0].tolist()
        limits = [limit for limit in (self.context, config.max_length) if limit is not None]
        room = min(limits) - 1 if limits else len(row)
        if len(row) > room:
            if not truncation:
                raise InputError(
                    f"the prompt has {len(row)} tokens and {room + 1} are all there is room for: shorten it or pass "
                    "truncation=True"
                )
            warnings.warn(f"the prompt's first {len(row) - room} of {len(row)} tokens were cut", stacklevel=3)
            row = row[-room:]
        return row

    def _context(self) -> int | None:
        config = {**(self.bundle.config.get("text_config") or {}), **self.bundle.config}
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"):
            if config.get(name):
                return int(config[name])
        return None


def _prompts(inputs: Any) -> tuple[list[str | Chat], bool]:
    if isinstance(inputs, str) or is_chat(inputs):
        return [inputs], True
    if not isinstance(inputs, list | tuple):
        raise InputError(f"a prompt must be a str, a chat or a list of either, not {type(inputs).__name__}")
    for index, item in enumerate(inputs):
        if not isinstance(item, str) and not is_chat(item):
            raise InputError(f"prompt {index} is a {type(item).__name__}, not a str or a chat")
    return list(inputs), False


def is_chat(value: Any) -> bool:
    """Whether it is a conversation: a list of messages."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _result(text: Any, logprobs: Any) -> dict[str, Any]:
    return {"generated_text": text} if logprobs is None else {"generated_text": text, "logprobs": logprobs}


def joined(prompt: str | Chat, text: str) -> Any:
    """A prompt and what follows it."""
    if isinstance(prompt, str):
        return prompt + text
    if prompt[-1].get("role") != "assistant":
        return [*prompt, {"role": "assistant", "content": text}]
    content = prompt[-1]["content"]
    if isinstance(content, str):
        return [*prompt[:-1], {**prompt[-1], "content": content + text}]
    *before, last = content
    return [*prompt[:-1], {**prompt[-1], "content": [*before, {**last, "text": last["text"] + text}]}]


PIPELINE = TextGenerationPipeline
