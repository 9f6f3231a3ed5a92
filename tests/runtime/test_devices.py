"""Devices without a GPU: what is chosen, what is refused and in which words, and buffers as a GPU has them."""

import ctypes
import importlib.metadata
import json
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from wherry import devices, nvidia
from wherry.bundle import Bundle
from wherry.devices import KINDS, Device, create, full_memory, one_line, parse, parse_options, resolve, trial
from wherry.errors import DeviceError, InputError, SessionError
from wherry.generation.cache import DeviceCache, SharedCache
from wherry.session import Port, Session
from wherry.tiny import FLOAT, INT64, graph

PLAIN = ("CPUExecutionProvider",)
GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
WHEEL = SimpleNamespace(__version__="1.31.1", cuda_version="13.0", __file__="/site/onnxruntime/__init__.py")


def told(error):
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


@pytest.fixture
def have(monkeypatch):
    """This onnxruntime has these execution providers; sessions are on the CPU all the same."""

    def install(*names):
        monkeypatch.setattr(ort, "get_available_providers", lambda: list(names))
        trial.cache_clear()

    yield install
    trial.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """The execution providers that onnxruntime is asked for, with their options; it takes all of them."""
    found = []

    def session(content, options, *, providers, enable_fallback):
        assert enable_fallback == 0
        found.append(providers)
        return SimpleNamespace(get_providers=lambda: [name for name, _ in providers], run=lambda *_: [])

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(nvidia, "preload", lambda _: "")
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: None)
    return found


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda")),
        ("cuda:3", Device("cuda", 3)),
        ("tensorrt-rtx:1", Device("tensorrt-rtx", 1)),
        ("coreml", Device("coreml")),
    ],
)
def test_names_of_devices(name, device):
    assert parse(name) == device
    assert str(device) == name


WRONG = ["gpu", "", "CUDA", "cuda:x", "cuda:", "cuda:-1", "cpu:0", "cuda:1:2", "cuda 1", "auto:1", "cuda:²"]


@pytest.mark.parametrize("name", WRONG)
def test_an_unknown_name_is_refused(name):
    with pytest.raises(DeviceError) as caught:
        resolve(name)
    assert told(caught).startswith(f"unknown device '{name}': choose auto, cpu, cuda[:N], tensorrt[:N], openvino[:N]")


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "tensorrt", "coreml", "directml:1", "qnn"])
def test_a_device_that_is_absent_is_refused_with_what_to_install(have, name):
    have("AzureExecutionProvider", *PLAIN)
    with pytest.raises(DeviceError) as caught:
        resolve(name)
    assert told(caught).startswith(f"device '{name}' is not there: this onnxruntime has Azure")
    assert told(caught).endswith(KINDS[name.partition(":")[0]].install)


@pytest.mark.parametrize("name", ["openvino", "tensorrt-rtx", "webgpu"])
def test_a_plugin_that_is_absent_is_refused_with_what_to_install(name):
    with pytest.raises(DeviceError, match="is not installed: `pip install onnxruntime-ep-"):
        resolve(name)


def test_a_plugin_that_is_registered_is_still_one(have, monkeypatch):
    """onnxruntime lists its execution provider from then on."""
    have("OpenVINOExecutionProvider", *PLAIN)
    monkeypatch.setattr("wherry.devices._REGISTERED", {"OpenVINOExecutionProvider"})
    monkeypatch.setattr(ort, "get_ep_devices", list)
    with pytest.raises(DeviceError, match="OpenVINOExecutionProvider finds 0 devices on this machine"):
        resolve("openvino")


@pytest.mark.parametrize(
    ("device", "given", "providers"),
    [
        ("cpu", {}, [("CPUExecutionProvider", {})]),
        (
            "cuda:3",
            {"gpu_mem_limit": 10**9, "cudnn_conv_use_max_workspace": False},
            [
                (
                    "CUDAExecutionProvider",
                    {
                        "device_id": "3",
                        "use_tf32": "0",
                        "gpu_mem_limit": "1000000000",
                        "cudnn_conv_use_max_workspace": "0",
                    },
                ),
                ("CPUExecutionProvider", {}),
            ],
        ),
        ("cuda", {"use_tf32": True}, [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "1"}), (PLAIN[0], {})]),
        (
            "tensorrt:1",
            {"trt_fp16_enable": 1},
            [
                ("TensorrtExecutionProvider", {"device_id": "1", "trt_fp16_enable": "1"}),
                ("CUDAExecutionProvider", {"device_id": "1"}),
                ("CPUExecutionProvider", {}),
            ],
        ),
    ],
)
def test_a_device_is_a_chain_of_providers_with_options(have, asked, device, given, providers):
    have(*GPU)
    create("model.onnx", resolve(device), ort.SessionOptions(), given)
    assert asked == [providers]


