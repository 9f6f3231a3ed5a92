"""What pipelines share whose prompts and chats have images or sounds among their words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array
from wherry.pipelines.generated import decoder_roles
from wherry.pipelines.text_generation import Chat, TextGenerationPipeline, is_chat, joined


@dataclass(frozen=True)
class Mixed:
    """A text with places for images or sounds, and those."""

    text: str
    parts: Sequence[Any]


class AmongWordsPipeline(TextGenerationPipeline):
    """Continues prompts and chats, features of images or sounds in the places of some of their tokens.

    Attributes:
        kind: of the parts of messages that stand among words: `image` or `audio`.
        things: what they are called.
        tower: the role of the graph that gives its features.
        token: the id of what stands for a feature.
        place: what stands for one of them in a text that is given.
    """

    kind: str
    things: str
    tower: str
    token: int
    place: str

    def needed(self) -> Sequence[str]:
        """A decoder of embeddings, and what makes those of words and of what is among them."""
        return (*decoder_roles(self.variant.graphs), "embed_tokens", self.tower)

    def answers(
        self, parts: Any, text: Any, *, return_full_text: bool, truncation: bool, batch_size: int, **options: Any
    ) -> Any:
        """What follows a prompt or a chat, or each of a list."""
        prompts, single = self._prompts(parts, text)
        continued = self.continued(prompts, batch_size, None, truncation=truncation, **options)
        results = [
            [_result(prompt, text, logprobs, return_full_text) for text, logprobs in found]
            for prompt, found in zip(prompts, continued, strict=True)
        ]
        return results[0] if single else results

    def answered(self, parts: Any, text: Any, *, truncation: bool, **options: Any) -> Iterator[str]:
        """What follows one prompt or chat, piece by piece."""
        prompts, single = self._prompts(parts, text)
        if not single:
            raise InputError("a stream is of one prompt or chat, not of a list of them")
        return self.streamed(prompts[0], None, truncation=truncation, **options)

    def asking(self, part: Any, question: str) -> Any:
        """A prompt that asks about an image or a sound: a chat, where the model has a template for them."""
        if self.tokenizer.chat_template_names:
            content = [{"type": self.kind, self.kind: part}, {"type": "text", "text": question}]
            return [{"role": "user", "content": content}]
        return Mixed(f"{self.place}{question}", [part])

    def apart(self, chat: Chat) -> tuple[str, list[Any]]:
        """A chat as its template writes it, with places for what is among its words, and that."""
        parts: list[Any] = []
        messages = []
        for message in chat:
            content = message.get("content")
            if isinstance(content, list | tuple):
                parts += [self._named(part) for part in content if self._is_one(part)]
                content = [{"type": self.kind} if self._is_one(part) else part for part in content]
            messages.append({**message, "content": content})
        return self.written(messages), parts

    def embedded(self, ids: Array, features: Array) -> dict[str, Array]:
        """The embeddings of tokens (1, length), with features (tokens, size) in the places that are theirs."""
        places = ids == self.token
        made = self.sessions["embed_tokens"].run({"input_ids": ids})
        if int(places.sum()) != len(features):
            raise InputError(
                f"the {self.things} have {len(features)} features, and the prompt {int(places.sum())} tokens for them"
            )
        made["inputs_embeds"][places] = features
        return made | {"token_type_ids": places.astype(np.int64)}

    def _prompts(self, parts: Any, text: Any) -> tuple[list[Any], bool]:
        """Chats, or texts with what is among their words; and whether there is but one."""
        if text is None:
            parts, text = None, parts
        several = isinstance(text, list | tuple) and not is_chat(text)
        texts = list(text) if several else [text]
        if parts is None:
            each: list[Any] = [None] * len(texts)
        elif several:
            each = list(parts) if isinstance(parts, list | tuple) else [parts]
        else:
            each = [parts]
        if len(each) != len(texts):
            raise InputError(
                f"{len(texts)} texts and {self.things} for {len(each)}: give each text its own, or a list of them"
            )
        return [self._prompt(*pair) for pair in zip(texts, each, strict=True)], not several

    def _prompt(self, text: Any, parts: Any) -> Any:
        if is_chat(text):
            if parts is not None:
                raise InputError(f"a chat holds its {self.things} in its messages: give none beside it")
            return text
        if isinstance(text, Mixed):
            return text
        if not isinstance(text, str):
            raise InputError(f"a prompt must be a str or a chat, not {type(text).__name__}")
        return Mixed(text, [] if parts is None else parts if isinstance(parts, list | tuple) else [parts])

    def _is_one(self, part: Any) -> bool:
        return isinstance(part, Mapping) and part.get("type") == self.kind

    def _named(self, part: Mapping[str, Any]) -> Any:
        """What a part of a message names."""
        sources = (self.kind, "path", "url")
        named = [part[name] for name in sources if part.get(name) is not None]
        if len(named) != 1:
            raise InputError(
                f"a part of type {self.kind} needs one of {', '.join(sources)}, the last of which is a path here"
            )
        return named[0]


def _result(prompt: Any, text: str, logprobs: Any, whole: bool) -> dict[str, Any]:
    asked = prompt.text if isinstance(prompt, Mixed) else prompt
    told = {"input_text": asked, "generated_text": joined(asked, text) if whole else text}
    return told if logprobs is None else {**told, "logprobs": logprobs}
