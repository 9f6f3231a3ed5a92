"""text-ranking: a query and documents in; the documents, best first, by a model that reads both together, out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.errors import InputError, TaskError
from wherry.pipelines.base import Array, TextPipeline, as_texts, encode_batches, feeds, sigmoid
from wherry.pipelines.scores import checked_count

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {"Identity": np.asarray, "Sigmoid": sigmoid, "Tanh": np.tanh}
"""What may make a score of a logit, by the names of torch's classes, which models name in config.json."""


class TextRankingPipeline(TextPipeline):
    """`pipe("query", ["a", "b"])` is `[{"corpus_id", "score"}]`, best first: those of sentence-transformers' `rank`.

    The model is a cross-encoder with one label.
    """

    task = "text-ranking"

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        labels = self.session.outputs["logits"].shape[-1]
        if labels != 1:
            raise TaskError(
                f"task text-ranking does not fit: {bundle.folder} gives {labels} labels, a cross-encoder that ranks one"
            )
        self.activation = _activation(bundle)

    def __call__(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        truncation: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents for a query.

        Args:
            query: what is looked for.
            documents: where to look; `corpus_id` counts them from 0.
            top_k: how many to give; None for all.
            return_documents: whether a result has the document too, as `text`.
            truncation: cut pairs that are longer than the model takes, the longer text first, with a warning, instead
                of refusing them.
            max_length: the most tokens of a query and a document together.
            batch_size: how many pairs run together at most.

        Raises:
            InputError: a query or documents that are not text.
            TokenizerError: a pair longer than the model takes, with `truncation=False`.
        """
        if not isinstance(query, str):
            raise InputError(f"query must be a str, not {type(query).__name__}")
        texts, single = as_texts(documents, what="document")
        if single:
            raise InputError("documents must be a list of str, not a str")
        count = checked_count(top_k)
        scores = np.empty(len(texts), np.float32)
        for rows, encoding in encode_batches(
            self,
            [query] * len(texts),
            pairs=texts,
            max_length=max_length,
            truncation=truncation,
            batch_size=batch_size,
        ):
            scores[rows] = self.activation(self.session.run(feeds(encoding), ["logits"])["logits"][:, 0])
        order = np.argsort(-scores, kind="stable")[:count]
        results: list[dict[str, Any]] = [{"corpus_id": int(at), "score": float(scores[at])} for at in order]
        if return_documents:
            for result in results:
                result["text"] = texts[result["corpus_id"]]
        return results


def _activation(bundle: Bundle) -> Callable[[Array], Array]:
    """What makes scores of logits: as sentence-transformers wrote it down, else its default for one label."""
    config = bundle.config
    told = config.get("sbert_ce_default_activation_function")
    if isinstance(newer := config.get("sentence_transformers"), Mapping):
        told = newer.get("activation_fn", told)
    name = "Sigmoid" if told is None else str(told).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise TaskError(f"{bundle.folder}/config.json names the activation {told}: {', '.join(ACTIVATIONS)} are known")
    return ACTIVATIONS[name]


PIPELINE = TextRankingPipeline
