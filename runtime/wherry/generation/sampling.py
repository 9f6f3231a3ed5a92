"""Logits to tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np

from wherry.generation.config import GenerationConfig

Array = np.ndarray[Any, Any]
Sampler = Callable[[Array], Array]


def make_sampler(config: GenerationConfig) -> Sampler:
    """(batch, vocabulary) logits to (batch,) token ids, as the configuration says."""
    if not config.do_sample:
        return lambda logits: logits.argmax(-1)
    random = np.random.default_rng(config.seed)

    def sample(logits: Array) -> Array:
        scores = logits.astype(np.float64) / config.temperature
        if 0 < config.top_k < scores.shape[-1]:
            least = np.partition(scores, -config.top_k, axis=-1)[:, -config.top_k, None]
            scores = np.where(scores < least, -np.inf, scores)
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = np.take_along_axis(scores, order, -1)
        chances = np.exp(ranked - ranked[:, :1])
        chances /= chances.sum(-1, keepdims=True)
        before = chances.cumsum(-1) - chances
        chances = np.where(before < config.top_p, chances, 0.0)
        totals = chances.cumsum(-1)
        drawn = random.random((len(scores), 1)) * totals[:, -1:]
        picks = (totals <= drawn).sum(-1, keepdims=True)
        return np.take_along_axis(order, picks, -1)[:, 0]

    return sample
