"""Sessions: the threads and devices they choose, and every refusal as one line."""

import math
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wherry import devices as module
from wherry.errors import DeviceError, SessionError
from wherry.replay import KEPT, LARGEST, Replays
from wherry.session import Session, onnxruntime, thread_count
from wherry.tiny import FLOAT, graph

V1_QUOTA = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"
V2 = "/sys/fs/cgroup/cpu.max"


def one_line(error):
    text = str(error.value)
    assert text.strip()
    assert "\n" not in text
    return text


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores and these cgroup files."""

    def set_up(cores, files):
        def read_text(path, *_, **__):
            if str(path) not in files:
                raise FileNotFoundError(path)
            return files[str(path)]

        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(Path, "read_text", read_text)

    return set_up


@pytest.mark.parametrize(
    ("cores", "files", "threads"),
    [
        (8, {}, 8),
        (8, {V2: "max 100000\n"}, 8),
        (8, {V2: "200000 100000\n"}, 2),
        (8, {V2: "250000 100000\n"}, math.ceil(2.5)),
        (8, {V2: "10000 100000\n"}, 1),
        (2, {V2: "1600000 100000\n"}, 2),
        (8, {V2: "150000 50000\n"}, 3),
        (8, {V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, 8),
        (8, {V1_QUOTA: "400000\n", V1_PERIOD: "100000\n"}, 4),
        (8, {V1_QUOTA: "50000\n", V1_PERIOD: "100000\n"}, 1),
        (8, {V1_QUOTA: "400000\n"}, 8),
        (1, {V2: "max 100000\n"}, 1),
    ],
)
def test_threads_are_the_cores_cut_to_the_quota(machine, cores, files, threads):
    machine(cores, files)
    assert thread_count() == threads


def test_without_affinity_masks_all_cores_count(monkeypatch, machine):
    machine(8, {})
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert thread_count() == 5


@pytest.fixture
def wheels(monkeypatch):
    """The wheels that are installed; the module itself is one that cannot be imported."""

    def install(*names):
        monkeypatch.setattr(module, "distributions", lambda: [SimpleNamespace(name=name) for name in names])
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        onnxruntime.cache_clear()

    yield install
    onnxruntime.cache_clear()


def test_no_wheel_is_told_with_what_to_install(wheels):
    wheels("numpy", "onnxruntime-extensions", None)
    with pytest.raises(DeviceError) as caught:
        onnxruntime()
    assert "pip install 'wherry[cpu]'" in one_line(caught)


@pytest.mark.parametrize("names", [("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-gpu", "numpy", "onnxruntime")])
def test_two_wheels_are_told_with_what_to_remove(wheels, names):
    wheels(*names)
    with pytest.raises(DeviceError) as caught:
        onnxruntime()
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in one_line(caught)


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_a_wheel_that_does_not_load_is_named(wheels, name):
    wheels(name)
    with pytest.raises(DeviceError) as caught:
        onnxruntime()
    assert one_line(caught).startswith(f"{name} is installed but does not load: ")


@pytest.fixture(scope="module")
def minilm(bundle):
    return Session(bundle("minilm").folder / "onnx" / "model.onnx", device="cpu", threads=1)


def row(**changed):
    ids = np.array([[101, 7592, 102]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: array for name, array in {**feeds, **changed}.items() if array is not None}


def test_ports_are_those_of_the_graph(minilm, bundle):
    import onnx

    graph = onnx.load(bundle("minilm").folder / "onnx" / "model.onnx", load_external_data=False).graph
    for ports, values in ((minilm.inputs, graph.input), (minilm.outputs, graph.output)):
        assert list(ports) == [value.name for value in values]
        for port, value in zip(ports.values(), values, strict=True):
            kind = value.type.tensor_type
            assert port.dtype == onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            assert port.shape == tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    assert minilm.device == "cpu"


def test_inputs_take_the_type_of_the_graph_and_unknown_ones_are_left_out(minilm):
    expected = minilm.run(row())["last_hidden_state"]
    narrow = {name: array.astype(np.int32) for name, array in row().items()}
    assert np.array_equal(minilm.run({**narrow, "position_ids": np.zeros(1)})["last_hidden_state"], expected)


def test_only_the_outputs_asked_for_come_back(minilm):
    assert list(minilm.run(row(), ["last_hidden_state"])) == ["last_hidden_state"]


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        (row(attention_mask=None), "the graph needs input attention_mask, which was not given"),
        ({}, "the graph needs input input_ids, attention_mask, token_type_ids, which was not given"),
        (row(input_ids=np.array([101, 102])), "input_ids Got: 1 Expected: 2"),
        (row(attention_mask=np.ones((1, 5), np.int64)), "onnxruntime failed"),
        (row(input_ids=np.array([[101, 10**6, 102]])), "out of data bounds"),
        (row(input_ids=np.array([["a", "b", "c"]])), "not of the type"),
        (row(input_ids=np.array([[None, 1, 2]])), "not of the type"),
    ],
    ids=["missing", "all-missing", "rank", "shape", "unknown-token", "text", "object"],
)
def test_input_that_the_graph_does_not_take_is_refused_and_nothing_printed(minilm, capfd, feeds, reason):
    with pytest.raises(SessionError) as caught:
        minilm.run(feeds)
    assert reason in one_line(caught)
    assert capfd.readouterr() == ("", "")


def test_an_output_that_the_graph_lacks_is_refused(minilm):
    with pytest.raises(SessionError) as caught:
        minilm.run(row(), ["logits"])
    assert "logits" in one_line(caught)


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(bundle, threads):
    with pytest.raises(SessionError, match=f"threads must be at least 1, not {threads}"):
        Session(bundle("minilm").folder / "onnx" / "model.onnx", threads=threads)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a graph\n" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.with_name("model_int8.onnx_data").unlink(),
        lambda path: os.truncate(path.with_name("model_int8.onnx_data"), 5000),
    ],
    ids=["missing", "empty", "text", "truncated", "weights-missing", "weights-truncated"],
)
def test_a_corrupt_graph_is_named_and_nothing_printed(bundle, tmp_path, capfd, damage):
    for name in ("model_int8.onnx", "model_int8.onnx_data"):
        shutil.copy(bundle("minilm").folder / "onnx" / name, tmp_path)
    path = tmp_path / "model_int8.onnx"
    damage(path)
    with pytest.raises(SessionError) as caught:
        Session(path, device="cpu")
    assert one_line(caught).startswith(f"onnxruntime cannot load {path}: ")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def capturing(tmp_path):
    """A session as one for a GPU with CUDA graphs, whose runs are no others on a CPU."""
    path = tmp_path / "model.onnx"
    path.write_bytes(graph("Neg", {"x": (FLOAT, 1)}, {"y": (FLOAT, 1)}))
    session = Session(path, device="cpu")
    session.graphs = True
    session._replays = Replays(session)
    return session


def test_captured_runs_give_what_others_give(capturing):
    random = np.random.default_rng(0)
    results = []
    for size in (3, 3, 5, 3, 3, 0, 5, 0, 5, 3):
        x = random.standard_normal(size).astype(np.float32)
        results.append((x, capturing.run({"x": x})["y"].copy()))  # where a GPU's memory is copied from anyway
    for x, y in results:
        assert np.array_equal(y, -x)
    assert {key[0][1]: captured is not None for key, captured in capturing._replays.known.items()} == {
        (3,): True,
        (5,): True,
        (0,): True,
    }
    strided = np.arange(6, dtype=np.float32)[::2]
    assert np.array_equal(capturing.run({"x": strided})["y"], -strided)


def test_what_gives_much_is_not_captured(capturing):
    x = np.ones(LARGEST // 4 + 1, np.float32)
    for _ in range(3):
        assert np.array_equal(capturing.run({"x": x})["y"], -x)
    assert not capturing._replays.known


def test_only_so_many_shapes_are_captured(capturing):
    for size in (*range(KEPT + 3), *range(KEPT + 3)):
        assert capturing.run({"x": np.ones(size)})["y"].shape == (size,)
    assert len(capturing._replays.known) == KEPT
