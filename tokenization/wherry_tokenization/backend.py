"""Build the Rust tokenizer of a folder, in the state that transformers brings it to before it encodes.

Knows nothing of batches or arrays.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from wherry_tokenization.config import NAMED_TOKENS, TokenizerConfig
from wherry_tokenization.errors import TokenizerError

_GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""The classes for which transformers takes tokenizer.json as it is; all others let the config override it."""

_USUAL_SPELLINGS = {
    "bos_token": ("<s>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|endoftext|>"),
    "unk_token": ("[UNK]", "<unk>", "<|endoftext|>"),
    "sep_token": ("[SEP]",),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]",),
    "mask_token": ("[MASK]", "<mask>"),
}


@dataclass(frozen=True)
class Backend:
    """The Rust tokenizer, and what its own file says where the config is silent."""

    rust: Any
    special_tokens: dict[str, str]
    padding_side: str
    truncation_side: str


def build_backend(folder: Path, config: TokenizerConfig) -> Backend:
    """Read tokenizer.json and apply the config to it."""
    rust = _read_tokenizer(folder)
    padding, truncation = rust.padding or {}, rust.truncation or {}
    rust.no_padding()
    rust.no_truncation()
    rust.encode_special_tokens = config.split_special_tokens
    _override_components(rust, config)
    _add_missing_tokens(rust, config)
    special_tokens = {name: spec.content for name, spec in config.special_tokens.items()}
    if not any(name in special_tokens for name in NAMED_TOKENS):
        special_tokens |= _usual_special_tokens(rust)
    if padding and rust.token_to_id(padding["pad_token"]) is not None:
        special_tokens.setdefault("pad_token", padding["pad_token"])
    return Backend(
        rust=rust,
        special_tokens=special_tokens,
        padding_side=config.padding_side or padding.get("direction", "right"),
        truncation_side=config.truncation_side or truncation.get("direction", "right"),
    )


def _read_tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        raise TokenizerError(f"{folder} is not a folder; give the folder of an exported model")
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(
            f"{folder} has no tokenizer.json; export the model again with wherry export, which writes it"
        )
    try:
        return Tokenizer.from_buffer(path.read_bytes())
    except Exception as exc:
        reason = " ".join(str(exc).split())
        raise TokenizerError(f"{path} is damaged: {reason:.200}; fetch or export the model again") from exc


def _override_components(rust: Any, config: TokenizerConfig) -> None:
    if config.tokenizer_class in _GENERIC_CLASSES:
        return
    if isinstance(rust.normalizer, normalizers.BertNormalizer):
        for attribute, value in config.normalizer_options.items():
            setattr(rust.normalizer, attribute, value)
    if isinstance(rust.pre_tokenizer, pre_tokenizers.ByteLevel) and config.add_prefix_space is not None:
        rust.pre_tokenizer.add_prefix_space = config.add_prefix_space


def _add_missing_tokens(rust: Any, config: TokenizerConfig) -> None:
    present = {token.content for token in rust.get_added_tokens_decoder().values()}
    for spec in (*config.added_tokens, *config.special_tokens.values(), *config.extra_tokens):
        if spec.content and spec.content not in present:
            present.add(spec.content)
            rust.add_tokens([AddedToken(**asdict(spec))])


def _usual_special_tokens(rust: Any) -> dict[str, str]:
    """The special tokens of a folder whose config names none, by the spellings that model families share."""
    present = {token.content for token in rust.get_added_tokens_decoder().values() if token.special}
    found = {
        name: next((spelling for spelling in spellings if spelling in present), None)
        for name, spellings in _USUAL_SPELLINGS.items()
    }
    return {name: spelling for name, spelling in found.items() if spelling is not None}