def test_auto_is_a_gpu_that_works(have, asked):
    have(*GPU)
    assert resolve("auto") == Device("cuda")


def test_auto_is_the_cpu_where_there_is_no_other(have):
    have(*PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("auto") == Device("cpu")


def test_auto_says_why_a_gpu_does_not_work(have, monkeypatch):
    have(*GPU)
    monkeypatch.setattr(devices, "trial", lambda _: "there is no NVIDIA driver")
    with pytest.warns(UserWarning, match="runs on the CPU, though onnxruntime-gpu is installed: there is no NVIDIA"):
        assert resolve("auto") == Device("cpu")


def fault(monkeypatch, kind, *, driver=(13, 0), missing=None, found=None):
    packages = found or {}

    def distribution(name):
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return SimpleNamespace(version=packages[name])

    monkeypatch.setattr(nvidia, "driver_cuda", lambda: driver)
    monkeypatch.setattr(nvidia, "distribution", distribution)
    monkeypatch.setattr(nvidia, "_missing", lambda _: missing and f"{missing}: cannot open shared object file")
    return nvidia.fault(WHEEL, kind)


def test_what_is_missing_for_a_gpu_is_named_with_what_is_found_and_what_to_do(monkeypatch):
    assert fault(monkeypatch, "cuda", driver=None).startswith(
        "there is no NVIDIA driver (libcuda.so.1 is not found), and onnxruntime-gpu 1.31.1 needs one for CUDA 13.0: "
    )
    older = {"nvidia-cublas-cu12": "12.8.4.1"}
    assert fault(monkeypatch, "cuda", missing="libcublasLt.so.13", found=older) == (
        "libcublasLt.so.13 is not found, which onnxruntime-gpu 1.31.1 for CUDA 13.0 needs (found: nvidia-cublas-cu12 "
        "12.8.4.1): `pip install -U 'wherry[gpu]'`"
    )
    assert "(found: no nvidia-cuda-runtime)" in fault(monkeypatch, "cuda", missing="libcudart.so.13")
    newer = {"tensorrt-cu13": "11.4.0.106"}
    assert fault(monkeypatch, "tensorrt", missing="libnvinfer.so.10", found=newer).endswith(
        "(found: tensorrt-cu13 11.4.0.106): `pip install 'tensorrt-cu13==10.*'`"
    )
    assert fault(monkeypatch, "cuda", driver=(12, 4)).startswith("the NVIDIA driver is for CUDA 12.4, and ")
    assert fault(monkeypatch, "cuda", missing="libmystery.so.1").startswith("libmystery.so.1: cannot open")
    assert fault(monkeypatch, "cuda") is None


def test_a_provider_that_does_not_load_is_an_error_and_never_the_cpu(have, asked, monkeypatch):
    have(*GPU)
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: SimpleNamespace(get_providers=lambda: list(PLAIN)))
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    with pytest.raises(DeviceError) as caught:
        Session("model.onnx", device="cuda")
    assert told(caught).startswith("device 'cuda' does not work: there is no NVIDIA driver")


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ('provider_options_utils.h:182 Unknown provider option: "nonsense"', "does not take the options nonsense=1"),
        (
            'Failed to parse provider option "device_id": Invalid device ID',
            "device 'cuda:5' is not there: the driver",
        ),
        ("CUDA failure 101: invalid device ordinal", "device 'cuda:5' is not there: the driver has fewer GPUs, of"),
        ("This session cannot use the graph capture feature as requested", "run the variant fp16"),
        (
            "TensorRT EP: User needs to provide all the dynamic shape inputs with associated profiles if they want to",
            "takes the graph in parts, for which the bundle's shapes do not tell enough: set the provider options",
        ),
    ],
)
def test_what_onnxruntime_says_of_a_gpu_is_told_in_clear_words(have, asked, monkeypatch, said, means):
    def refuse(*_, **__):
        raise RuntimeError(f"CUDA {said}")

    have(*GPU)
    monkeypatch.setattr(nvidia, "fault", lambda *_: None)
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(DeviceError) as caught:
        Session("model.onnx", device="cuda:5", provider_options={"nonsense": 1})
    assert means in told(caught)


