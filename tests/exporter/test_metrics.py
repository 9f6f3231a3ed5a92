"""Figures of how right answers are, against cases counted by hand and against torch."""

import math

import numpy as np
import pytest
import torch

from wherry_exporter.metrics import METRICS, entities, entity_counts, surprise, word_errors


@pytest.mark.parametrize(
    ("expected", "found", "errors", "words"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 0, 6),
        ("the cat sat on the mat", "the cat sat on mat", 1, 6),  # one left out
        ("the cat sat on the mat", "the black cat sat on the mat", 1, 6),  # one put in
        ("the cat sat on the mat", "the cat sits on the mat", 1, 6),  # one for another
        ("the cat sat on the mat", "a cat sat the mat now", 3, 6),  # one of each
        ("one two three", "", 3, 3),
        ("", "one two", 2, 0),
        ("", "", 0, 0),
        ("a b", "b a", 2, 2),
        ("Don't stop, Eve!", "don't stop eve", 0, 3),
        ("well-known", "well known", 0, 2),
        ("Der Fluß ist breit.", "der fluß ist Breit", 0, 4),
    ],
)
def test_word_errors(expected, found, errors, words):
    assert word_errors(expected, found).tolist() == [errors, words]
    assert word_errors(found, expected)[0] == errors


def test_word_error_rate_adds_up_over_rows():
    counts = word_errors("one two three", "one three") + word_errors("four", "five six")
    assert METRICS["wer"].value(counts) == pytest.approx((1 + 2) / 4)
    assert METRICS["wer"].worsened(0.1, 0.25) == pytest.approx(0.15)


def test_accuracy():
    assert METRICS["accuracy"].value(np.array([3, 4])) == 0.75
    assert METRICS["accuracy"].worsened(0.8, 0.75) == pytest.approx(0.05)
    assert METRICS["accuracy"].worsened(0.75, 0.8) < 0


def test_perplexity_is_what_torch_makes_of_the_cross_entropy():
    torch.manual_seed(0)
    logits, tokens = torch.randn(50, 200) * 5, torch.randint(200, (50,))
    counts = surprise(logits[:20].numpy(), tokens[:20].numpy()) + surprise(logits[20:].numpy(), tokens[20:].numpy())
    expected = float(torch.nn.functional.cross_entropy(logits.double(), tokens).exp())
    assert METRICS["perplexity"].value(counts) == pytest.approx(expected, rel=1e-6)
    assert METRICS["perplexity"].worsened(10, 11) == pytest.approx(0.1)


def test_perplexity_of_large_and_half_precision_logits_is_finite():
    logits = np.array([[1000.0, 990.0], [-1000.0, -1000.0]], np.float16)
    counts = surprise(logits, np.array([1, 0]))
    assert counts[0] == pytest.approx(10 + math.log(1 + math.exp(-10)) + math.log(2), rel=1e-6)
    assert counts[1] == 2


def span(start: int, end: int, label: str) -> dict[str, object]:
    return {"start": start, "end": end, "label": label}


TEXT = "Ada Lovelace met Babbage in London"


@pytest.mark.parametrize(
    ("offsets", "labels", "expected"),
    [
        ([(0, 3), (4, 12), (13, 16)], ["B-PER", "I-PER", "O"], [span(0, 12, "PER")]),
        ([(0, 3), (4, 12), (13, 16)], ["PER", "PER", "O"], [span(0, 12, "PER")]),  # marked in no way
        ([(0, 3), (4, 12)], ["I-PER", "I-PER"], [span(0, 12, "PER")]),  # never begun
        ([(0, 3), (4, 12)], ["B-PER", "B-PER"], [span(0, 3, "PER"), span(4, 12, "PER")]),  # two beside each other
        ([(4, 8), (8, 12)], ["B-PER", "B-PER"], [span(4, 12, "PER")]),  # pieces of one word
        ([(0, 3), (4, 12)], ["B-PER", "I-LOC"], [span(0, 3, "PER"), span(4, 12, "LOC")]),
        ([(0, 3), (13, 16), (17, 24)], ["B-PER", "O", "I-PER"], [span(0, 3, "PER"), span(17, 24, "PER")]),
        ([(0, 0), (28, 34), (0, 0)], ["B-LOC", "B-LOC", "B-LOC"], [span(28, 34, "LOC")]),  # special tokens
        ([(0, 3)], ["O"], []),
    ],
)
def test_entities_of_tokens(offsets, labels, expected):
    assert entities(TEXT, np.array(offsets), labels) == expected


def test_f1_of_entities():
    expected = [span(0, 12, "PER"), span(17, 24, "PER"), span(28, 34, "LOC")]
    found = [span(0, 12, "PER"), span(28, 34, "ORG")]
    counts = entity_counts(expected, found)
    assert counts.tolist() == [1, 1, 2]
    precision, recall = 1 / 2, 1 / 3
    assert METRICS["f1"].value(counts) == pytest.approx(2 * precision * recall / (precision + recall))
    assert METRICS["f1"].value(entity_counts(expected, expected)) == 1
    assert METRICS["f1"].value(entity_counts(expected, [])) == 0
