"""sentence-embeddings: text in, one vector a text out, pooled and normalized as the model's authors say."""

from typing import Any

import numpy as np

from wherry.pipelines.base import Array, TextPipeline, as_texts, encode_batches, feeds
from wherry.pooling import Pooling


class SentenceEmbeddingsPipeline(TextPipeline):
    """`pipe("text")` is float32 of shape (size,); `pipe([...])` has shape (texts, size)."""

    task = "sentence-embeddings"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pooling = Pooling.load(self.bundle.folder)
        self.limit = self.pooling.max_length or self.max_length

    def __call__(
        self, inputs: Any, *, truncation: bool = True, max_length: int | None = None, batch_size: int | None = None
    ) -> Array:
        """Vectors of one text or of each text of a list.

        Raises:
            InputError: inputs that are not text.
            TokenizerError: a text longer than the model takes, with `truncation=False`.
        """
        texts, single = as_texts(inputs)
        output = next(iter(self.session.outputs))
        pooled_already = "sentence_embedding" in self.session.outputs
        if pooled_already:
            output = "sentence_embedding"
        size = self.session.outputs[output].shape[-1]
        results = np.empty((len(texts), size if isinstance(size, int) else 0), np.float32)
        for rows, encoding in encode_batches(
            self, texts, max_length=max_length or self.limit, truncation=truncation, batch_size=batch_size
        ):
            states = self.session.run(feeds(encoding), [output])[output]
            vectors = states if pooled_already else self.pooling.apply(states, encoding.attention_mask)
            if results.shape[1] != vectors.shape[1]:
                results = np.empty((len(texts), vectors.shape[1]), np.float32)
            results[rows] = vectors
        return results[0] if single else results


PIPELINE = SentenceEmbeddingsPipeline
