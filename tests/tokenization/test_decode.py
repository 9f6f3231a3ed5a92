"""Decoding equals transformers', at once and token by token."""

import random
import time

import numpy as np
import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, pre_tokenizers

from wherry_tokenization import Tokenizer, TokenizerError


def streamed(tokenizer, ids, **settings):
    stream = tokenizer.stream(**settings)
    return [*(stream.step(token_id) for token_id in ids), stream.finish()]


@pytest.mark.parametrize("skip_special_tokens", [True, False])
def test_every_line(ours, reference, lines, skip_special_tokens):
    rows = [row[:length] for row, length in zip(*_rows(ours, lines), strict=True)]
    theirs = [reference.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]
    assert [ours.decode(row, skip_special_tokens=skip_special_tokens) for row in rows] == theirs
    assert ours.decode_batch(rows, skip_special_tokens=skip_special_tokens) == theirs
    for row, text in zip(rows, theirs, strict=True):
        assert "".join(streamed(ours, row.tolist(), skip_special_tokens=skip_special_tokens)) == text


def _rows(tokenizer, lines):
    encoding = tokenizer.encode(lines)
    return encoding.input_ids, encoding.lengths


def test_random_ids(ours, reference):
    chance = random.Random(5)
    for _ in range(400):
        ids = [chance.randrange(ours.vocab_size) for _ in range(chance.randint(1, 40))]
        for skip_special_tokens in (True, False):
            text = reference.decode(ids, skip_special_tokens=skip_special_tokens)
            assert ours.decode(ids, skip_special_tokens=skip_special_tokens) == text
            assert "".join(streamed(ours, ids, skip_special_tokens=skip_special_tokens)) == text


def test_a_stream_never_splits_a_character(load):
    tokenizer = load("smollm2")
    text = "Flags 🏴󠁧󠁢󠁳󠁣󠁴󠁿, families 👨‍👩‍👧‍👦, 深度学习, ελληνικά and 𓀀!"
    pieces = streamed(tokenizer, tokenizer.encode(text).input_ids[0])
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "" in pieces


def test_an_unfinished_character_is_marked_at_the_end(load):
    tokenizer = load("smollm2")
    ids = tokenizer.encode("𓀀").input_ids[0].tolist()
    *pieces, rest = streamed(tokenizer, ids[:-1])
    assert "".join(pieces) == ""
    assert rest == tokenizer.decode(ids[:-1]) == "\N{REPLACEMENT CHARACTER}"


def test_a_replacement_character_in_the_text_does_not_hold_it_up(load):
    tokenizer = load("smollm2")
    pieces = streamed(tokenizer, tokenizer.encode("a\ufffd\ufffdb").input_ids[0])
    assert "".join(pieces) == "a\ufffd\ufffdb"
    assert pieces[-1] == ""


@pytest.mark.parametrize("kind", ["smollm2", "minilm", "bytes"])
def test_long_streams_of_anything_cost_the_same_per_token(kind, load, byte_fallback):
    tokenizer = byte_fallback if kind == "bytes" else load(kind)
    token = {"smollm2": "ÿ", "minilm": "[UNK]", "bytes": "<0xFF>"}[kind]
    token_id = tokenizer.token_to_id(token)
    if token_id is None:  # an invalid byte, whatever this vocabulary calls it
        token_id = next(i for i in range(1000) if tokenizer.decode([i], skip_special_tokens=False) == "\ufffd")

    def seconds(count):
        stream = tokenizer.stream(skip_special_tokens=False)
        start = time.process_time()
        pieces = [stream.step(token_id) for _ in range(count)]
        taken = time.process_time() - start
        shown = "".join(pieces)
        assert len(shown) >= count - 4
        return taken

    seconds(100)
    short, long = min(seconds(1000) for _ in range(5)), min(seconds(8000) for _ in range(3))
    assert long < 8 * short * 3


