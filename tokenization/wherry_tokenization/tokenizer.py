"""Text to padded int64 arrays and back, as transformers' fast tokenizers do it.

Knows nothing of models: it reads a folder's tokenizer files and no other.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from wherry_tokenization.backend import build_backend
from wherry_tokenization.chat import ChatTemplates
from wherry_tokenization.config import read_config
from wherry_tokenization.encoding import (
    Encoding,
    Frame,
    Padding,
    assemble,
    frame_of,
    kept_tokens,
    refuse_longer,
    refuse_padded,
)
from wherry_tokenization.errors import TokenizerError
from wherry_tokenization.inputs import TokenIds, checked_id, checked_ids, refuse_invalid_unicode, text_columns
from wherry_tokenization.prefix import Row, encode_beginnings
from wherry_tokenization.stream import TokenStream, clean_up, pieces_for
from wherry_tokenization.windows import Windows, cut_into_windows


class Tokenizer:
    """The tokenizer of a model folder. Threads may share one: no call changes it.

    Attributes:
        vocab_size: how many tokens there are, added ones included.
        model_max_length: the most tokens a row may have, where the folder says so.
        padding_side, truncation_side: `right` or `left`.
        special_tokens: the special tokens by role, such as `eos_token`.
        special_ids: the ids that decoding skips.
        continuing_subword_prefix: what marks a token that goes on with a word, such as `##`; may be empty.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        config = read_config(self.folder)
        backend = build_backend(self.folder, config)
        self._rust = backend.rust
        self._clean_up = config.clean_up_tokenization_spaces and type(self._rust.model).__name__ != "BPE"
        self._chat = ChatTemplates(self.folder, config.chat_templates, backend.special_tokens)
        added = self._rust.get_added_tokens_decoder()
        self._id_bound = max(_bound(self._rust), max(added, default=-1) + 1)

        self.vocab_size: int = self._rust.get_vocab_size()
        self.model_max_length = config.model_max_length
        self.padding_side = backend.padding_side
        self.truncation_side = backend.truncation_side
        self.special_tokens: Mapping[str, str] = backend.special_tokens
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.continuing_subword_prefix: str = getattr(self._rust.model, "continuing_subword_prefix", None) or ""
        self.bos_token, self.bos_token_id = self._special("bos_token")
        self.eos_token, self.eos_token_id = self._special("eos_token")
        self.unk_token, self.unk_token_id = self._special("unk_token")
        self.sep_token, self.sep_token_id = self._special("sep_token")
        self.pad_token, self.pad_token_id = self._special("pad_token")
        self.cls_token, self.cls_token_id = self._special("cls_token")
        self.mask_token, self.mask_token_id = self._special("mask_token")
        self._frame = frame_of(self._rust.encode("a"))
        self._padding_id = self.pad_token_id if self.pad_token_id is not None else self.eos_token_id or 0

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Load the tokenizer of a local model folder."""
        return cls(folder)

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.folder)!r}, vocab_size={self.vocab_size})"

    @property
    def chat_template_names(self) -> tuple[str, ...]:
        """The names of the model's chat templates; none where it has no chat template."""
        return self._chat.names

    def to_json(self) -> str:
        """The tokenizer as the JSON that `tokenizers` reads and writes."""
        return str(self._rust.to_str())

    def token_to_id(self, token: str) -> int | None:
        """The id of exactly this token, or None where the vocabulary lacks it."""
        token_id: int | None = self._rust.token_to_id(token)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """The token with this id, or None where there is none."""
        token: str | None = self._rust.id_to_token(token_id) if 0 <= token_id < self._id_bound else None
        return token

    def encode(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool | Literal["longest_first", "only_first", "only_second"] = True,
        padding: bool | Literal["longest", "max_length"] = True,
        padding_side: Literal["left", "right"] | None = None,
        pad_to_multiple_of: int | None = None,
        add_special_tokens: bool = True,
        offsets: bool = False,
    ) -> Encoding:
        """Encode a text, or a batch of texts, each with its pair where `pairs` is given.

        `max_length` defaults to the model's own limit. A longer row is cut, and marked in `truncated`; of a pair the
        longer text is cut first, or the one that `truncation` names. With `truncation=False` a longer row is refused.
        `padding=False` refuses rows of unequal length.
        """
        columns = text_columns(texts, pairs)
        limit = self.model_max_length if max_length is None else max_length
        special = self._rust.num_special_tokens_to_add(pairs is not None) if add_special_tokens else 0
        if limit is not None and limit < special:
            raise TokenizerError(f"max_length={limit} leaves no room for {special} special tokens; raise it")
        room = limit - special if limit is not None and truncation else None
        rows, encodings = self._tokenize(columns, room, add_special_tokens, offsets)
        kept: list[list[int] | None] = [None] * len(rows)
        if limit is not None and truncation:
            strategy = "longest_first" if truncation is True else truncation
            kept = [
                kept_tokens(encoding, limit, self.truncation_side, strategy, row)
                for row, encoding in enumerate(encodings)
            ]
        elif limit is not None:
            refuse_longer(encodings, limit)
        whole_rows = zip(*columns, strict=True)
        frame = None if pairs is not None else self._frame if add_special_tokens else Frame(0, 0)
        encoding = assemble(
            encodings,
            kept,
            [keep is not None or row != whole for keep, row, whole in zip(kept, rows, whole_rows, strict=True)],
            Padding(
                side=padding_side or self.padding_side,
                token_id=self._padding_id,
                width=limit if padding == "max_length" else None,
                multiple_of=pad_to_multiple_of,
            ),
            frame,
            offsets=offsets,
        )
        if padding is False:
            refuse_padded(encoding)
        return encoding

    def windows(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int,
        stride: int,
        whole: Literal["text", "pair"] | None = None,
    ) -> Windows:
        """Encode a text, or a pair, as overlapping windows of up to `max_length` tokens, padded on the right.

        Neighbouring windows share `stride` tokens. Of a pair, `whole` names the one that is in every window.
        """
        columns = text_columns(text, pair)
        _, (encoding,) = self._tokenize(columns, None, add_special_tokens=True, offsets=True)
        return cut_into_windows(
            encoding, 1 if whole == "text" else 0, max_length, stride, self.truncation_side, self._padding_id
        )

    def decode(self, ids: TokenIds, *, skip_special_tokens: bool = True) -> str:
        """The text of one row of token ids."""
        text: str = self._rust.decode(self._known_ids(ids, "ids"), skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self._clean_up else text

    def decode_batch(self, rows: Iterable[TokenIds], *, skip_special_tokens: bool = True) -> list[str]:
        """The texts of several rows of token ids."""
        known = [self._known_ids(row, f"rows[{position}]") for position, row in enumerate(rows)]
        texts: list[str] = self._rust.decode_batch(known, skip_special_tokens=skip_special_tokens)
        return [clean_up(text) for text in texts] if self._clean_up else texts

    def stream(self, *, skip_special_tokens: bool = True) -> TokenStream:
        """A decoder that takes one token at a time and gives the text it completes."""
        skip = self.special_ids if skip_special_tokens else frozenset[int]()
        return TokenStream(pieces_for(self._rust), self._known_id, skip, tidy=self._clean_up)

    def join(self, tokens: Sequence[str]) -> str:
        """The text of tokens given as `id_to_token` names them."""
        decoder = self._rust.decoder
        text: str = " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
        return text

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt for a conversation, written by the model's chat template or by the one named `template`.

        `continue_final_message` leaves the last message open for the model to go on with, so no generation
        prompt is added. Other arguments reach the template as variables.
        """
        return self._chat.render(
            messages,
            template,
            continue_final_message=continue_final_message,
            variables={
                "add_generation_prompt": add_generation_prompt and not continue_final_message,
                "tools": tools,
                "documents": documents,
                **variables,
            },
        )

    def _special(self, name: str) -> tuple[str | None, int | None]:
        token = self.special_tokens.get(name)
        return token, None if token is None else self.token_to_id(token)

    def _tokenize(
        self, columns: list[list[str]], room: int | None, add_special_tokens: bool, offsets: bool
    ) -> tuple[list[Row], list[Any]]:
        """The texts, cut where they are far longer than `room` tokens, and their encodings."""
        whole = list(zip(*columns, strict=True))
        batch = self._rust.encode_batch if offsets else self._rust.encode_batch_fast

        def encode(rows: Sequence[Row]) -> list[Any]:
            if len(rows) == 1:  # without a way through the pool of threads
                return [self._rust.encode(*rows[0], add_special_tokens=add_special_tokens)]
            texts = rows if len(columns) == 2 else [text for (text,) in rows]
            encodings: list[Any] = batch(texts, add_special_tokens=add_special_tokens)
            return encodings

        try:
            if room is None or self.truncation_side == "left":
                return whole, encode(whole)
            return encode_beginnings(whole, room, encode)
        except Exception as exc:
            refuse_invalid_unicode(columns)
            reason = " ".join(str(exc).split())
            raise TokenizerError(f"the tokenizer of {self.folder} failed on this text: {reason:.200}") from exc

    def _known_ids(self, ids: TokenIds, where: str) -> list[int]:
        values = checked_ids(ids, where)
        if values and not (min(values) >= 0 and max(values) < self._id_bound):
            position = next(i for i, value in enumerate(values) if not 0 <= value < self._id_bound)
            self._refuse_id(values[position], f"{where}[{position}]")
        return values

    def _known_id(self, token_id: Any) -> int:
        value = checked_id(token_id, "token_id")
        if not 0 <= value < self._id_bound:
            self._refuse_id(value, "token_id")
        return value

    def _refuse_id(self, token_id: int, where: str) -> NoReturn:
        raise TokenizerError(
            f"{where} is {token_id}, but the ids of {self.folder} go from 0 to {self._id_bound - 1};"
            " is this the tokenizer of another model?"
        )


def _bound(rust: Any) -> int:
    """One more than the largest id; a vocabulary with gaps, such as one of characters, is gone through."""
    size: int = rust.get_vocab_size()
    if rust.id_to_token(size - 1) is not None and rust.id_to_token(size) is None:
        return size
    return max(rust.get_vocab().values(), default=-1) + 1
