"""Settings of generation are checked, and tokens are drawn from the distribution that transformers defines."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationMixin

from wherry.errors import InputError, SessionError
from wherry.generation import GenerationConfig
from wherry.generation.sampling import Chooser

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
        ("temperature", float("inf")),
        ("min_length", -1),
        ("min_new_tokens", -1),
        ("num_beams", 0),
        ("num_return_sequences", 0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("typical_p", 0.0),
        ("typical_p", 1.1),
        ("epsilon_cutoff", -0.1),
        ("epsilon_cutoff", 1.0),
        ("eta_cutoff", -0.1),
        ("eta_cutoff", 1.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.2),
        ("frequency_penalty", float("inf")),
        ("presence_penalty", float("nan")),
        ("length_penalty", float("nan")),
        ("no_repeat_ngram_size", -1),
        ("forced_bos_token_id", -1),
        ("decoder_start_token_id", -1),
        ("pad_token_id", -1),
        ("forced_eos_token_id", -1),
        ("top_logprobs", -1),
        ("top_logprobs", 21),
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": 1}, "do_sample must be true or false, not 1"),
        ({"logprobs": 3}, "logprobs must be true or false, not 3"),
        ({"renormalize_logits": "yes"}, "renormalize_logits must be true or false, not 'yes'"),
        ({"remove_invalid_values": 0}, "remove_invalid_values must be true or false, not 0"),
        ({"early_stopping": "soon"}, "early_stopping must be true, false or \"never\", not 'soon'"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs must be 0 to 20, not 21"),
        ({"eos_token_ids": "2"}, "eos_token_ids must be token ids of 0 or more, not '2'"),
        ({"eos_token_ids": [1.5]}, r"eos_token_ids must be token ids of 0 or more, not \[1.5\]"),
        ({"suppress_tokens": [1, -1]}, r"suppress_tokens must be token ids of 0 or more, not \[1, -1\]"),
        ({"begin_suppress_tokens": [True]}, r"begin_suppress_tokens must be token ids of 0 or more, not \[True\]"),
        ({"forced_eos_token_id": "end"}, "forced_eos_token_id must be token ids of 0 or more, not 'end'"),
        ({"bad_words_ids": [1]}, r"bad_words_ids must be a list of lists of token ids, not \[1\]"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids must be a list of lists of token ids, not \[\[\]\]"),
        ({"bad_words_ids": [[-1]]}, r"bad_words_ids must be token ids of 0 or more, not \[-1\]"),
        ({"logit_bias": [1]}, r"logit_bias must be a mapping from token ids to numbers, not \[1\]"),
        ({"logit_bias": {"a": 1}}, "each key of logit_bias must be a whole number, not 'a'"),
        ({"logit_bias": {-1: 1}}, "each key of logit_bias must be 0 or more, not -1"),
        ({"logit_bias": {1: "x"}}, "each bias of logit_bias must be a number, not 'x'"),
        ({"logit_bias": {1: float("inf")}}, "each bias of logit_bias must be below infinity, not inf"),
        ({"logit_bias": {1: float("nan")}}, "each bias of logit_bias must be below infinity, not nan"),
        (
            {"sequence_bias": {1: 1.0}},
            "sequence_bias must be a mapping from tuples of token ids to numbers, not {1: 1.0}",
        ),
        ({"sequence_bias": [1]}, "sequence_bias must be a mapping from tuples of token ids to numbers, not"),
        ({"sequence_bias": {(): 1.0}}, "each key of sequence_bias must be a list of lists of token ids, not"),
        ({"sequence_bias": {(1, -2): 1.0}}, "each key of sequence_bias must be token ids of 0 or more, not"),
        ({"sequence_bias": {(1,): "x"}}, "each bias of sequence_bias must be a number, not 'x'"),
        ({"stop_strings": [""]}, r"stop_strings must be texts that are not empty, not \[''\]"),
        ({"stop_strings": 5}, "stop_strings must be texts that are not empty, not 5"),
        (
            {"exponential_decay_length_penalty": 5},
            "exponential_decay_length_penalty must be a start and a factor, not 5",
        ),
        ({"exponential_decay_length_penalty": (-1, 2)}, "exponential_decay_length_penalty's start must be 0 or more"),
        ({"exponential_decay_length_penalty": (1, 0)}, "exponential_decay_length_penalty's factor must be above 0"),
    ],
)
def test_a_value_of_another_kind_is_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        GenerationConfig(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 3}, "num_return_sequences is 3, .* pass do_sample=True or num_beams=3"),
        ({"num_return_sequences": 3, "num_beams": 2}, r"num_return_sequences must be at most num_beams \(2\), not 3"),
        ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, "num_return_sequences must be at most"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"min_new_tokens must be at most max_new_tokens \(8\), not 9"),
        ({"top_logprobs": 3}, "top_logprobs is 3, but logprobs is not on: pass logprobs=True"),
        ({"suppress_tokens": [1, 2], "forced_bos_token_id": 2}, "forced_bos_token_id is in suppress_tokens too"),
        ({"suppress_tokens": [1, 2], "forced_eos_token_id": [2, 1]}, "forced_eos_token_id is in suppress_tokens too"),
    ],
)
def test_values_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        GenerationConfig().updated(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 3, "num_beams": 3},
        {"num_return_sequences": 3, "do_sample": True},
        {"min_new_tokens": 8, "max_new_tokens": 8},
        {"min_length": 9, "max_length": 8},
        {"top_logprobs": 20, "logprobs": True},
        {"suppress_tokens": [1, 2], "forced_eos_token_id": [2, 3]},
        {"early_stopping": "never"},
        {"early_stopping": True},
        {"logit_bias": {1: -float("inf")}},
    ],
)
def test_values_at_the_edge_are_taken(options):
    GenerationConfig(**options)


def test_values_are_kept_in_one_form():
    config = GenerationConfig(
        bad_words_ids=[[1, 2], (3,)],
        logit_bias={"5": 1, 6: -2},
        sequence_bias=[[[1, 2], 1.5]],
        suppress_tokens=[1, np.int64(2)],
        forced_eos_token_id=7,
        stop_strings="end",
        exponential_decay_length_penalty=[3, 2],
    )
    assert config.bad_words_ids == ((1, 2), (3,))
    assert config.logit_bias == {5: 1.0, 6: -2.0}
    assert config.sequence_bias == {(1, 2): 1.5}
    assert config.suppress_tokens == (1, 2)
    assert config.forced_eos_token_id == (7,)
    assert config.stop_strings == ("end",)
    assert config.exponential_decay_length_penalty == (3, 2.0)
    assert config == pickle.loads(pickle.dumps(config)) == config.updated()
    assert len({config, config.updated(), config.updated(logit_bias={})}) == 2


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length", "top_k", "seed"])
def test_a_fraction_is_refused_where_a_whole_number_is_meant(name):
    with pytest.raises(InputError, match=name):
        GenerationConfig().updated(**{name: 2.5})


@pytest.mark.parametrize("names", [["num_wishes"], ["a", "b"], ["Temperature"]])
def test_an_unknown_name_is_refused(names):
    with pytest.raises(InputError, match=f"unknown generation option {', '.join(names)}"):
        GenerationConfig().updated(**dict.fromkeys(names, 1))


@pytest.mark.parametrize(
    ("name", "near"),
    [("temprature", "temperature"), ("Top_K", "top_k"), ("eos_token_id", "eos_token_ids"), ("n_beams", "num_beams")],
)
def test_an_unknown_name_gets_the_nearest_known_one(name, near):
    with pytest.raises(InputError, match=rf"^unknown generation option {name}: did you mean {near}\?$"):
        GenerationConfig().updated(**{name: 1})


def test_nothing_is_suggested_for_what_is_like_no_name():
    with pytest.raises(InputError, match=r"^unknown generation option xyzzy$"):
        GenerationConfig().updated(xyzzy=1)


def test_options_change_what_they_name_and_nothing_else():
    config = GenerationConfig(max_new_tokens=7, seed=3)
    assert config.updated(max_length=9) == GenerationConfig(max_new_tokens=7, seed=3, max_length=9)
    assert config.updated(max_length=None) == config


def test_a_number_of_new_tokens_holds_instead_of_the_length_that_the_files_give():
    defaults = GenerationConfig.from_files({}, {"max_length": 20})
    assert defaults.updated(max_new_tokens=50) == GenerationConfig(max_new_tokens=50)
    assert defaults.updated(max_new_tokens=50, max_length=30) == GenerationConfig(max_new_tokens=50, max_length=30)


@pytest.mark.parametrize(
    "option",
    [
        *({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}),
        *({"min_p": 0.1}, {"typical_p": 0.9}, {"epsilon_cutoff": 0.1}, {"eta_cutoff": 0.1}),
    ],
)
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


FULL = {
    "max_length": 40,
    "max_new_tokens": 30,
    "min_length": 3,
    "min_new_tokens": 2,
    "stop_strings": ["end", "stop"],
    "do_sample": True,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.002,
    "num_return_sequences": 2,
    "num_beams": 3,
    "length_penalty": 2.0,
    "early_stopping": "never",
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[5, 6], [7]],
    "sequence_bias": [[[8, 9], 1.5]],
    "suppress_tokens": [10, 11],
    "begin_suppress_tokens": [12],
    "forced_bos_token_id": 13,
    "forced_eos_token_id": 2,
    "exponential_decay_length_penalty": [5, 1.1],
    "remove_invalid_values": True,
    "renormalize_logits": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 1,
}


def test_every_option_that_transformers_writes_is_read(tmp_path):
    transformers.GenerationConfig(**FULL, eos_token_id=[2, 3]).save_pretrained(tmp_path)
    found = GenerationConfig.from_files({}, transformers.GenerationConfig.from_pretrained(tmp_path).to_dict())
    assert found == GenerationConfig(**FULL, eos_token_ids=(2, 3))


def test_defaults_are_transformers():
    theirs = transformers.GenerationConfig._get_default_generation_params()
    ours = GenerationConfig()
    for name in set(theirs) & set(GenerationConfig.__dataclass_fields__) - {"max_length"}:
        assert getattr(ours, name) == (theirs[name] if theirs[name] is not None else getattr(ours, name)), name
        assert theirs[name] is not None or not getattr(ours, name), name


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"temperature": 0, "do_sample": True}, {}),
        ({"temperature": 0.0, "top_p": 0.9}, {}),
        ({"top_p": 0, "do_sample": True}, {}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": None}, {}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 40.0}, {"top_k": 40}),
        (dict.fromkeys(FULL), {}),
        ({"max_length": 20}, {"max_length": 20, "max_new_tokens": 20}),
        ({"max_length": 4096}, {"max_length": 4096, "max_new_tokens": 4096}),
        ({"max_length": 20, "max_new_tokens": 5}, {"max_length": 20, "max_new_tokens": 5}),
        ({"pad_token_id": -1}, {}),
        ({"eos_token_id": -1}, {}),
        ({"eos_token_id": [2, -1]}, {"eos_token_ids": (2,)}),
        ({"suppress_tokens": []}, {}),
        ({"use_cache": False, "transformers_version": "4.2", "_from_model_config": True, "num_wishes": 3}, {}),
        ({"seed": 5, "logprobs": True, "frequency_penalty": 1.0, "logit_bias": {"1": 2}}, {}),
    ],
)
def test_what_files_say_in_other_words_is_understood(generation, expected):
    assert GenerationConfig.from_files({}, generation) == GenerationConfig(**expected)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"num_beams": 4, "max_length": 9}, {}, {"num_beams": 4, "max_length": 9, "max_new_tokens": 9}),
        ({"num_beams": 4}, {"top_k": 5}, {"top_k": 5}),
        ({"decoder": {"num_beams": 4, "eos_token_id": 3}, "eos_token_id": 2}, {}, {"num_beams": 4, "eos_token_ids": 2}),
        ({"text_config": {"eos_token_id": 3}}, {"top_k": 5}, {"top_k": 5, "eos_token_ids": 3}),
        ({"pad_token_id": 1, "top_p": 0.5}, {"top_k": 5}, {"top_k": 5, "pad_token_id": 1}),
        ({"decoder_start_token_id": 2}, {"top_k": 5}, {"top_k": 5, "decoder_start_token_id": 2}),
        ({"is_encoder_decoder": True, "bos_token_id": 7}, {}, {"decoder_start_token_id": 7}),
        (
            {"is_encoder_decoder": True, "bos_token_id": 7, "decoder_start_token_id": 8},
            {},
            {"decoder_start_token_id": 8},
        ),
        ({"is_encoder_decoder": True}, {"bos_token_id": 0}, {"decoder_start_token_id": 0}),
        ({"bos_token_id": 7}, {}, {}),
    ],
)
def test_config_json_tells_what_generation_config_json_does_not(config, generation, expected):
    assert GenerationConfig.from_files(config, generation) == GenerationConfig(**expected)


def test_an_impossible_value_in_a_file_is_told_with_its_file():
    with pytest.raises(InputError, match=r"^generation_config\.json: top_k must be a whole number, not 'many'$"):
        GenerationConfig.from_files({}, {"top_k": "many"})
    with pytest.raises(InputError, match=r"^config\.json: num_beams must be at least 1, not 0$"):
        GenerationConfig.from_files({"num_beams": 0}, {})


def test_a_chooser_without_options_takes_the_likeliest():
    logits = np.random.default_rng(1).normal(size=(50, 300)).astype(np.float32)
    chooser = Chooser(GenerationConfig(max_new_tokens=3), [5, 6], 300)
    tokens = [chooser.choose(row) for row in logits]  # more than were to be expected
    assert tokens == torch.tensor(logits).argmax(-1).tolist()
    assert chooser.ids.tolist() == [5, 6, *tokens]
    assert chooser.ids.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_chooser_leaves_the_logits_as_they_are(dtype):
    logits = np.random.default_rng(1).normal(size=300).astype(dtype)
    before = logits.copy()
    config = GenerationConfig(do_sample=True, temperature=0.5, top_p=0.9, repetition_penalty=2.0, seed=1, logprobs=True)
    Chooser(config, range(300), 300).choose(logits)
    Chooser(config.updated(do_sample=False), range(300), 300).choose(logits)
    assert np.array_equal(before, logits)


def test_a_chooser_sees_what_it_chose():
    """Greedy with a penalty, as transformers decodes it with the same logits at every step."""
    logits = torch.tensor(np.random.default_rng(2).normal(size=(1, 12)).astype(np.float32))
    ids = torch.tensor([[3, 4]])
    penalty, repeat = transformers.RepetitionPenaltyLogitsProcessor(1.5), transformers.NoRepeatNGramLogitsProcessor(2)
    for _ in range(20):
        ids = torch.cat([ids, repeat(ids, penalty(ids, logits)).argmax(-1)[None]], -1)
    chooser = Chooser(GenerationConfig(repetition_penalty=1.5, no_repeat_ngram_size=2), [3, 4], 12)
    for _ in range(20):
        chooser.choose(logits[0].numpy())
    assert chooser.ids.tolist() == ids[0].tolist()


def transformers_chances(logits, config):
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "suppress_tokens")
    options = {name: getattr(config, name) for name in names} | {"do_sample": True}
    theirs = transformers.GenerationConfig(**options)
    model = SimpleNamespace(
        config=SimpleNamespace(is_encoder_decoder=False), _merge_criteria_processor_list=lambda default, _: default
    )
    processors = GenerationMixin._get_logits_processor(model, theirs, input_ids_seq_length=1)
    return processors(torch.tensor([[0]]), torch.tensor(logits)[None]).double().softmax(-1)[0].numpy()


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_k": 0, "top_p": 0.8},
        {"temperature": 0.7, "top_k": 8, "top_p": 0.9},
        {"min_p": 0.2},
        {"typical_p": 0.7},
        {"top_k": 0, "epsilon_cutoff": 0.05},
        {"top_k": 0, "eta_cutoff": 0.3},
        {"suppress_tokens": [0, 1, 2], "top_k": 0, "renormalize_logits": True},
    ],
)
@pytest.mark.parametrize("size", [10, 1300])
def test_a_chooser_draws_as_likely_as_transformers(options, size):
    """Chi-square over the tokens, the unlikely ones together; a limit that chance passes once in a million."""
    draws = 4000
    logits = np.random.default_rng(size).normal(scale=1.5, size=size).astype(np.float32)
    config = GenerationConfig(do_sample=True, seed=5, max_new_tokens=draws, **options)
    expected = transformers_chances(logits, config)
    chooser = Chooser(config, [0], size)
    drawn = np.bincount([chooser.choose(logits) for _ in range(draws)], minlength=size)
    assert not drawn[expected == 0].any()
    often = expected * draws >= 10
    found = np.append(drawn[often], drawn[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum()) * draws
    found, wanted = found[wanted > 0.01], wanted[wanted > 0.01]
    freedom = len(found) - 1
    chi_square = ((found - wanted) ** 2 / wanted).sum()
    assert chi_square <= freedom + 4.75 * np.sqrt(2 * freedom) + 15


def test_a_chooser_draws_the_same_for_the_same_seed():
    logits = np.random.default_rng(1).normal(size=(30, 100)).astype(np.float32)

    def drawn(seed, index=0):
        chooser = Chooser(GenerationConfig(do_sample=True, seed=seed, num_return_sequences=3), [1], 100, index)
        return [chooser.choose(row) for row in logits]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(None) != drawn(None)
    assert drawn(3, 1) == drawn(3, 1)
    assert len({tuple(drawn(3, index)) for index in range(3)}) == 3


def test_returned_sequences_have_the_seeds_that_numpy_spawns():
    chooser = Chooser(GenerationConfig(do_sample=True, seed=3, num_return_sequences=3), [1], 100, 2)
    assert chooser.random.random() == np.random.default_rng(np.random.SeedSequence(3).spawn(3)[2]).random()


@pytest.mark.parametrize("do_sample", [False, True])
def test_log_probabilities_are_the_models_own(do_sample):
    """Before temperature, penalties and the rest."""
    logits = np.random.default_rng(1).normal(scale=4, size=(20, 3000)).astype(np.float32)
    logits[:, 7:9] = 20.0  # ties
    config = GenerationConfig(
        do_sample=do_sample, temperature=2.0, seed=1, suppress_tokens=[7], logprobs=True, top_logprobs=5
    )
    chooser = Chooser(config, [1], 3000)
    for row in logits:
        chooser.choose(row)
    expected = torch.log_softmax(torch.tensor(logits), -1)
    for token, found, row in zip(chooser.ids[1:].tolist(), chooser.logprobs, expected, strict=True):
        assert found.token == token
        assert found.logprob == pytest.approx(row[token].item(), rel=1e-5)
        assert len(found.top) == 5
        assert [token for token, _ in found.top[:2]] == [7, 8]
        assert [value for _, value in found.top] == pytest.approx(row.topk(5).values.tolist(), rel=1e-5)
        assert [value for _, value in found.top] == pytest.approx(row[[at for at, _ in found.top]].tolist(), rel=1e-5)


def test_log_probabilities_without_the_likeliest():
    chooser = Chooser(GenerationConfig(logprobs=True), [1], 4)
    chooser.choose(np.zeros(4, np.float32))
    assert chooser.logprobs[0].logprob == pytest.approx(-np.log(4))
    assert chooser.logprobs[0].top == ()
    plain = Chooser(GenerationConfig(), [1], 4)
    plain.choose(np.zeros(4, np.float32))
    assert plain.logprobs == []


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"repetition_penalty": 1.2}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(options, value):
    logits = np.array([1.0, value, 2.0], np.float32)
    with pytest.raises(SessionError, match=f"^the model gave {value} for a logit: .*remove_invalid_values=True"):
        Chooser(GenerationConfig(**options), [1], 3).choose(logits)


def test_logits_that_are_no_numbers_may_be_removed():
    logits = np.array([-1.0, np.nan, -2.0], np.float32)
    assert Chooser(GenerationConfig(remove_invalid_values=True), [1], 3).choose(logits) == 1
    sampled = Chooser(GenerationConfig(remove_invalid_values=True, do_sample=True, temperature=0.01), [1], 3)
    assert sampled.choose(logits) == 1


@pytest.mark.parametrize(
    "options", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 0, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5}]
)
def test_options_that_leave_no_token_are_an_error(options):
    with pytest.raises(InputError, match=r"^every token is ruled out: "):
        Chooser(GenerationConfig(suppress_tokens=[0, 1, 2], **options), [1], 3).choose(np.zeros(3, np.float32))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("top_k", [0, 2])
def test_a_chooser_takes_huge_logits_and_low_temperatures(top_k, top_p):
    logits = np.array([3e38, 3e38, -3e38, -np.inf], np.float32)
    config = GenerationConfig(do_sample=True, temperature=0.1, top_k=top_k, top_p=top_p, seed=2)
    chooser = Chooser(config, [1], 4)
    assert {chooser.choose(logits) for _ in range(50)} == {0, 1}


def test_the_least_top_p_is_greedy():
    logits = np.array([1.0, 5.0, 5.0, 0.0], np.float32)
    chooser = Chooser(GenerationConfig(do_sample=True, top_k=0, top_p=1e-9, seed=1), [0], 4)
    assert {chooser.choose(logits) for _ in range(50)} == {int(logits.argmax())}


def likeliest(logits, count):
    order = np.argsort(-logits.astype(np.float32), kind="stable")[:count]
    return order, logits[order]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"temperature": 0.3, "top_k": 5},
        {"temperature": 1.7, "top_p": 0.8},
        {"top_k": 20, "min_p": 0.1, "typical_p": 0.9},
        {"top_k": 400},
        {"do_sample": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_the_likeliest_tokens_alone_give_the_token_that_all_would(options, kind):
    config = GenerationConfig(**{"do_sample": True, "seed": 1, "max_new_tokens": 100} | options)
    one, other = Chooser(config, [1], 300), Chooser(config, [1], 300)
    random, few = np.random.default_rng(0), 0
    for _ in range(100):
        logits = random.normal(scale=2, size=300).astype(kind)
        found = one.pick(*likeliest(logits, one.wanted))
        few += found is not None
        assert (one.choose(logits) if found is None else found) == other.choose(logits)
    assert few > 90


def test_tokens_as_likely_as_the_last_that_counts_are_all_looked_for():
    config = GenerationConfig(do_sample=True, seed=1, top_k=5)
    chooser, logits = Chooser(config, [1], 300), np.zeros(300, np.float32)
    assert chooser.pick(*likeliest(logits, chooser.wanted)) is None
    assert len({chooser.choose(logits) for _ in range(40)}) > 19 + 5


def test_logits_that_are_alike_once_divided_by_the_temperature_are_drawn_alike():
    low, temperature = np.float32(7.30000114), 1.7
    high = np.nextafter(low, np.float32(8))
    assert low < high
    assert low / np.float32(temperature) == high / np.float32(temperature)
    logits = np.zeros(6000, np.float32)
    logits[[5, 4000]] = low, high
    chooser = Chooser(GenerationConfig(do_sample=True, top_k=1, temperature=temperature, seed=1), [1], 6000)
    assert {chooser.choose(logits) for _ in range(40)} == {5, 4000}


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "repetition_penalty": 1.1},
        {"repetition_penalty": 1.1},
        {"logprobs": True},
        {"do_sample": True, "remove_invalid_values": True},
    ],
    ids=str,
)
def test_where_all_logits_are_needed(options):
    assert Chooser(GenerationConfig(**options), [1], 300).wanted is None
