"""Encoding equals transformers' fast tokenizers, in every array and under every setting."""

import threading
from pydoc_data.topics import topics

import numpy as np
import pytest

from tokenization.corpus import HOSTILE, MULTILINGUAL
from wherry_tokenization import TokenizerError

ARRAYS = {
    "input_ids": "input_ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "token_type_ids",
    "special_tokens_mask": "special_tokens_mask",
    "offset_mapping": "offsets",
}


def expected(reference, texts, pairs=None, **settings):
    settings = {"padding": True, "truncation": True, "padding_side": "right", **settings}
    return reference(
        texts,
        pairs,
        return_token_type_ids=True,
        return_attention_mask=True,
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
        return_tensors="np",
        **settings,
    )


def assert_equal(encoding, reference):
    for theirs, attribute in ARRAYS.items():
        array = getattr(encoding, attribute)
        assert array.shape == reference[theirs].shape, attribute
        different = np.argwhere(array != reference[theirs])
        assert not len(different), f"{attribute} differs first at {different[0]}"


def batches(lines, size=50):
    return [lines[start : start + size] for start in range(0, len(lines), size)]


def test_every_line(ours, reference, lines):
    for batch in batches(lines):
        assert_equal(ours.encode(batch, offsets=True), expected(reference, batch))


def test_without_offsets_the_rest_is_the_same(ours, lines):
    for batch in batches(lines[:500]):
        fast, full = ours.encode(batch), ours.encode(batch, offsets=True)
        assert fast.offsets is None
        for attribute in ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask", "lengths"):
            np.testing.assert_array_equal(getattr(fast, attribute), getattr(full, attribute))
        assert fast.input_ids.dtype == fast.attention_mask.dtype == fast.token_type_ids.dtype == np.int64


def test_pairs(ours, reference, lines):
    for batch in batches(lines[:800]):
        pairs = batch[::-1]
        assert_equal(ours.encode(batch, pairs, offsets=True), expected(reference, batch, pairs))


@pytest.mark.parametrize("max_length", [4, 7, 33])
@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_truncation(ours, reference, lines, max_length, add_special_tokens):
    settings = {"max_length": max_length, "add_special_tokens": add_special_tokens}
    for batch in batches(lines[:150]):
        for pairs in (None, batch[::-1]):
            encoding = ours.encode(batch, pairs, offsets=True, **settings)
            assert_equal(encoding, expected(reference, batch, pairs, **settings))
            whole = ours.encode(batch, pairs, max_length=10**6, add_special_tokens=add_special_tokens)
            np.testing.assert_array_equal(encoding.truncated, whole.lengths > max_length)
            np.testing.assert_array_equal(encoding.lengths, np.minimum(whole.lengths, max_length))


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("padding", [True, "max_length"])
def test_padding(ours, reference, lines, padding_side, multiple, padding):
    settings = {
        "padding": padding,
        "padding_side": padding_side,
        "pad_to_multiple_of": multiple,
        "max_length": 40,
    }
    batch = lines[:120]
    assert_equal(ours.encode(batch, offsets=True, **settings), expected(reference, batch, **settings))


def test_truncation_side_left(load, load_reference, variant, lines):
    folder = variant("minilm", {"truncation_side": "left", "padding_side": "left"})
    from transformers import AutoTokenizer

    from wherry_tokenization import Tokenizer

    ours, reference = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert (ours.truncation_side, ours.padding_side) == ("left", "left")
    for batch in batches(lines[:300]):
        settings = {"max_length": 9}
        assert_equal(
            ours.encode(batch, batch[::-1], offsets=True, **settings),
            expected(reference, batch, batch[::-1], padding_side="left", **settings),
        )


def long_texts(max_length):
    prose = "\n".join(topics.values())[:30_000]
    return [
        prose,
        "x" * 6000 + " " + prose,
        " " * 6000 + prose,
        "\n" * 3000 + prose,
        ("好" * 40 + "。") * 500,
        "好" * 9000,
        "".join(MULTILINGUAL) * 10,
        "\x00".join(HOSTILE) * 4,
        ("word " * 30 + "y" * 5000 + " ") * 5,
        "=" * 10_000,
        "1234567890" * 1000,
        "😀👨‍👩‍👧‍👦" * 1000,
        "a" * (16 * max_length - 3) + "bcdefg",
        "[MASK]<|im_start|>" * 2000,
    ]


def assert_cut_alike(ours, reference, texts, pairs, max_length):
    encoding = ours.encode(texts, pairs, offsets=True, max_length=max_length)
    assert_equal(encoding, expected(reference, texts, pairs, max_length=max_length))
    whole = reference(texts, pairs, padding=False, truncation=False)["input_ids"]
    assert encoding.truncated.tolist() == [len(row) > max_length for row in whole]


