"""Windows over long texts are those of transformers' fast tokenizers, and a named text of a pair is cut like theirs."""

import numpy as np
import pytest

from tokenization.corpus import MULTILINGUAL
from wherry_tokenization import Tokenizer, TokenizerError

LONG = " ".join(MULTILINGUAL) * 3
QUESTION = "Which river runs through the town?"


def assert_windows(windows, reference, sequence):
    encoding = windows.encoding
    assert len(windows) == len(reference["input_ids"])
    for theirs, ours in (
        ("input_ids", encoding.input_ids),
        ("attention_mask", encoding.attention_mask),
        ("token_type_ids", encoding.token_type_ids),
        ("special_tokens_mask", encoding.special_tokens_mask),
        ("offset_mapping", encoding.offsets),
    ):
        np.testing.assert_array_equal(ours, np.reshape(reference[theirs], ours.shape), theirs)
    for row in range(len(windows)):
        inside = [owner == sequence for owner in reference.sequence_ids(row)]
        assert windows.inside[row].tolist() == inside
        words = [-1 if word is None else word for word in reference.word_ids(row)]
        np.testing.assert_array_equal(windows.words[row][inside], np.array(words)[inside])


@pytest.mark.parametrize("truncation_side", ["right", "left"])
@pytest.mark.parametrize(("max_length", "stride"), [(32, 0), (32, 9), (64, 40), (4096, 16)])
def test_windows(variant, load_reference, name, truncation_side, max_length, stride):
    reference = load_reference(name)
    ours = Tokenizer.load(variant(name, {"truncation_side": truncation_side}))
    settings = {
        "max_length": max_length,
        "stride": stride,
        "padding": True,
        "padding_side": "right",
        "return_overflowing_tokens": True,
        "return_offsets_mapping": True,
        "return_special_tokens_mask": True,
        "return_token_type_ids": True,
        "return_tensors": "np",
    }
    before, reference.truncation_side = reference.truncation_side, truncation_side
    try:
        for text, pair, strategy, whole, sequence in (
            (LONG, None, "only_first", None, 0),
            ("", None, "only_first", None, 0),
            (QUESTION, LONG, "only_second", "text", 1),
            (LONG, QUESTION, "only_first", "pair", 0),
        ):
            expected = reference(text, pair, truncation=strategy, **settings)
            windows = ours.windows(text, pair, max_length=max_length, stride=stride, whole=whole)
            assert_windows(windows, expected, sequence)
    finally:
        reference.truncation_side = before


def test_no_room_for_a_window(load):
    with pytest.raises(
        TokenizerError, match="max_length=12 leaves 2 tokens for a window, which must be more than stride"
    ):
        load("minilm").windows(QUESTION, LONG, max_length=12, stride=4, whole="text")


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_which_text_is_cut(ours, reference, strategy):
    first, second = [LONG[:300], "short"], [LONG[300:500], "short"]
    room = max(len(reference(text)["input_ids"]) for text in (first[0], second[0])) + 12
    found = ours.encode(first, second, max_length=room, truncation=strategy, padding_side="right")
    expected = reference(
        first, second, max_length=room, truncation=strategy, padding=True, padding_side="right", return_tensors="np"
    )
    np.testing.assert_array_equal(found.input_ids, expected["input_ids"])
    assert found.truncated.tolist() == [True, False]


def test_a_text_that_must_stay_whole_and_is_too_long(load):
    with pytest.raises(TokenizerError, match=r"row 1 has .* truncation='only_first' cannot bring it down to 16"):
        load("minilm").encode(["a", "b"], ["c", LONG], max_length=16, truncation="only_first")
