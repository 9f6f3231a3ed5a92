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
            assert_same(
                mine(ids, scores.copy()), theirs(torch.tensor(ids)[None], torch.tensor(scores)[None])[0], exact=True
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mine", "theirs"), [pair[1:] for pair in WARPERS], ids=[pair[0] for pair in WARPERS])
def test_a_warper_is_transformers(mine, theirs, kind):
    for seed in range(5):
        for size in (12, 300, 6000):
            scores = random_scores(seed, size, **kind)
            found, expected = mine(None, scores.copy()), theirs(None, torch.tensor(scores)[None])[0]
            if kind.get("ties"):  # which of equal ones torch.sort and torch.topk put first is not defined
                found, expected = np.sort(found), np.sort(expected.numpy())
            elif isinstance(mine, ours.Typical):  # its sum reaches the share one token later on other processors
                expected = expected.numpy()
                unsure = np.isneginf(found) != np.isneginf(expected)
                assert unsure.sum() <= 1
                assert np.exp(ours.log_softmax(scores))[unsure].sum() < 1e-5
                found[unsure] = expected[unsure]
            assert_same(found, expected)


SEQUENCES = {(3,): 2.5, (4,): -1.5, (1, 3): 4.0, (7, 3): -2.0, (5, 1, 3): 0.5, (0, 1, 2, 6): 9.0}


@pytest.mark.parametrize("before", [[1], [5, 1], [0, 5, 1], [7], [0, 1, 2], [6, 6, 6], [2]])
@pytest.mark.parametrize("seed", range(3))
def test_sequence_bias_is_transformers(before, seed):
    scores, ids = random_scores(seed, 12, banned=0.2), np.array([*before])
    theirs = reference.SequenceBiasLogitsProcessor([[list(key), value] for key, value in SEQUENCES.items()])
    mine = ours.SequenceBias.of(SEQUENCES, "sequence_bias", 12)
    assert_same(mine(ids, scores.copy()), theirs(torch.tensor(ids)[None], torch.tensor(scores)[None])[0], exact=True)


@pytest.mark.parametrize("before", [[1], [5, 1], [0, 5, 1], [7], [0, 1, 2], [6, 6, 6], [2]])
def test_bad_words_are_transformers(before):
    scores, ids, words = random_scores(1, 12), np.array(before), [list(key) for key in SEQUENCES]
    (mine,) = processors(GenerationConfig(bad_words_ids=words, eos_token_ids=(4,)), 1, 12)
    theirs = reference.NoBadWordsLogitsProcessor(words, [4])
    assert_same(mine(ids, scores.copy()), theirs(torch.tensor(ids)[None], torch.tensor(scores)[None])[0], exact=True)


def test_a_forced_first_token_is_forced_after_one_token():
    scores = random_scores(1, 12)
    mine, theirs = ours.Forced(1, np.array([3])), reference.ForcedBOSTokenLogitsProcessor(3)
    assert_same(mine(np.array([5]), scores.copy()), theirs(torch.tensor([[5]]), torch.tensor(scores)[None])[0])


def test_values_that_are_no_numbers_are_removed_as_in_transformers():
    scores = np.array([np.nan, np.inf, -np.inf, 1.5, -2.0], np.float32)
    expected = reference.InfNanRemoveLogitsProcessor()(None, torch.tensor(scores)[None])[0]
    assert_same(ours.RemoveInvalid()(None, scores.copy()), expected, exact=True)


def test_frequency_and_presence_count_new_tokens_only():
    """OpenAI's formula: less the frequency for each time a token came, and the presence if it came at all."""
    ids = np.array([1, 1, 2, 3, 3, 3, 4])
    found = ours.FrequencyPenalty(0.5, 0.25, 3)(ids, np.zeros(6, np.float32))
    assert found.tolist() == [0, 0, 0, -1.75, -0.75, 0]


def test_logit_bias_is_added_once_to_each_token():
    (mine,) = processors(GenerationConfig(logit_bias={"3": 5, 1: -100, 2: -INFINITY}), 1, 5)
    assert mine(np.array([3, 3]), np.ones(5, np.float32)).tolist() == [1, -99, -INFINITY, 6, 1]


def test_a_prompt_may_have_tokens_that_no_logit_has():
    ids = np.array([1, 90, 1, 90, 2, 1])
    scores = random_scores(1, 12)
    for mine, theirs in (
        (ours.RepetitionPenalty(1.5), reference.RepetitionPenaltyLogitsProcessor(1.5)),
        (ours.NoRepeatNGram(2), reference.NoRepeatNGramLogitsProcessor(2)),
    ):
        assert_same(mine(ids, scores.copy()), theirs(torch.tensor(ids)[None], torch.tensor(scores)[None])[0])


def transformers_processors(config, prompt_length):
    """What transformers' generate would make of the same options."""
    names = set(transformers.GenerationConfig().to_dict()) & set(GenerationConfig.__dataclass_fields__)
    options = {name: getattr(config, name) for name in names}
    options |= {name: [list(each) for each in options[name]] or None for name in ("bad_words_ids",)}
    options |= {name: list(options[name]) or None for name in ("suppress_tokens", "begin_suppress_tokens")}
    options["forced_eos_token_id"] = list(config.forced_eos_token_id) or None
    options["sequence_bias"] = [[list(key), bias] for key, bias in config.sequence_bias.items()] or None
    if config.min_new_tokens is not None:
        options["min_length"] = prompt_length + config.min_new_tokens
    options["max_length"] = prompt_length + config.max_new_tokens
    theirs = transformers.GenerationConfig(**options)
    theirs._eos_token_tensor = torch.tensor(config.eos_token_ids) if config.eos_token_ids else None
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=prompt_length == 1))
    model._merge_criteria_processor_list = MethodType(GenerationMixin._merge_criteria_processor_list, model)
    return GenerationMixin._get_logits_processor(model, theirs, input_ids_seq_length=prompt_length, device="cpu")


