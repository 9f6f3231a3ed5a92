"""feature-extraction: text in, one vector a token out."""

from typing import Any

import numpy as np

from wherry.pipelines.base import Array, TextPipeline, as_texts, encode_batches, feeds


class FeatureExtractionPipeline(TextPipeline):
    """`pipe("text")` is float32 of shape (1, tokens, size); `pipe([...])` is a list of those."""

    task = "feature-extraction"

    def __call__(
        self, inputs: Any, *, truncation: bool = True, max_length: int | None = None, batch_size: int | None = None
    ) -> Any:
        """Vectors of each token, special tokens included, of one text or of each text of a list.

        Raises:
            InputError: inputs that are not text.
            TokenizerError: a text longer than the model takes, with `truncation=False`.
        """
        texts, single = as_texts(inputs)
        output = (
            "last_hidden_state" if "last_hidden_state" in self.session.outputs else next(iter(self.session.outputs))
        )
        results: list[Array] = [np.empty(0)] * len(texts)
        for rows, encoding in encode_batches(
            self, texts, truncation=truncation, max_length=max_length, batch_size=batch_size
        ):
            states = self.session.run(feeds(encoding), [output])[output]
            for row, vectors, length in zip(rows, states, encoding.lengths, strict=True):
                results[row] = vectors[None, :length].copy()
        return results[0] if single else results


PIPELINE = FeatureExtractionPipeline
