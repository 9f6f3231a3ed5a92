"""fill-mask: a text with mask tokens in; the likeliest tokens for each of them out."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.errors import InputError, TaskError
from wherry.pipelines.base import Array, TextPipeline, as_texts, encode_batches, feeds, softmax
from wherry.pipelines.scores import checked_count


class FillMaskPipeline(TextPipeline):
    """`pipe("The [MASK] is calm.")` is `[{"score", "token", "token_str", "sequence"}]`, best first.

    A text with several mask tokens gives such a list for each of them; a list of several texts gives a list.
    """

    task = "fill-mask"

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        if self.tokenizer.mask_token_id is None:
            raise TaskError(f"task fill-mask does not fit: the tokenizer of {bundle.folder} has no mask token")

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Fill the masks of one text or of each text of a list.

        Args:
            top_k: how many tokens for a mask.
            targets: choose among these words alone; the first token of a word that the vocabulary lacks counts for it,
                with a warning.
            truncation: cut texts that are longer than the model takes, with a warning, instead of refusing them.
            max_length: the most tokens of a text; by default as many as the model takes.
            batch_size: how many texts run together at most.

        Raises:
            InputError: inputs that are not text, or without a mask.
            TokenizerError: a text longer than the model takes, with `truncation=False`.
        """
        texts, single = as_texts(inputs)
        checked_count(top_k)
        chosen = None if targets is None else self._targets(targets)
        results: list[Any] = [None] * len(texts)
        for rows, encoding in encode_batches(
            self, texts, max_length=max_length, truncation=truncation, batch_size=batch_size
        ):
            logits = self.session.run(feeds(encoding), ["logits"])["logits"]
            for row, ids, scores, length in zip(rows, encoding.input_ids, logits, encoding.lengths, strict=True):
                masks = np.flatnonzero(ids == self.tokenizer.mask_token_id)
                if not len(masks):
                    raise InputError(f"text {row} has no {self.tokenizer.mask_token}: write it where a word is missing")
                likely = softmax(scores[masks])
                filled = [
                    self._filled(ids[:length], place, of_place, top_k, chosen, alone=len(masks) == 1)
                    for place, of_place in zip(masks.tolist(), likely, strict=True)
                ]
                results[row] = filled[0] if len(masks) == 1 else filled
        unpacked = single or (isinstance(inputs, list) and len(inputs) == 1)  # as transformers does
        return results[0] if unpacked else results

    def _filled(
        self, ids: Array, place: int, likely: Array, top_k: int, chosen: Array | None, *, alone: bool
    ) -> list[dict[str, Any]]:
        """The best tokens for one mask; the special tokens stay in a text that has other masks."""
        tokens = np.arange(len(likely)) if chosen is None else chosen
        results = []
        for best in np.argsort(-likely[tokens], kind="stable")[:top_k]:
            token = int(tokens[best])
            text = ids.copy()
            text[place] = token
            results.append(
                {
                    "score": float(likely[token]),
                    "token": token,
                    "token_str": self.tokenizer.decode([token], skip_special_tokens=False),
                    "sequence": self.tokenizer.decode(
                        text[text != self.tokenizer.pad_token_id], skip_special_tokens=alone
                    ),
                }
            )
        return results

    def _targets(self, targets: str | Sequence[str]) -> Array:
        """The tokens that stand for words."""
        words, _ = as_texts(targets, what="target")
        tokens = []
        for word in words:
            token = self.tokenizer.token_to_id(word)
            if token is None:
                ids = self.tokenizer.encode(word, add_special_tokens=False).input_ids[0]
                if not len(ids):
                    raise InputError(f"the target {word!r} has no token")
                token = int(ids[0])
                instead = self.tokenizer.id_to_token(token)
                warnings.warn(f"the vocabulary has no token {word!r}: {instead!r} counts for it", stacklevel=4)
            tokens.append(token)
        if not tokens:
            raise InputError("targets must name at least one word")
        return np.unique(tokens)


PIPELINE = FillMaskPipeline
