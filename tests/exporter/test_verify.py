"""Verification measures what torch measures, and sees a graph that went wrong."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from wherry.cli import main
from wherry_exporter.errors import ParityError
from wherry_exporter.load import load
from wherry_exporter.probe import PROSE, SENTENCES
from wherry_exporter.probes import vectors_of
from wherry_exporter.samples import sample
from wherry_exporter.verify import LIMITS, Tally, Verifier, judge


def altered(graph: Path, folder: Path, share: float) -> Path:
    """The graph with the signs of some columns of its first projection turned."""
    model = ir.external_data.load_to_model(ir.load(graph))
    node = next(node for node in model.graph if node.op_type in ("MatMul", "Attention"))
    weight = node.inputs[1].const_value.numpy().copy()
    weight[:, : round(share * weight.shape[1])] *= -1
    node.inputs[1].const_value = ir.tensor(weight, name=node.inputs[1].name)
    ir.save(model, folder / "altered.onnx", external_data="altered.onnx_data")
    return folder / "altered.onnx"


def test_what_is_added_to_all_logits_is_not_seen_where_softmax_does_not_see_it():
    expected = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    found = expected + np.float32([[0.5], [1.0], [-2.0]])
    assert np.allclose(torch.tensor(expected).softmax(-1), torch.tensor(found).softmax(-1), atol=1e-6)
    for name, writes, alike in (("logits", True, True), ("logits", False, False), ("pred_boxes", True, False)):
        tally = Tally(writes=writes)
        tally.add(name, expected, found)
        parity = tally.parity(None, None)
        assert (parity.cosine_min > 0.999999) == alike
        assert parity.max_abs_diff == pytest.approx(2.0, rel=1e-5)


def test_what_cannot_be_is_alike_where_both_say_so():
    """Grounding DINO has logits of minus infinity behind a text's last token, Chameleon of float32's least."""
    logits = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    cases = []
    for least in (-np.inf, np.finfo(np.float32).min):
        expected = logits.copy()
        expected[:, 30:] = least
        others = {-np.inf: True, np.finfo(np.float32).min: True, np.finfo(np.float16).min: True, -9: False}
        cases += [(expected, np.where(expected < -9, each, expected), alike) for each, alike in others.items()]
    for expected, found, alike in cases:
        tally = Tally(writes=False)
        with np.errstate(invalid="ignore"):
            tally.add("logits", expected, found)
            parity = tally.parity(None, None)
        with nullcontext() if alike else pytest.raises(ParityError):
            judge("fp32", parity)
        assert (parity.top1, parity.cosine_min > 0.99) == (1.0, alike)


def test_what_cannot_be_is_not_what_is_chosen():
    """Where all that can be is below zero, another choice is seen; beside a huge element, so is another value."""
    expected = -1 - np.random.default_rng(0).random(size=(5, 40)).astype(np.float32)
    expected[:, 30:] = np.finfo(np.float32).min
    found = expected.copy()
    found[:, 7] = -0.5
    tally = Tally(writes=False)
    tally.add("logits", expected, found)
    parity = tally.parity(None, None)
    assert parity.top1 == 0
    assert 0.2 < parity.max_rel_diff < 1


def test_maps_are_compared_by_pixel():
    """Of neighbours in a map the largest is by a hair; the class of a pixel is the choice."""
    maps = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    vectors = vectors_of(maps)
    assert vectors.shape == (40, 3)
    np.testing.assert_array_equal(vectors[7], maps[0, :, 1, 2])
    assert vectors_of(maps[0]).shape == (12, 5)


def test_one_element_far_off_is_refused_in_float32_though_no_cosine_shows_it():
    expected = np.random.default_rng(0).normal(size=(200, 500)).astype(np.float32)
    expected[0, 0] = 10
    boxes = np.full((4, 4), 0.01, np.float32)
    found = expected.copy()
    for moved, refused in ((0.009, False), (0.011, True)):
        tally = Tally(writes=False)
        found[7, 3] = expected[7, 3] + moved
        tally.add("logits", expected, found)
        tally.add("pred_boxes", boxes, boxes)
        parity = tally.parity(None, None)
        assert parity.cosine_min > 0.99999
        assert parity.max_rel_diff == pytest.approx(moved / 10, rel=1e-4)
        with pytest.raises(ParityError, match="largest relative difference") if refused else nullcontext():
            judge("fp32", parity)
        judge("fp16", parity)
    tally.add("pred_boxes", boxes, boxes + np.float32(0.001))  # little beside logits, much for a box
    assert tally.parity(None, None).max_rel_diff == pytest.approx(0.1, rel=1e-4)


def test_an_encoder(bundle, tmp_path):
    folder = bundle("minilm").folder
    verifier = Verifier(load(sample("minilm")), folder)
    good = verifier.measure({"model": folder / "onnx/model.onnx"})
    assert good.cosine > 0.99999
    assert good.max_abs_diff < 1e-5
    assert good.vectors == 2 * (len(SENTENCES) + 2)  # of the tokens, and pooled
    assert good.top1 is None
    judge("fp32", good)
    bad = verifier.measure({"model": altered(folder / "onnx/model.onnx", tmp_path, 0.05)})
    with pytest.raises(ParityError, match="fp32 is too far from the original: mean cosine"):
        judge("fp32", bad)


def test_a_decoder(bundle, tmp_path):
    folder = bundle("smollm2-gguf").folder
    checkpoint = load(sample("smollm2"))  # whose weights the file has too
    verifier = Verifier(checkpoint, folder)
    good = verifier.measure({"model": folder / "onnx/model.onnx"})
    judge("fp32", good)
    ids = torch.tensor(verifier.probe.tokenizer.encode(PROSE, max_length=256).input_ids)
    with torch.no_grad():
        loss = float(checkpoint.model(ids, labels=ids).loss)
    assert good.perplexity_torch == pytest.approx(np.exp(loss), rel=1e-4)
    assert good.perplexity == pytest.approx(np.exp(loss), rel=1e-3)
    bad = verifier.measure({"model": altered(folder / "onnx/model.onnx", tmp_path, 0.05)})
    with pytest.raises(ParityError, match="fp32 is too far from the original"):
        judge("fp32", bad)


def test_the_shipped_figures_are_within_the_limits(bundle):
    for name in ("minilm", "rampart", "smollm2-gguf"):
        for precision, variant in bundle(name).variants.items():
            limit = LIMITS[precision]
            assert variant.parity["cosine"] >= limit.cosine
            assert variant.parity["cosine_min"] >= limit.cosine_min
            assert variant.parity.get("top1", 1.0) >= limit.top1
            if "perplexity" in variant.parity:
                assert variant.parity["perplexity"] <= limit.perplexity * variant.parity["perplexity_torch"]
            assert variant.speed > 0


def test_the_proof_can_be_repeated(bundle, capsys):
    folder = bundle("rampart").folder
    assert main(["verify", str(folder), "--against", str(sample("rampart")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parity"]
    for precision, variant in bundle("rampart").variants.items():
        assert found[precision]["cosine"] == pytest.approx(variant.parity["cosine"], abs=1e-5)


def test_the_proof_of_what_others_made(capsys):
    """rampart's own 4-bit graph, whose weights the sample's float32 ones were made of."""
    folder = str(sample("rampart"))
    assert main(["verify", folder, "--against", folder]) == 0
    row = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert row[0] == "int4"
    assert float(row[5]) > 0.9999


def test_another_model_is_not_the_original(bundle, classifier, capsys):
    assert main(["verify", str(bundle("minilm").folder), "--against", str(sample("rampart"))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("wherry: ")
    assert error.count("\n") == 1
    assert main(["verify", str(bundle("rampart").folder), "--against", str(classifier)]) == 2
    assert "task token-classification does not fit" in capsys.readouterr().err
