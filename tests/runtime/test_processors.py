"""Logits are changed as transformers changes them, logit for logit, each processor alone and all together."""

from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationMixin
from transformers.generation import logits_process as reference

from wherry.errors import InputError
from wherry.generation import processors as ours
from wherry.generation.config import GenerationConfig
from wherry.generation.processors import largest, log_softmax, processors

INFINITY = float("inf")


def random_scores(seed, size, *, ties=False, banned=0.0):
    random = np.random.default_rng([seed, size])
    scores = random.normal(scale=3, size=size).astype(np.float32)
    if ties:
        scores = np.round(scores)
    scores[1:][random.random(size - 1) < banned] = -np.inf
    return scores


KINDS = [
    pytest.param({}, id="random"),
    pytest.param({"ties": True}, id="ties"),
    pytest.param({"banned": 0.3}, id="some ruled out"),
    pytest.param({"ties": True, "banned": 0.9}, id="ties and most ruled out"),
]


def random_ids(seed, vocabulary, length=60):
    return np.random.default_rng([seed, 7]).integers(0, vocabulary, length)


def assert_same(found, expected, *, exact=False):
    """The same tokens are ruled out and the rest have the same scores."""
    expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
    assert found.dtype == np.float32
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    if exact:
        assert np.array_equal(found, expected)
    else:
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


PAIRS = [
    ("repetition", ours.RepetitionPenalty(1.3), reference.RepetitionPenaltyLogitsProcessor(1.3)),
    ("reward", ours.RepetitionPenalty(0.7), reference.RepetitionPenaltyLogitsProcessor(0.7)),
    *(
        (f"no repeat {size}", ours.NoRepeatNGram(size), reference.NoRepeatNGramLogitsProcessor(size))
        for size in (1, 2, 3, 5, 60, 61, 62)
    ),
    ("min length", ours.MinLength(61, np.array([2, 5])), reference.MinLengthLogitsProcessor(61, [2, 5])),
    ("min length reached", ours.MinLength(60, np.array([2])), reference.MinLengthLogitsProcessor(60, [2])),
    ("min new", ours.MinLength(61, np.array([2])), reference.MinNewTokensLengthLogitsProcessor(50, 11, [2])),
    ("forced end", ours.Forced(60, np.array([3, 4])), reference.ForcedEOSTokenLogitsProcessor(61, [3, 4])),
    ("no end yet", ours.Forced(61, np.array([3, 4])), reference.ForcedEOSTokenLogitsProcessor(62, [3, 4])),
    ("no begin any more", ours.Forced(1, np.array([3])), reference.ForcedBOSTokenLogitsProcessor(3)),
    *(
        (
            f"decay from {start}",
            ours.ExponentialDecay(40 + start, 1.05, np.array([1, 2])),
            reference.ExponentialDecayLengthPenalty((start, 1.05), [1, 2], 40),
        )
        for start in (0, 15, 20, 30)
    ),
    ("suppress", ours.Suppress(np.array([0, 3])), reference.SuppressTokensLogitsProcessor([0, 3])),
    ("begin", ours.SuppressAtBegin(60, np.array([3])), reference.SuppressTokensAtBeginLogitsProcessor([3], 60)),
    ("not begin", ours.SuppressAtBegin(59, np.array([3])), reference.SuppressTokensAtBeginLogitsProcessor([3], 59)),
    ("invalid", ours.RemoveInvalid(), reference.InfNanRemoveLogitsProcessor()),
    *((f"temperature {t}", ours.Temperature(t), reference.TemperatureLogitsWarper(t)) for t in (0.3, 0.7, 1.7)),
]
WARPERS = [
    *((f"top_k {k}", ours.TopK(k), reference.TopKLogitsWarper(k)) for k in (1, 2, 10, 50, 200, 9000)),
    *(
        (f"{name} {value} keep {keep}", mine(value, keep), theirs(value, min_tokens_to_keep=keep))
        for name, mine, theirs, values in (
            ("top_p", ours.TopP, reference.TopPLogitsWarper, (0.001, 0.1, 0.5, 0.9, 0.95, 0.999)),
            ("min_p", ours.MinP, reference.MinPLogitsWarper, (0.0, 0.01, 0.1, 0.5, 1.0)),
            ("typical_p", ours.Typical, reference.TypicalLogitsWarper, (0.01, 0.2, 0.5, 0.9, 0.999)),
            ("epsilon", ours.EpsilonCutoff, reference.EpsilonLogitsWarper, (1e-4, 1e-3, 0.02, 0.9)),
            ("eta", ours.EtaCutoff, reference.EtaLogitsWarper, (1e-4, 1e-3, 0.02, 0.9)),
        )
        for value in values
        for keep in (1, 3)
    ),
    ("renormalize", ours.Renormalize(), reference.LogitNormalization()),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mine", "theirs"), [pair[1:] for pair in PAIRS], ids=[pair[0] for pair in PAIRS])
def test_a_processor_is_transformers(mine, theirs, kind):
    for seed in range(5):
        for size in (8, 300):
            scores, ids = random_scores(seed, size, **kind), random_ids(seed, size)
            assert_same(mine(ids, scores.copy()), theirs(torch.tensor(ids)[None], torch.tensor(scores)[None])[0], exact=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mine", "theirs"), [pair[1:] for pair in WARPERS], ids=[pair[0] for pair in WARPERS])
def test_a_warper_is_transformers(mine, theirs, kind):
    for seed in range(5):
        for size in (12, 300, 6000):
            scores = random_scores(seed, size, **kind)
            found, expected = mine(None, scores.copy()), theirs(None, torch.tensor(scores)[None])[0]
            if kind.get("ties"):  # which of equal ones torch.sort and torch.topk put first is not defined
                found, expected = np.sort(found), np.sort(expected.numpy())
            assert_same(found, expected)