@pytest.fixture
def byte_fallback(tmp_path):
    """A small tokenizer in the manner of Llama 2: words, and bytes for all else."""
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for piece in ("▁", "▁hello", "▁world", "hello", "!", "你"):
        vocab[piece] = len(vocab)
    rust = Rust(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    rust.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    rust.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer.load(tmp_path)


def test_byte_fallback(byte_fallback):
    def ids(*pieces):
        tokens = [piece if isinstance(piece, str) else f"<0x{piece:02X}>" for piece in pieces]
        return [byte_fallback.token_to_id(token) for token in tokens]

    face = tuple("😀".encode())
    assert streamed(byte_fallback, ids("▁hello", *face, "▁world")) == ["hello", "", "", "", "😀", " world", ""]
    assert streamed(byte_fallback, ids(*face, "▁", "你")) == ["", "", "", "😀", " ", "你", ""]
    for case in (
        ids("▁hello", "▁world", "!"),
        ids("▁", "▁", "▁hello"),
        ids(0x20, "hello", 0x20, "▁world"),
        ids(0x20, 0x20, 0x41),
        ids(*face, *face, 0x41, "hello", 0x0A),
        ids(0xFF, 0xFE, "hello"),
        ids(0xE4, 0xBD, "hello", 0xA0),
        ids(0xE4, 0xBD, 0xE4, 0xBD, 0xA0, "▁hello"),
        ids(0xFF, *face, "▁hello", *face),
        ids(0xF0, 0x9F),
        ids("<unk>", 0x41),
    ):
        assert "".join(streamed(byte_fallback, case)) == byte_fallback.decode(case)


@pytest.mark.parametrize("scheme", ["always", "never", "first"])
def test_sentencepiece_words(tmp_path, scheme):
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("▁cat", -3.0), ("s", -4.0), (".", -4.0), ("▁.", -4.0)]
    rust = Rust(models.Unigram(pieces, 0))
    rust.decoder = decoders.Metaspace(prepend_scheme=scheme)
    rust.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    tokenizer = Tokenizer.load(tmp_path)
    chance = random.Random(3)
    for _ in range(300):
        ids = [chance.randrange(1, len(pieces)) for _ in range(chance.randint(1, 12))]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_tidying_token_by_token(variant):
    """Random tokens out of those that tidying looks at, and spaces in any number."""
    tokens = [" ", "'", ".", "?", "n't", "'s", "'", "ve", "s", "n", "t", "re", "m", "word", ",", "!"]
    rust = Rust(models.WordLevel({token: i for i, token in enumerate(dict.fromkeys(tokens))}, unk_token=" "))
    rust.decoder = decoders.Fuse()
    folder = variant(
        "minilm", {"clean_up_tokenization_spaces": True, "tokenizer_class": None}, {"tokenizer.json": rust.to_str()}
    )
    tokenizer = Tokenizer.load(folder)
    groups = (
        tokens,
        ["n", "'", "t"],
        ["'", "m", "s", "ve", "re"],
        [".", "?", "!", ",", "'", "word"],
        ["n't", "'s", "'"],
    )
    chance = random.Random(11)
    for _ in range(4000):
        group = chance.choice(groups)
        chosen = [chance.choice((" ", chance.choice(group))) for _ in range(chance.randint(1, 25))]
        ids = list(map(tokenizer.token_to_id, chosen))
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert "".join(streamed(tokenizer, ids, skip_special_tokens=False)) == text


def test_tidying_joins_what_an_earlier_tidying_left(load, load_reference):
    tokenizer, reference = load("rampart"), load_reference("rampart")
    for text in ("we do n ' t", "do n't n ' t .", "n ' t", "in n ' n ' t ! ' re ' ve", "a '  ' s '   ' m , n , t"):
        ids = tokenizer.encode(text).input_ids[0].tolist()
        expected = reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids) == "".join(streamed(tokenizer, ids)) == expected


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda ids: np.array(ids, np.int32)])
def test_kinds_of_rows(load, make):
    tokenizer = load("minilm")
    assert tokenizer.decode(make([7592, 2088])) == "hello world"
    assert tokenizer.decode_batch([make([7592]), make([])]) == ["hello", ""]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, -1], r"ids\[1\] is -1, but the ids of .* go from 0 to"),
        ([10**6], r"ids\[0\] is 1000000"),
        ([2**70], r"ids\[0\] is 1180591620717411303424"),
        (np.array([3, -5]), r"ids\[1\] is -5"),
        ([1.5], r"ids\[0\] is of type float"),
        (["a"], r"ids\[0\] is of type str"),
        ("text", "ids is of type str"),
        (7, "ids is of type int"),
        (np.zeros((2, 2), np.int64), r"array of shape \(2, 2\)"),
        (np.zeros(2), "type float64"),
    ],
)
def test_what_is_not_an_id_is_named(ours, ids, message):
    with pytest.raises(TokenizerError, match=message):
        ours.decode(ids)


def test_a_stream_refuses_unknown_ids(ours):
    for token_id in (-1, 10**9, 1.5, None):
        with pytest.raises(TokenizerError, match="token_id is"):
            ours.stream().step(token_id)