@pytest.mark.parametrize("max_length", [8, 300])
def test_long_texts_are_cut_before_they_are_tokenized(ours, reference, max_length):
    texts = long_texts(max_length)
    short = ["a word"] * len(texts)
    for first, second in ((texts, None), (texts, short), (short, texts)):
        assert_cut_alike(ours, reference, first, second, max_length)


def test_pairs_of_long_texts(ours, reference):
    """The reference keeps every combination of what it cuts off, so the texts are no longer than it takes."""
    texts = [text[:6000] for text in long_texts(300)]
    for first, second in zip(texts, texts[::-1], strict=True):
        assert_cut_alike(ours, reference, [first], [second], 300)


def test_refusing_what_is_too_long(ours):
    with pytest.raises(TokenizerError, match=r"row 1 has \d+ tokens, but the limit is 12"):
        ours.encode(["short", "long " * 50], max_length=12, truncation=False)
    encoding = ours.encode(["short"], max_length=12, truncation=False)
    assert not encoding.truncated.any()


def test_the_models_own_limit_is_the_default(load):
    encoding = load("minilm").encode("word " * 1000)
    assert encoding.input_ids.shape == (1, 512)
    assert encoding.truncated.tolist() == [True]
    assert load("smollm2").encode("word " * 1000).lengths.tolist() == [1001]


def test_no_room_for_special_tokens(load):
    with pytest.raises(TokenizerError, match="max_length=1 leaves no room for 2 special tokens"):
        load("minilm").encode("text", max_length=1)


def test_without_padding_rows_must_be_equal(load):
    tokenizer = load("minilm")
    assert tokenizer.encode(["one word", "two words"], padding=False).input_ids.shape == (2, 4)
    with pytest.raises(TokenizerError, match="rows of 3 to 5 tokens make no array"):
        tokenizer.encode(["word", "one two three"], padding=False)


def test_nothing(ours):
    empty = ours.encode([])
    assert empty.input_ids.shape == empty.attention_mask.shape == (0, 0)
    assert empty.lengths.shape == empty.truncated.shape == (0,)
    assert ours.encode([], [], offsets=True).offsets.shape == (0, 0, 2)
    assert ours.encode("").input_ids.shape[0] == 1


def test_one_text_is_a_batch_of_one(ours):
    np.testing.assert_array_equal(ours.encode("text").input_ids, ours.encode(["text"]).input_ids)
    np.testing.assert_array_equal(ours.encode("a", "b").input_ids, ours.encode(("a",), np.array(["b"])).input_ids)


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        (None, None, "texts is of type NoneType"),
        (b"bytes", None, "texts is of type bytes"),
        ({"a": 1}, None, "texts is of type dict"),
        (["a", 3], None, r"texts\[1\] is of type int"),
        (["a", ("b", "c")], None, r"texts\[1\] is of type tuple"),
        (["a"], [["b"]], r"pairs\[0\] is of type list"),
        (["a"], ["b", "c"], "1 texts but 2 pairs"),
    ],
)
def test_what_is_not_text_is_named(ours, texts, pairs, message):
    with pytest.raises(TokenizerError, match=message):
        ours.encode(texts, pairs)


@pytest.mark.parametrize("settings", [{}, {"offsets": True}, {"max_length": 5}])
def test_lone_surrogates_are_refused(ours, settings):
    for texts, pairs, where in (
        (["fine", "caf\udce9"], None, r"texts\[1\] is not valid Unicode: a lone surrogate at character 3"),
        (["fine"], ["\ud83d" + "x" * 500], r"pairs\[0\] is not valid Unicode: a lone surrogate at character 0"),
    ):
        with pytest.raises(TokenizerError, match=where) as caught:
            ours.encode(texts, pairs, **settings)
        assert "\n" not in str(caught.value)


def test_threads_with_different_settings(ours, lines):
    batch = lines[100:160]
    settings = [{"max_length": 6}, {"max_length": 21, "padding_side": "left"}, {"add_special_tokens": False}]
    alone = [ours.encode(batch, **setting) for setting in settings]
    failures = []

    def work(setting, truth):
        for _ in range(30):
            encoding = ours.encode(batch, **setting)
            if not np.array_equal(encoding.input_ids, truth.input_ids):
                failures.append(setting)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(settings, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_taking_rows(load):
    encoding = load("minilm").encode(["a much longer text than the other", "short"], offsets=True)
    taken = encoding.take(np.array([1]), 3)
    assert taken.input_ids.shape == (1, 3)
    assert taken.offsets.shape == (1, 3, 2)
    assert taken.lengths.tolist() == [3]
