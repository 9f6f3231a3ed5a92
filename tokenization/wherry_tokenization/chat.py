"""Write a conversation as the prompt a model was trained on, with the chat template its folder holds.

Knows nothing of token ids. Templates come from the folder alone, and run under the limits of `sandbox`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry_tokenization.errors import ChatTemplateError
from wherry_tokenization.messages import checked_messages, open_final_message, plain_data, size_of

if TYPE_CHECKING:
    from wherry_tokenization.sandbox import LimitedTemplate

_UNITS = 1_000_000
_UNITS_PER_MESSAGE = 2_000
_UNITS_PER_CHARACTER = 2
_OPEN_END = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplates:
    """The chat templates of one folder, each compiled when it is first used."""

    def __init__(self, folder: Path, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._folder = folder
        self._sources = sources
        self._special_tokens = special_tokens
        self._compiled: dict[str, LimitedTemplate] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._sources))

    def render(
        self, messages: Any, name: str | None, *, continue_final_message: bool, variables: Mapping[str, Any]
    ) -> str:
        """The prompt; as transformers' apply_chat_template(tokenize=False) gives it."""
        template = self._template(self._chosen(name, with_tools=variables["tools"] is not None))
        conversation = checked_messages(messages)
        known = {**self._special_tokens, **plain_data(variables, "the arguments")}
        final = open_final_message(conversation, _OPEN_END) if continue_final_message else None
        known["messages"] = conversation
        units = _UNITS + _UNITS_PER_MESSAGE * len(conversation) + _UNITS_PER_CHARACTER * size_of(known)
        prompt = template.render(known, units)
        return prompt if final is None else self._cut_at_open_end(prompt, final)

    def _chosen(self, name: str | None, *, with_tools: bool) -> str:
        if not self._sources:
            raise ChatTemplateError(
                f"the model in {self._folder} has no chat template; pass plain text instead of messages"
            )
        if name is None:
            name = "tool_use" if with_tools and "tool_use" in self._sources else "default"
        if name not in self._sources:
            names = ", ".join(self.names)
            raise ChatTemplateError(f"{self._folder} has no chat template named {name!r}; choose one of: {names}")
        return name

    def _template(self, name: str) -> "LimitedTemplate":
        if name not in self._compiled:
            from wherry_tokenization.sandbox import LimitedTemplate  # jinja2 is loaded for chats alone

            label = f"the chat template {name!r} of {self._folder}"
            self._compiled[name] = LimitedTemplate(self._sources[name], label)
        return self._compiled[name]

    def _cut_at_open_end(self, prompt: str, final: str) -> str:
        end = prompt.rfind(_OPEN_END.strip())
        if end == -1 or final.strip() not in prompt:
            raise ChatTemplateError(
                f"the chat template of {self._folder} changes the final message, so it cannot be continued"
            )
        kept = prompt[:end]
        return kept if prompt.startswith(_OPEN_END, end) else kept.rstrip()
