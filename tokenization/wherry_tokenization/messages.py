"""Check a conversation, and copy it into plain lists, dicts and text, all that a template may see.

Knows nothing of templates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wherry_tokenization.errors import ChatTemplateError

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages as plain dicts, without keys whose value is None."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ChatTemplateError(
            f"messages is of type {type(messages).__name__}; pass a list such as [{{'role': 'user', 'content': 'Hi'}}]"
        )
    if not messages:
        raise ChatTemplateError("messages is empty; pass at least one message")
    return [_checked_message(message, f"messages[{position}]") for position, message in enumerate(messages)]


def _checked_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"{where} is of type {type(message).__name__}; pass a dict with 'role' and 'content'")
    plain = {key: plain_data(value, f"{where}[{key!r}]") for key, value in message.items() if value is not None}
    if not isinstance(plain.get("role"), str):
        raise ChatTemplateError(f"{where}['role'] is {_described(plain, 'role')}; pass a str such as 'user'")
    content = plain.get("content")
    if content is None and len(plain) == 1:
        raise ChatTemplateError(f"{where}['content'] is missing; pass a str or a list of parts")
    if content is not None and not isinstance(content, str | list):
        raise ChatTemplateError(f"{where}['content'] is {_described(plain, 'content')}; pass a str or a list of parts")
    for position, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            raise ChatTemplateError(
                f"{where}['content'][{position}] is of type {type(part).__name__}; pass a dict such as"
                " {'type': 'text', 'text': 'Hi'}"
            )
    return _with_reasoning_aliases(plain)


def plain_data(value: Any, where: str) -> Any:
    """A deep copy made of dicts, lists, text, numbers and None alone: nothing with methods gets in."""
    try:
        return _plain(value, where)
    except RecursionError as exc:
        raise ChatTemplateError(f"{where} is nested too deeply, or holds itself; flatten it") from exc


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    raise ChatTemplateError(f"{where} holds a {type(value).__name__}; pass only dicts, lists, text, numbers and None")


def size_of(value: Any) -> int:
    """How many characters and values plain data holds."""
    if isinstance(value, str):
        return 1 + len(value)
    if isinstance(value, dict):
        return 1 + sum(size_of(key) + size_of(item) for key, item in value.items())
    if isinstance(value, list):
        return 1 + sum(map(size_of, value))
    return 1


def open_final_message(conversation: list[dict[str, Any]], mark: str) -> str:
    """Write `mark` at the end of the final message's text; returns that text."""
    final = conversation[-1]
    content = final.get("content")
    if isinstance(content, str):
        final["content"] = content + mark
        return content
    for part in reversed(content or []):
        if isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + mark
            return text
    raise ChatTemplateError(f"messages[{len(conversation) - 1}]['content'] holds no text to continue; add some")


def _with_reasoning_aliases(message: dict[str, Any]) -> dict[str, Any]:
    """Model families name the same reasoning differently; a template finds it under its own name."""
    reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _described(message: dict[str, Any], key: str) -> str:
    return f"of type {type(message[key]).__name__}" if key in message else "missing"
