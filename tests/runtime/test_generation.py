"""Settings of generation are checked, and tokens are drawn from the distribution that transformers defines."""

import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from wherry.errors import InputError
from wherry.generation import GenerationConfig, make_sampler

DRAWS = 40_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_length", 0),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, not {value}"):
        GenerationConfig(**{name: value})
    with pytest.raises(InputError, match=f"{name} must be .*, not {value}"):
        GenerationConfig().updated(**{name: value})


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length", "temperature", "top_k", "top_p", "seed"])
@pytest.mark.parametrize("value", ["5", [1], {}])
@pytest.mark.parametrize("options", [{}, {"do_sample": False}, {"do_sample": True}])
def test_a_value_of_another_type_is_refused(name, value, options):
    with pytest.raises(InputError) as caught:
        GenerationConfig().updated(**options, **{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length", "top_k", "seed"])
def test_a_fraction_is_refused_where_a_whole_number_is_meant(name):
    with pytest.raises(InputError, match=name):
        GenerationConfig().updated(**{name: 2.5})


@pytest.mark.parametrize("names", [["num_wishes"], ["a", "b"], ["Temperature"]])
def test_an_unknown_name_is_refused(names):
    with pytest.raises(InputError, match=f"unknown generation option {', '.join(names)}"):
        GenerationConfig().updated(**dict.fromkeys(names, 1))


def test_options_change_what_they_name_and_nothing_else():
    config = GenerationConfig(max_new_tokens=7, seed=3)
    assert config.updated(max_length=9) == GenerationConfig(max_new_tokens=7, seed=3, max_length=9)
    assert config.updated(max_length=None) == config


@pytest.mark.parametrize("option", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}])
def test_asking_for_a_kind_of_sampling_samples(option):
    assert GenerationConfig().updated(**option).do_sample
    assert not GenerationConfig().updated(**option, do_sample=False).do_sample


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({}, {}, ()),
        ({"eos_token_id": 2}, {}, (2,)),
        ({"eos_token_id": [2, 3]}, {}, (2, 3)),
        ({"eos_token_id": 2}, {"eos_token_id": 7}, (7,)),
        ({"eos_token_id": 2}, {"eos_token_id": [7, 8]}, (7, 8)),
        ({"eos_token_id": 0}, {}, (0,)),
        ({"eos_token_id": None}, {}, ()),
    ],
)
def test_the_tokens_that_end_a_row_are_read_from_the_files(config, generation, ends):
    assert GenerationConfig.from_files(config, generation).eos_token_ids == ends


def test_sampling_is_read_from_the_files():
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "bos_token_id": 1}
    found = GenerationConfig.from_files({}, generation)
    assert found == GenerationConfig(do_sample=True, temperature=0.6, top_k=20, top_p=0.95)


def test_greedy_takes_the_likeliest_token_of_each_row():
    logits = np.random.default_rng(1).normal(size=(50, 300)).astype(np.float32)
    assert np.array_equal(make_sampler(GenerationConfig())(logits), torch.tensor(logits).argmax(-1).numpy())


def expected_chances(logits, temperature, top_k, top_p):
    """In transformers' order: temperature, then top-k, then top-p."""
    scores = TemperatureLogitsWarper(temperature)(None, torch.tensor(logits)[None])
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return scores.double().softmax(-1)[0].numpy()


def drawn_chances(logits, **options):
    config = GenerationConfig(do_sample=True, **options)
    tokens = make_sampler(config)(np.repeat(logits[None], DRAWS, 0))
    assert tokens.shape == (DRAWS,)
    return np.bincount(tokens, minlength=len(logits)) / DRAWS


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (2.0, 0, 1.0),
        (1.0, 1, 1.0),
        (1.0, 3, 1.0),
        (1.0, 10, 1.0),
        (1.0, 12, 1.0),
        (1.0, 1000, 1.0),
        (1.0, 0, 0.9),
        (1.0, 0, 0.5),
        (1.0, 0, 0.01),
        (0.7, 6, 0.8),
        (1.5, 8, 0.95),
        (3.0, 5, 0.6),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_follow_transformers_distribution(temperature, top_k, top_p, seed):
    logits = np.random.default_rng(seed).normal(scale=1.2, size=12).astype(np.float32)
    expected = expected_chances(logits, temperature, top_k, top_p)
    drawn = drawn_chances(logits, temperature=temperature, top_k=top_k, top_p=top_p, seed=11)
    expected_often = expected * DRAWS > 20  # so that never to draw it would be a wonder
    assert set(np.flatnonzero(drawn)) <= set(np.flatnonzero(expected))
    assert set(np.flatnonzero(drawn)) >= set(np.flatnonzero(expected_often))
    deviation = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(drawn - expected) <= 5 * deviation + 1e-9).all()


def test_rows_of_a_batch_have_distributions_of_their_own():
    logits = np.random.default_rng(5).normal(size=(2, 8)).astype(np.float32)
    tokens = make_sampler(GenerationConfig(do_sample=True, top_k=0, seed=4))(np.tile(logits, (DRAWS, 1)))
    for row in range(2):
        expected = expected_chances(logits[row], 1.0, 0, 1.0)
        drawn = np.bincount(tokens[row::2], minlength=8) / DRAWS
        assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS)).all()


def test_ties_at_the_kth_place_all_stay_as_in_transformers():
    logits = np.array([2.0, 1.0, 1.0, 1.0, 0.0], np.float32)
    expected = expected_chances(logits, 1.0, 2, 1.0)
    assert np.count_nonzero(expected) == 4
    drawn = drawn_chances(logits, top_k=2, seed=9)
    assert set(np.flatnonzero(drawn)) == {0, 1, 2, 3}
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected * (1 - expected) / DRAWS)).all()


def test_ties_at_the_edge_of_top_p_keep_as_many_tokens_as_transformers():
    logits = np.zeros(8, np.float32)
    expected = expected_chances(logits, 1.0, 0, 0.45)
    drawn = drawn_chances(logits, top_k=0, top_p=0.45, seed=9)
    assert np.count_nonzero(drawn) == np.count_nonzero(expected) == 4


def test_tokens_that_are_ruled_out_are_never_drawn():
    logits = np.array([0.0, -np.inf, 1.0, -np.inf], np.float32)
    assert set(np.flatnonzero(drawn_chances(logits, seed=2))) == {0, 2}


def test_huge_logits_do_not_overflow():
    logits = np.array([3e38, 3e38, -3e38], np.float32)
    assert set(np.flatnonzero(drawn_chances(logits, temperature=0.1, seed=2))) == {0, 1}


def test_a_seed_makes_draws_repeatable():
    logits = np.random.default_rng(6).normal(size=(20, 100)).astype(np.float32)

    def draws(seed):
        sampler = make_sampler(GenerationConfig(do_sample=True, seed=seed))
        return np.stack([sampler(logits) for _ in range(5)])

    assert np.array_equal(draws(1), draws(1))
    assert not np.array_equal(draws(1), draws(2))
    assert not np.array_equal(draws(1)[0], draws(1)[1])
    assert not np.array_equal(draws(None), draws(None))
