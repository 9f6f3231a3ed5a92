"""Labels of frames: characters of a vocab.json, pieces of words of a tokenizer.json, and damaged ones."""

import json

import numpy as np
import pytest

from wherry_tokenization import TokenizerError
from wherry_tokenization.ctc import CTCLabels, Spoken

PIECES = [["<unk>", 0.0], ["▁a", -1.0], ["b", -1.0], ["▁", -2.0]]
ADDED = [{"id": 4, "content": "<pad>"}]


def test_pieces_of_words(tmp_path):
    told = {"model": {"type": "Unigram", "vocab": PIECES}, "added_tokens": ADDED}
    (tmp_path / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    labels = CTCLabels.load(tmp_path)
    heard = labels.characters(np.array([4, 1, 1, 4, 2, 2, 4, 2, 1, 3, 2, 4]))
    assert [each.text for each in heard] == [" a", "b", "b", " a", " ", "b"]
    assert labels.text(heard) == "abb a b"
    assert labels.words(heard) == [Spoken("abb", 1, 8), Spoken("a", 8, 9), Spoken("b", 10, 11)]


@pytest.mark.parametrize(
    ("vocabulary", "added", "told"),
    [
        (["a"], [], "the vocabulary of .*tokenizer.json is not usable"),
        ([["a"]], [], "the vocabulary of .*tokenizer.json is not usable"),
        (PIECES, [{"id": 4}], "the vocabulary of .*tokenizer.json is not usable"),
        (PIECES, [{"id": "4", "content": "b"}], "is no mapping from tokens to numbers"),
        ([], [], "is no mapping from tokens to numbers"),
    ],
)
def test_damaged_pieces(tmp_path, vocabulary, added, told):
    whole = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(TokenizerError, match=told):
        CTCLabels.load(tmp_path)
