"""zero-shot-classification: a text and labels in; how well each label fits, by a model that judges conclusions, out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wherry.bundle import Bundle
from wherry.errors import TaskError
from wherry.pipelines.base import TextPipeline, as_texts, encode_batches, feeds, softmax
from wherry.pipelines.candidates import checked_labels, hypotheses


class ZeroShotClassificationPipeline(TextPipeline):
    """`pipe("text", candidate_labels=["sea", "land"])` is `{"sequence", "labels", "scores"}`, best first.

    A list of texts gives a list. The model must have been trained on natural language inference: the text is the
    premise, a sentence with the label the hypothesis.
    """

    task = "zero-shot-classification"

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        super().__init__(bundle, **options)
        numbers = {name: at for at, name in (bundle.config.get("id2label") or {}).items()}
        numbers |= bundle.config.get("label2id") or {}
        found = [int(at) for name, at in numbers.items() if str(name).lower().startswith("entail")]
        if not found:
            raise TaskError(
                f"task zero-shot-classification does not fit: none of the labels of {bundle.folder} is entailment"
            )
        self.entailment = found[0]

    def __call__(
        self,
        inputs: Any,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Score labels for one text or for each text of a list.

        Args:
            candidate_labels: what the text may be about; a str holds several between commas.
            hypothesis_template: the sentence that a label is put into, at `{}`.
            multi_label: judge each label by itself, against contradiction, instead of against the others; their scores
                then do not add up to one.
            batch_size: how many pairs of text and label run together at most.

        Raises:
            InputError: inputs that are not text, no labels, or a template without a place for one.
            TokenizerError: a label that leaves no room for the text.
        """
        texts, single = as_texts(inputs)
        names = checked_labels(candidate_labels)
        premises = [text for text in texts for _ in names]
        logits = np.empty((len(premises), 2), np.float32)
        against = -1 if self.entailment == 0 else 0
        for rows, encoding in encode_batches(
            self,
            premises,
            pairs=hypotheses(names, hypothesis_template) * len(texts),
            truncation="only_first",
            batch_size=batch_size,
        ):
            found = self.session.run(feeds(encoding), ["logits"])["logits"]
            logits[rows] = found[:, [against, self.entailment]]
        judged = logits.reshape(len(texts), len(names), 2)
        scores = softmax(judged)[..., 1] if multi_label or len(names) == 1 else softmax(judged[..., 1])
        results = []
        for text, of_text in zip(texts, scores, strict=True):
            order = of_text.argsort()[::-1]
            results.append({"sequence": text, "labels": [names[at] for at in order], "scores": of_text[order].tolist()})
        return results[0] if single else results


PIPELINE = ZeroShotClassificationPipeline