def test_a_full_memory_is_told_with_what_is_free(monkeypatch):
    full = RuntimeError("BFCArena Failed to allocate memory for requested buffer of size 201326592")
    monkeypatch.setattr(nvidia, "cards", lambda: [nvidia.Card("NVIDIA H200", 150_800_000_000, 200_000_000)])
    found = full_memory(full, Device("cuda"), {})
    assert found.startswith("the memory of cuda is full (0.2 of 150.8 GB of the NVIDIA H200 are free): use a smaller")
    limit = RuntimeError("Available memory of 0 is smaller than requested bytes of 768")
    assert full_memory(limit, Device("cuda"), {"gpu_mem_limit": 10**7}).startswith("the limit of 10 MB of the memory")
    assert full_memory(full, Device("cpu"), {}) is None
    assert full_memory(RuntimeError("bad shape"), Device("cuda"), {}) is None


def test_options_from_the_command_line():
    assert parse_options(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for wrong in ("a", "=1", ""):
        with pytest.raises(InputError, match="is not of the form name=value"):
            parse_options([wrong])


def test_a_long_message_keeps_its_end():
    found = one_line(RuntimeError("start " + "x" * 900 + "\n the reason"))
    assert found.startswith("start")
    assert found.endswith("the reason")
    assert len(found) <= 300


@pytest.fixture
def negation(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(graph("Neg", {"x": (FLOAT, 1)}, {"y": (FLOAT, 1)}))
    return path


def test_a_fallback_is_only_where_it_is_allowed_and_is_told(have, negation):
    have(*PLAIN)
    with pytest.raises(DeviceError):
        Session(negation, device="cuda")
    with pytest.warns(UserWarning, match="runs on the CPU instead: device 'cuda' is not there"):
        session = Session(negation, device="cuda", provider_options={"gpu_mem_limit": 1}, allow_fallback=True)
    assert session.device == "cpu"
    assert session.placement() == {"CPUExecutionProvider": 1}


def test_a_graph_of_one_node_is_onnx_and_runs(negation):
    onnx.checker.check_model(onnx.load(negation), full_check=True)
    assert Session(negation, device="cpu").run({"x": np.array([2.0, -3.0])})["y"].tolist() == [-2.0, 3.0]
    outputs = {"values": (FLOAT, 2), "places": (INT64, 2)}
    content = graph("TopK", {"scores": (FLOAT, 2)}, outputs, attributes={"largest": 0}, initializers={"k": [300]})
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    scores = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    found = create(content, Device("cpu"), ort.SessionOptions()).run(["places"], {"scores": scores})[0]
    assert np.array_equal(found, np.argsort(scores)[:, :300])


def test_nodes_that_a_device_leaves_to_the_cpu_are_told(negation, monkeypatch):
    session = Session(negation, device="cpu")
    session.place = Device("cuda")
    with pytest.raises(DeviceError, match=r"takes no node of .*: CUDAExecutionProvider has none of its operators"):
        session._look_at_placement(negation)
    session._nodes += [("CUDAExecutionProvider", "MatMul")] * 3 + [("CPUExecutionProvider", "Shape")]
    with pytest.warns(UserWarning, match=r"1 of 5 nodes of .* run on the CPU, .*: Neg \(1\)"):
        session._look_at_placement(negation)
    assert session.placement() == {"CUDAExecutionProvider": 3, "CPUExecutionProvider": 2}
    session.memory = "cuda"
    assert session.native("MatMul")
    assert not session.native("Neg")


def test_what_a_bundle_recommends_goes_behind_what_is_given(have, asked, monkeypatch):
    have(*GPU)
    recommended = {"cuda": {"enable_cuda_graph": "1", "gpu_mem_limit": "5"}, "tensorrt": {"trt_fp16_enable": "1"}}
    with pytest.raises(AttributeError):  # of what stands in for a session
        Session("model.onnx", device="cuda", provider_options={"gpu_mem_limit": 7}, recommended=recommended)
    ((_, options), _) = asked[0]
    assert options["enable_cuda_graph"] == "1"
    assert options["gpu_mem_limit"] == "7"
    assert "trt_fp16_enable" not in options


def test_what_tensorrt_builds_is_kept_for_one_gpu_driver_version_and_graph(monkeypatch, tmp_path, negation):
    monkeypatch.setenv("WHERRY_CACHE", str(tmp_path / "cache"))
    state = {"card": "NVIDIA H200", "driver": "580.1", "tensorrt": "10.16.1"}
    monkeypatch.setattr(nvidia, "driver_cuda", lambda: (13, 0))
    monkeypatch.setattr(nvidia, "cards", lambda: [nvidia.Card(state["card"], 1, 1)])
    monkeypatch.setattr(nvidia, "driver_version", lambda: state["driver"])
    monkeypatch.setattr(nvidia, "_found", lambda _: [("tensorrt-cu13", state["tensorrt"])])

    def folder():
        with pytest.warns(UserWarning, match="TensorRT builds an engine for .*model.onnx, which may take minutes"):
            return nvidia.engine_cache(0, negation)["trt_engine_cache_path"]

    first = folder()
    assert folder() == first
    assert Path(first).is_relative_to(tmp_path / "cache" / "tensorrt")
    changed = [state.update(**{name: "another"}) or folder() for name in list(state)]
    negation.with_name("model.onnx_data").write_bytes(b"weights")
    changed.append(folder())
    assert len({first, *changed}) == 5
    (Path(changed[-1]) / "it.engine").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nvidia.engine_cache(0, negation)["trt_engine_cache_path"] == changed[-1]


class Moves:
    """CUDA's copies, within the CPU's memory."""

    def move(self, target, target_pitch, source, source_pitch, width, height):
        for at in range(height):
            ctypes.memmove(int(target) + at * target_pitch, int(source) + at * source_pitch, width)

    def clear(self, target, size):
        ctypes.memset(target, 0, size)

    def wait(self):
        pass


def test_buffers_on_a_gpu_hold_what_those_of_numpy_hold():
    ports = [
        Port("past.key", np.dtype(np.float32), ("batch", 2, "past", 8)),
        Port("past.value", np.dtype(np.float16), ("batch", 3, "past", 4)),
    ]
    session = SimpleNamespace(memory="cpu", index=0)
    plain, there = SharedCache(session, ports, 3, 10), DeviceCache(session, ports, 3, 10, Moves())
    random = np.random.default_rng(0)

    def parts(length):
        return [random.standard_normal((port.shape[1], length, port.shape[3])).astype(port.dtype) for port in ports]

    def same():
        assert np.array_equal(plain.lengths, there.lengths)
        assert (plain.rows, plain.capacity) == (there.rows, there.capacity)
        for row, length in enumerate(plain.lengths.tolist()):
            for one, other in zip(plain.read(row, length), there.read(row, length), strict=True):
                assert np.array_equal(one, other)

    for row, length in enumerate((10, 4, 7)):
        given = parts(length)
        plain.write(row, given)
        there.write(row, given)
    same()
    for order, since in (([2, 0, 1], 0), ([0, 0, 2], 0), ([1, 2], 0), ([1, 0, 0], 3)):
        plain.reorder(np.array(order), since)
        there.reorder(np.array(order), since)
        same()
    for rows, capacity in ((5, 12), (2, 20)):
        plain.resize(rows, capacity)
        there.resize(rows, capacity)
        same()


def test_a_bundle_tells_what_it_recommends(linked, replace):
    folder = linked("minilm")
    manifest = json.loads((folder / "wherry.json").read_text())
    manifest["variants"]["fp32"]["provider_options"] = {"model": {"cuda": {"enable_cuda_graph": 1}}}
    replace(folder / "wherry.json", json.dumps(manifest).encode())
    assert Bundle.load(folder).variant("fp32").provider_options == {"model": {"cuda": {"enable_cuda_graph": "1"}}}
    assert Bundle.load(folder).variant("int8").provider_options == {}


def test_cuda_refusing_a_copy_is_told():
    runtime = SimpleNamespace(cudaMemset=lambda *_: 2)
    with pytest.raises(SessionError, match="CUDA failed to copy within GPU 1: cudaMemset gave error 2"):
        nvidia.Copies(runtime, 1).clear(0, 8)


@pytest.mark.parametrize("kept", [False, True])
def test_building_an_engine_is_told_on_a_terminal(kept, monkeypatch, capsys, tmp_path):
    (tmp_path / "old.engine").write_bytes(b"") if kept else None
    monkeypatch.setattr(nvidia, "TICK", 0.01)
    for terminal in (False, True):
        monkeypatch.setattr(nvidia.sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with nvidia.building({"trt_engine_cache_path": str(tmp_path)}):
            time.sleep(0.1)
        said = capsys.readouterr().err
        assert said.startswith("\rTensorRT builds an engine: 0 s") == (terminal and not kept)
        assert said.endswith("\r\x1b[K") == (terminal and not kept)
