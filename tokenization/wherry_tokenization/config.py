"""What the files beside tokenizer.json say: special tokens, lengths, sides, chat templates.

Knows nothing of encoding: it reads, checks and hands over plain facts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wherry_tokenization.errors import TokenizerError

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_Kind = TypeVar("_Kind")
_UNLIMITED = 10**20
"""transformers writes 1e30 as model_max_length where a model states none."""


@dataclass(frozen=True)
class AddedTokenSpec:
    """A token outside the base vocabulary, as tokenizer_config.json writes it down."""

    content: str
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class TokenizerConfig:
    """The facts of a tokenizer folder, apart from tokenizer.json itself.

    Tokens that tokenizer.json lacks get their ids in the order of `added_tokens`, `special_tokens` and
    `extra_tokens`.
    """

    special_tokens: Mapping[str, AddedTokenSpec] = field(default_factory=dict)
    added_tokens: tuple[AddedTokenSpec, ...] = ()
    extra_tokens: tuple[AddedTokenSpec, ...] = ()
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    tokenizer_class: str | None = None
    model_max_length: int | None = None
    padding_side: str | None = None
    truncation_side: str | None = None
    clean_up_tokenization_spaces: bool = False
    split_special_tokens: bool = False
    normalizer_options: Mapping[str, bool | None] = field(default_factory=dict)
    add_prefix_space: bool | None = None


def read_config(folder: Path) -> TokenizerConfig:
    """Read tokenizer_config.json and the files that complete it; any of them may be missing."""
    path = folder / "tokenizer_config.json"
    config = _read_object(path)
    if "added_tokens_decoder" not in config:  # only older folders need these two files
        config |= _read_object(folder / "special_tokens_map.json")
    special_tokens = {
        key: _token(config[key], key, path)
        for key in dict.fromkeys((*NAMED_TOKENS, *config))
        if key.endswith("_token") and isinstance(config.get(key), str | dict)
    }
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        special_tokens |= {name: _token(value, name, path) for name, value in extra.items()}
        extra = []
    if not isinstance(extra, list):
        raise TokenizerError(f"{path}: extra_special_tokens is {extra!r:.80}, not a list of tokens")
    extra_tokens = tuple(_token(value, "extra_special_tokens", path) for value in extra)
    special = {token.content for token in (*special_tokens.values(), *extra_tokens)}
    return TokenizerConfig(
        special_tokens=special_tokens,
        added_tokens=_added_tokens(config, special, folder),
        extra_tokens=extra_tokens,
        chat_templates=_chat_templates(folder, config.get("chat_template")),
        tokenizer_class=_of_type(str, "text", config, "tokenizer_class", path),
        model_max_length=_max_length(config.get("model_max_length", config.get("max_len")), path),
        padding_side=_side(config, "padding_side", path),
        truncation_side=_side(config, "truncation_side", path),
        clean_up_tokenization_spaces=bool(config.get("clean_up_tokenization_spaces")),
        split_special_tokens=bool(config.get("split_special_tokens")),
        normalizer_options={
            attribute: config[key]
            for key, attribute in (
                ("do_lower_case", "lowercase"),
                ("strip_accents", "strip_accents"),
                ("tokenize_chinese_chars", "handle_chinese_chars"),
            )
            if isinstance(config.get(key, ""), bool | None)
        },
        add_prefix_space=_of_type(bool, "true or false", config, "add_prefix_space", path),
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise TokenizerError(f"{path} is damaged: {exc}; fetch or export the model again") from exc
    if not isinstance(value, dict):
        raise TokenizerError(f"{path} holds a {type(value).__name__}, not an object; export the model again")
    return value


def _token(value: Any, key: str, path: Path, special_ones: set[str] | None = None) -> AddedTokenSpec:
    """The token written as `value`; special unless it is neither marked so nor among the `special_ones`."""
    if isinstance(value, str):
        return AddedTokenSpec(value)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        special = special_ones is None or value["content"] in special_ones or bool(value.get("special"))
        flags = {flag: bool(value.get(flag)) for flag in ("single_word", "lstrip", "rstrip")}
        normalized = bool(value.get("normalized", not special))
        return AddedTokenSpec(value["content"], special=special, normalized=normalized, **flags)
    raise TokenizerError(f"{path}: {key} is not a token, but {value!r:.80}; export the model again")


def _added_tokens(config: dict[str, Any], special: set[str], folder: Path) -> tuple[AddedTokenSpec, ...]:
    """The tokens that are listed with their ids, in the order of these; `special` are the special ones."""
    path = folder / "tokenizer_config.json"
    listed = config.get("added_tokens_decoder", {})
    older = {} if "added_tokens_decoder" in config else _read_object(folder / "added_tokens.json")
    try:
        in_config = [value for _, value in sorted(listed.items(), key=lambda item: int(item[0]))]
        in_file = sorted(older, key=lambda content: int(older[content]))
    except (TypeError, ValueError, AttributeError) as exc:
        raise TokenizerError(f"{path}: the added tokens are damaged ({exc}); export the model again") from exc
    return (
        *(_token(value, "added_tokens_decoder", path, special) for value in in_config),
        *(
            AddedTokenSpec(content, special=content in special, normalized=content not in special)
            for content in in_file
        ),
    )


def _chat_templates(folder: Path, in_config: Any) -> dict[str, str]:
    """Templates by name. Files win over tokenizer_config.json, as in transformers."""
    files = {path.name.removesuffix(".jinja"): path for path in folder.glob("additional_chat_templates/*.jinja")}
    if (folder / "chat_template.jinja").is_file():
        files["default"] = folder / "chat_template.jinja"
    try:
        templates = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except UnicodeDecodeError as exc:
        raise TokenizerError(f"{folder}: a chat template is not UTF-8 ({exc}); export the model again") from exc
    if templates or in_config is None:
        return templates
    if isinstance(in_config, str):
        return {"default": in_config}
    if isinstance(in_config, dict):
        in_config = [{"name": name, "template": template} for name, template in in_config.items()]
    try:
        named = {entry["name"]: entry["template"] for entry in in_config}
    except (TypeError, KeyError) as exc:
        raise TokenizerError(f"{folder}/tokenizer_config.json: chat_template is damaged ({exc!r})") from exc
    if not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise TokenizerError(f"{folder}/tokenizer_config.json: chat_template holds something other than text")
    return named


def _max_length(value: Any, path: Path) -> int | None:
    if value is None or (isinstance(value, int | float) and value >= _UNLIMITED):
        return None
    if not isinstance(value, int | float) or value != value or value < 1:
        raise TokenizerError(f"{path}: model_max_length is {value!r:.80}, not a positive number")
    return int(value)


def _side(config: dict[str, Any], key: str, path: Path) -> str | None:
    side = config.get(key)
    if side not in (None, "left", "right"):
        raise TokenizerError(f"{path}: {key} is {side!r:.80}, not 'left' or 'right'")
    return side


def _of_type(kind: type[_Kind], described: str, config: dict[str, Any], key: str, path: Path) -> _Kind | None:
    value = config.get(key)
    if value is not None and not isinstance(value, kind):
        raise TokenizerError(f"{path}: {key} is {value!r:.80}, not {described}")
    return value
