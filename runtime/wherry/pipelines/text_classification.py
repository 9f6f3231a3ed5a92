"""text-classification: text, or a pair of texts, in; labels and scores out."""

from collections.abc import Mapping
from types import EllipsisType
from typing import Any

from wherry.errors import InputError
from wherry.pipelines.base import TextPipeline, as_texts, encode_batches, feeds
from wherry.pipelines.scores import checked_count, function, ranked


class TextClassificationPipeline(TextPipeline):
    """`pipe("text")` is `[{"label", "score"}]`; a list gives one dict a text; `top_k` gives a list a text."""

    task = "text-classification"

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | EllipsisType | None = ...,
        function_to_apply: str | None = None,
        truncation: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
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
        count = checked_count(1 if isinstance(top_k, EllipsisType) else top_k)
        apply = function(self.bundle, function_to_apply)
        results: list[list[dict[str, Any]]] = [[] for _ in texts]
        for rows, encoding in encode_batches(
            self, texts, pairs=pairs, truncation=truncation, max_length=max_length, batch_size=batch_size
        ):
            logits = self.session.run(feeds(encoding), ["logits"])["logits"]
            for row, scores in zip(rows, apply(logits), strict=True):
                results[row] = ranked(self.bundle, scores, count)
        if top_k is not ...:
            return results[0] if isinstance(inputs, str | Mapping) else results
        best = [result[0] for result in results]
        return best[0] if isinstance(inputs, Mapping) else best


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
