"""Pooling equals a computation in torch, one row at a time and without padding."""

import json

import numpy as np
import pytest
import torch

from wherry.errors import BundleError
from wherry.pooling import Pooling

LENGTHS = (1, 7, 4, 2)
TORCH = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "max": lambda tokens: tokens.amax(0),
    "last": lambda tokens: tokens[-1],
}
FLAGS = {
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": False,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
    "pooling_mode_weightedmean_tokens": False,
    "pooling_mode_lasttoken": False,
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", list(TORCH))
def test_as_torch(mode, side, normalize):
    torch.manual_seed(3)
    rows = [torch.randn(length, 16) - 2 for length in LENGTHS]
    states = torch.full((len(rows), 7, 16), 1e4)
    mask = torch.zeros(len(rows), 7, dtype=torch.int64)
    for index, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(7 - len(row), 7)
        states[index, at], mask[index, at] = row, 1
    expected = torch.stack([TORCH[mode](row) for row in rows])
    if normalize:
        expected = torch.nn.functional.normalize(expected, dim=1)
    pooled = Pooling(mode, normalize).apply(states.numpy(), mask.numpy())
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_vector_of_zeros_stays_when_normalized():
    pooled = Pooling("mean", True).apply(np.zeros((1, 3, 4), np.float32), np.ones((1, 3), np.int64))
    assert pooled.tolist() == [[0.0] * 4]


def folder_with(folder, pooling, *, modules=("Transformer", "Pooling"), settings=None):
    listed = [
        {"path": f"{index}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if settings is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({**FLAGS, "pooling_mode_cls_token": True}, "cls"),
        ({**FLAGS, "pooling_mode_mean_tokens": True}, "mean"),
        ({**FLAGS, "pooling_mode_max_tokens": True}, "max"),
        ({**FLAGS, "pooling_mode_lasttoken": True}, "last"),
        (FLAGS, "mean"),
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "mean"}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "max"}, "max"),
        ({"embedding_dimension": 8, "pooling_mode": "lasttoken"}, "last"),
        ({"embedding_dimension": 8, "pooling_mode": ["lasttoken"]}, "last"),
        ({**FLAGS, "pooling_mode_mean_tokens": True, "pooling_mode": "cls"}, "cls"),
        ({"embedding_dimension": 8}, "mean"),
    ],
)
def test_the_mode_is_read_from_both_forms_of_the_configuration(tmp_path, pooling, mode):
    assert Pooling.load(folder_with(tmp_path, pooling)) == Pooling(mode, normalize=False, max_length=None)


def test_normalizing_and_the_length_are_read(tmp_path):
    folder = folder_with(
        tmp_path,
        {"pooling_mode": "mean"},
        modules=("Transformer", "Pooling", "Normalize"),
        settings={"max_seq_length": 256, "do_lower_case": False},
    )
    assert Pooling.load(folder) == Pooling("mean", normalize=True, max_length=256)


def test_a_folder_of_no_sentence_transformer_is_mean_and_normalized(tmp_path):
    assert Pooling.load(tmp_path) == Pooling("mean", normalize=True, max_length=None)


def test_the_sample_is_read_as_its_authors_wrote_it(bundle):
    assert Pooling.load(bundle("minilm").folder) == Pooling("mean", normalize=True, max_length=256)


@pytest.mark.parametrize(
    ("pooling", "asked"),
    [
        ({**FLAGS, "pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({**FLAGS, "pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({**FLAGS, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls and max"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        ({"pooling_mode": 5}, "5"),
        ({"pooling_mode": []}, ""),
    ],
)
def test_a_mode_that_is_not_supported_is_refused(tmp_path, pooling, asked):
    with pytest.raises(BundleError) as caught:
        Pooling.load(folder_with(tmp_path, pooling))
    path = tmp_path / "1_Pooling" / "config.json"
    assert str(caught.value) == f"{path} asks for pooling {asked}, which wherry does not do"


def test_a_module_that_is_not_supported_is_refused(tmp_path):
    folder = folder_with(tmp_path, {"pooling_mode": "mean"}, modules=("Transformer", "Pooling", "Dense"))
    with pytest.raises(BundleError, match=r"modules\.json has a Dense module"):
        Pooling.load(folder)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", "[{}]", '[{"type": "Pooling"}]', '[{"type": 1, "path": 2}]'])
def test_a_broken_list_of_modules_is_refused(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(BundleError, match=str(tmp_path)):
        Pooling.load(tmp_path)


def test_a_missing_configuration_of_the_pooling_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read .*/1_Pooling/config\.json: No such file"):
        Pooling.load(folder_with(tmp_path, None))
