"""With other wheels of onnxruntime: OpenVINO's plugin gives what the CPU gives, that for GPUs says why it does not."""

import numpy as np
import pytest

from wherry.session import Session

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def inputs(bundle, tmp_path_factory):
    """Graphs of real models, and files of what to feed them."""
    random = np.random.default_rng(0)
    ids = random.integers(1000, 20000, (2, 20))
    feeds = {
        "minilm": {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)},
        "efficientnet": {"pixel_values": random.standard_normal((2, 3, 224, 224)).astype(np.float32)},
    }
    folder = tmp_path_factory.mktemp("feeds")
    for name, arrays in feeds.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return {name: (bundle(name).folder / "onnx/model.onnx", folder / f"{name}.npz") for name in feeds}


def jobs(inputs, device):
    return [{"name": name, "graph": graph, "device": device, "feeds": feeds} for name, (graph, feeds) in inputs.items()]


def test_openvino_gives_what_the_cpu_gives(inputs, run_in):
    found = run_in("openvino", jobs(inputs, "openvino"), "run_device.py")
    for name, (graph, feeds) in inputs.items():
        if "finds 0 devices on this machine" in found[name].get("error", ""):
            pytest.skip("OpenVINO's plugin takes Intel's processors alone")
        assert found[name]["placement"].get("OpenVINOExecutionProvider", 0) > 0
        expected = Session(graph, device="cpu").run(dict(np.load(feeds)))
        got = np.load(found[name]["outputs"])
        for output, array in expected.items():
            assert np.abs(got[output] - array).max() < 1e-3 * np.abs(array).max()


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_the_wheel_for_gpus_says_why_it_does_not_work_without_one(inputs, run_in, device):
    found = run_in("gpu", jobs(inputs, device), "run_device.py")
    for name in inputs:
        assert found[name]["error"].startswith(
            f"device '{device}' does not work: there is no NVIDIA driver (libcuda.so.1"
        )


def test_the_wheel_for_gpus_runs_on_the_cpu_where_that_is_asked_for(inputs, run_in):
    found = run_in("gpu", jobs(inputs, "cpu"), "run_device.py")
    assert found["minilm"]["placement"].keys() == {"CPUExecutionProvider"}
