"""A GPU gives what the CPU gives. `make test-gpu`; needs one."""

import pytest

pytestmark = pytest.mark.gpu
MODELS = ("encoder", "vision", "decoder", "whisper")
WAYS = ("greedy", "sampled", "beams", "joined first", "joined again", "guessed")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-3), ("fp16", 2e-2), ("bf16", 1e-1)])
def test_outputs_are_those_of_the_cpu(found, name, precision, limit):
    assert found["differences"][f"{name} {precision}"] < limit


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_most_nodes_run_on_the_device(found, name, precision):
    placement = found["placement"][f"{name} {precision}"]
    assert placement.get("CPUExecutionProvider", 0) < sum(placement.values()) / 4


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_the_cpu(found, way):
    expected = found["cpu"]["decoder fp32"][way]
    assert len(set(expected[0])) > 3
    assert found["device"]["decoder fp32"][way] == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4f16"])
def test_a_captured_graph_gives_what_single_kernels_give(found, precision, way):
    assert found["graphs"][f"decoder {precision}"][way] == found["device"][f"decoder {precision}"][way]


@pytest.mark.parametrize("name", ["encoder", "vision", "whisper"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_captured_runs_give_what_others_give(found, name, precision):
    assert found["replayed"][f"{name} {precision}"] == 0


def test_a_graph_that_cannot_be_captured_is_refused(found):
    assert found["graphs"]["decoder fp32"].startswith("DeviceError: device 'cuda' does not have all operators")


def test_whisper_hears_what_it_hears_on_the_cpu(found):
    expected = found["cpu"]["whisper fp32"]
    assert len(set(expected[0])) > 3
    assert found["device"]["whisper fp32"] == expected


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4f16"])
def test_16_bits_begin_as_on_the_cpu(found, precision):
    expected, got = (found[key][f"decoder {precision}"]["greedy"] for key in ("cpu", "device"))
    assert sum(one[:4] == other[:4] for one, other in zip(expected, got, strict=True)) >= len(expected) - 1


def test_no_training_framework_is_loaded(found):
    assert found["modules"] == []
