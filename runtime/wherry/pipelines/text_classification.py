"""text-classification: text, or a pair of texts, in; labels and scores out."""

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.pipelines.base import Array, TextPipeline, as_texts, encode_batches, feeds, labels, sigmoid, softmax


def _as_they_are(logits: Array) -> Array:
    return logits


FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {"softmax": softmax, "sigmoid": sigmoid, "none": _as_they_are}


class TextClassificationPipeline(TextPipeline):
    """`pipe("text")` is `[{"label", "score"}]`; a list gives one dict a text; `top_k` gives a list a text."""

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | EllipsisType | None = ...,
        function_to_apply: str | None = None,
        truncation: bool = True,
        max_length: int | None = None,
    ) -> Any:
        """Classify one text, a `{"text", "text_pair"}` dict, or each of a list of either.

        Args:
            top_k: how many labels a text, best first; None for all. Given, a text's result is a list;
                not given, it is the best label alone.
            function_to_apply: `softmax`, `sigmoid` or `none`; by default as the configuration says.

        Raises:
            InputError: inputs that are not text, or an unknown function.
            TokenizerError: a text longer than the model takes, with `truncation=False`.
        """
        texts, pairs = _split(inputs)
        count = 1 if isinstance(top_k, EllipsisType) else top_k
        if count is not None and count < 1:
            raise InputError(f"top_k must be at least 1, not {count}")
        name = function_to_apply or self._function()
        if name not in FUNCTIONS:
            raise InputError(f"unknown function_to_apply '{name}': choose one of {', '.join(FUNCTIONS)}")
        results: list[list[dict[str, Any]]] = [[] for _ in texts]
        for rows, encoding in encode_batches(self, texts, pairs=pairs, truncation=truncation, max_length=max_length):
            logits = self.session.run(feeds(encoding), ["logits"])["logits"]
            scores = FUNCTIONS[name](logits)
            for row, values in zip(rows, scores, strict=True):
                results[row] = self._ranked(values, count)
        if top_k is not ...:
            return results[0] if isinstance(inputs, str | Mapping) else results
        best = [result[0] for result in results]
        return best[0] if isinstance(inputs, Mapping) else best

    def _function(self) -> str:
        """As transformers decides: the problem type, then the number of labels."""
        config = self.bundle.config
        count = len(config.get("id2label") or (0, 1))
        kind = config.get("problem_type")
        if kind == "regression":
            return "none"
        if kind == "multi_label_classification" or count == 1:
            return "sigmoid"
        return "softmax"

    def _ranked(self, scores: Array, top_k: int | None) -> list[dict[str, Any]]:
        names = labels(self.bundle, len(scores))
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [{"label": names[index], "score": float(scores[index])} for index in order]


def _split(inputs: Any) -> tuple[list[str], list[str] | None]:
    """The first and the second texts of an input; None for the second where no pairs are given."""
    items = [inputs] if isinstance(inputs, Mapping) else inputs
    if not isinstance(items, list | tuple) or not items or not all(isinstance(item, Mapping) for item in items):
        return as_texts(items)[0], None
    for index, item in enumerate(items):
        if set(item) != {"text", "text_pair"}:
            raise InputError(f"input {index} must have 'text' and 'text_pair', it has {', '.join(map(str, item))}")
    firsts, _ = as_texts([item["text"] for item in items])
    seconds, _ = as_texts([item["text_pair"] for item in items], what="text_pair")
    return firsts, seconds


PIPELINE = TextClassificationPipeline