VOCABULARY = 40
CHOICES = {
    "min_length": [0, 3, 12],
    "min_new_tokens": [None, 2, 5],
    "max_new_tokens": [8],
    "temperature": [1.0, 0.5, 1.7],
    "top_k": [0, 1, 5, 50],
    "top_p": [1.0, 0.9, 0.5],
    "min_p": [None, 0.05, 0.3],
    "typical_p": [1.0, 0.8],
    "epsilon_cutoff": [0.0, 0.01],
    "eta_cutoff": [0.0, 0.01],
    "num_beams": [1, 1, 3],
    "repetition_penalty": [1.0, 1.3],
    "no_repeat_ngram_size": [0, 2, 3],
    "bad_words_ids": [(), ((3,), (4, 5), (2,))],
    "sequence_bias": [{}, {(7,): 2.0, (1, 8): -3.0}],
    "suppress_tokens": [(), (9, 11)],
    "begin_suppress_tokens": [(), (12, 14)],
    "forced_bos_token_id": [None, None, 6],
    "forced_eos_token_id": [(), (), (2,), (2, 1)],
    "exponential_decay_length_penalty": [None, (1, 1.2)],
    "remove_invalid_values": [False, False, False, True],
    "renormalize_logits": [False, True],
    "eos_token_ids": [(2,), (2, 13)],
}


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("prompt_length", [1, 6])
def test_all_together_are_transformers_for_any_options(prompt_length, do_sample):
    random = np.random.default_rng(3)
    for trial in range(100):
        options = {name: values[random.integers(len(values))] for name, values in CHOICES.items()}
        if options["remove_invalid_values"]:  # its greatest numbers would overflow, or be equal ones to choose among
            options |= {"exponential_decay_length_penalty": None, "temperature": 1.0, "num_beams": 1}
        config = GenerationConfig(do_sample=do_sample, **options)
        mine, theirs = processors(config, prompt_length, VOCABULARY), transformers_processors(config, prompt_length)
        for length in range(prompt_length, prompt_length + config.max_new_tokens):
            ids, scores = random.integers(0, 15, length), random_scores(trial, VOCABULARY, banned=0.1)
            found = scores.copy()
            for processor in mine:
                found = processor(ids, found)
            expected = theirs(torch.tensor(ids)[None], torch.tensor(scores)[None])[0].numpy()
            assert np.array_equal(np.isneginf(found), np.isneginf(expected)), options
            assert np.allclose(found, expected, rtol=1e-4, atol=1e-5), options


def test_openais_penalties_come_right_after_the_one_on_repetition():
    config = GenerationConfig(
        sequence_bias={(1, 2): 1.0},
        repetition_penalty=1.1,
        presence_penalty=0.1,
        logit_bias={1: 1.0},
        no_repeat_ngram_size=2,
        temperature=0.5,
        do_sample=True,
    )
    kinds = [type(processor).__name__ for processor in processors(config, 1, 40)]
    assert kinds == [
        *("SequenceBias", "RepetitionPenalty", "FrequencyPenalty", "SequenceBias", "NoRepeatNGram"),
        *("Temperature", "TopK"),
    ]


def test_nothing_is_processed_that_need_not_be():
    assert processors(GenerationConfig(), 5, 40) == ()
    assert processors(GenerationConfig(do_sample=True, top_k=0), 5, 40) == ()
    assert processors(GenerationConfig(min_length=9), 5, 40) == ()  # there is no token that ends a row
    assert processors(GenerationConfig(min_length=5, eos_token_ids=(1,)), 5, 40) == ()
    assert processors(GenerationConfig(bad_words_ids=[[1]], eos_token_ids=(1,)), 5, 40) == ()
    assert processors(GenerationConfig(temperature=0.5, top_p=0.5, min_p=0.1), 5, 40) == ()


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_bias": {(1, 40): 1.0}},
        {"logit_bias": {40: 1.0}},
        {"bad_words_ids": [[1], [40]]},
        {"forced_bos_token_id": 40},
        {"forced_eos_token_id": [1, 40]},
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} has token 40, but the model's tokens are 0 to 39"):
        processors(GenerationConfig(**options), 5, 40)


def test_tokens_to_rule_out_that_the_model_does_not_have_are_no_matter():
    config = GenerationConfig(suppress_tokens=(3, 90), min_length=9, eos_token_ids=(2, 90))
    scores = np.zeros(5, np.float32)
    for processor in processors(config, 5, 5):
        scores = processor(np.arange(5), scores)
    assert np.flatnonzero(np.isneginf(scores)).tolist() == [2, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5, 600, 20_000])
@pytest.mark.parametrize("count", [1, 3, 50, 700])
def test_the_largest_are_torchs_and_their_equals(size, count, kind):
    for seed in range(5):
        scores = random_scores(seed, size, **kind)
        least = torch.tensor(scores).topk(min(count, size)).values[-1].item()
        assert np.array_equal(largest(scores, count), np.flatnonzero(scores >= least))


@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_log_softmax_is_torchs(scale):
    scores = random_scores(1, 5000, banned=0.2) * np.float32(scale)
    assert_same(log_softmax(scores), torch.log_softmax(torch.tensor(scores), -1))
