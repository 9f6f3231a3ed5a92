"""token-classification: text in; labelled tokens, or words and phrases made of them, out."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array, TextPipeline, as_texts, encode_batches, feeds, labels, softmax, window_batches
from wherry_tokenization import Encoding

STRATEGIES = ("none", "simple", "first", "average", "max")


class TokenClassificationPipeline(TextPipeline):
    """`pipe("text")` is a list of entities, `pipe([...])` a list of those.

    An entity has `entity`, `score`, `index`, `word`, `start` and `end`, or with an aggregation strategy
    `entity_group`, `score`, `word`, `start` and `end`; start and end count characters of the text.
    """

    task = "token-classification"

    def __call__(
        self,
        inputs: Any,
        *,
        aggregation_strategy: str = "none",
        ignore_labels: tuple[str, ...] = ("O",),
        stride: int | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Label the tokens of one text or of each text of a list.

        Args:
            aggregation_strategy: `none` gives tokens; `simple` joins neighbouring tokens of one label; `first`,
                `average` and `max` first make the tokens of a word agree.
            ignore_labels: labels that are left out.
            stride: read a text that is longer than the model takes in windows that share so many tokens, instead of
                cutting it; of entities that overlap the longest stays. Goes with an aggregation strategy.
            truncation: cut longer texts, with a warning, instead of refusing them.
            max_length: the most tokens of a text or window; by default as many as the model takes.
            batch_size: how many texts or windows run together at most.

        Raises:
            InputError: inputs that are not text, an unknown strategy, or a stride without one.
            TokenizerError: a text longer than the model takes, with `truncation=False`.
        """
        if aggregation_strategy not in STRATEGIES:
            raise InputError(
                f"unknown aggregation_strategy '{aggregation_strategy}': choose one of {', '.join(STRATEGIES)}"
            )
        if stride is not None and (stride < 0 or aggregation_strategy == "none"):
            raise InputError("stride must be at least 0, and needs an aggregation_strategy other than 'none'")
        texts, single = as_texts(inputs)
        if stride is None:
            batches = encode_batches(
                self, texts, max_length=max_length, truncation=truncation, offsets=True, batch_size=batch_size
            )
        else:
            batches = self._windows(texts, max_length or self.max_length, stride, batch_size)
        results: list[list[dict[str, Any]]] = [[] for _ in texts]
        parts = [0] * len(texts)
        for rows, encoding in batches:
            assert encoding.offsets is not None
            scores = softmax(self.session.run(feeds(encoding), ["logits"])["logits"])
            for index, row in enumerate(rows):
                real = np.flatnonzero(
                    encoding.attention_mask[index] & ~encoding.special_tokens_mask[index].astype(bool)
                )
                tokens = self._tokens(
                    texts[row], real, encoding.input_ids[index], encoding.offsets[index], scores[index]
                )
                results[row] += self._entities(tokens, aggregation_strategy, ignore_labels)
                parts[row] += 1
        found = [_apart(of_text) if count > 1 else of_text for of_text, count in zip(results, parts, strict=True)]
        return found[0] if single else found

    def _windows(
        self, texts: Sequence[str], limit: int | None, stride: int, batch_size: int | None
    ) -> Iterator[tuple[Array, Encoding]]:
        """Batches of the windows over each text: (which text each is of, encoding)."""
        for row, text in enumerate(texts):
            windows = self.tokenizer.windows(text, max_length=limit or sys.maxsize, stride=stride)
            for encoding in window_batches(windows, batch_size):
                yield np.full(len(encoding), row), encoding

    def _tokens(self, text: str, real: Array, ids: Array, offsets: Array, scores: Array) -> list[dict[str, Any]]:
        tokens = []
        for at in real.tolist():
            start, end = (int(edge) for edge in offsets[at])
            word = self.tokenizer.id_to_token(int(ids[at])) or ""
            if self.tokenizer.continuing_subword_prefix:
                subword = len(word) != end - start
            else:
                subword = start > 0 and " " not in text[start - 1 : start + 1]
            if int(ids[at]) == self.tokenizer.unk_token_id:
                word, subword = text[start:end], False
            tokens.append(
                {
                    "word": word,
                    "scores": scores[at],
                    "start": start,
                    "end": end,
                    "index": at,
                    "subword": subword,
                }
            )
        return tokens

    def _entities(self, tokens: list[dict[str, Any]], strategy: str, ignore: tuple[str, ...]) -> list[dict[str, Any]]:
        names = labels(self.bundle, len(tokens[0]["scores"])) if tokens else []
        if strategy in ("none", "simple"):
            entities = [
                {
                    "entity": names[int(token["scores"].argmax())],
                    "score": float(token["scores"].max()),
                    "index": token["index"],
                    "word": token["word"],
                    "start": token["start"],
                    "end": token["end"],
                }
                for token in tokens
            ]
        else:
            entities = [self._word(group, strategy, names) for group in _words(tokens)]
        if strategy == "none":
            return [entity for entity in entities if entity["entity"] not in ignore]
        groups = [self._group(group) for group in _runs(entities)]
        return [group for group in groups if group["entity_group"] not in ignore]

    def _word(self, tokens: list[dict[str, Any]], strategy: str, names: list[str]) -> dict[str, Any]:
        if strategy == "first":
            scores = tokens[0]["scores"]
        elif strategy == "max":
            scores = max((token["scores"] for token in tokens), key=lambda each: float(each.max()))
        else:
            scores = np.mean([token["scores"] for token in tokens], axis=0)
        best = int(scores.argmax())
        return {
            "entity": names[best],
            "score": float(scores[best]),
            "word": self.tokenizer.join([token["word"] for token in tokens]),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _group(self, entities: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "entity_group": entities[0]["entity"].split("-", 1)[-1],
            "score": float(np.mean([entity["score"] for entity in entities])),
            "word": self.tokenizer.join([entity["word"] for entity in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }


def _words(tokens: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    words: list[list[dict[str, Any]]] = []
    for token in tokens:
        if words and token["subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _runs(entities: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbours with one label; a label that begins with B- starts a run of its own."""
    runs: list[list[dict[str, Any]]] = []
    last = None
    for entity in entities:
        begins = entity["entity"].startswith("B-")
        tag = entity["entity"][2:] if entity["entity"].startswith(("B-", "I-")) else entity["entity"]
        if runs and tag == last and not begins:
            runs[-1].append(entity)
        else:
            runs.append([entity])
        last = tag
    return runs


def _apart(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entities of several windows; of those that overlap the longest alone, of equals the likeliest."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda each: int(each["start"])):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


PIPELINE = TokenClassificationPipeline
