"""An onnxruntime session on the device asked for, with the threads this process may use. Arrays in, arrays out.

Knows nothing of tasks or text. A device that is asked for and not there is an error, never a silent CPU run.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

from wherry.errors import DeviceError, SessionError

Array = np.ndarray[Any, Any]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
}


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: as the graph has it.
        dtype: numpy type of the tensor.
        shape: sizes, or names of axes that vary.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


def thread_count() -> int:
    """How many cores this process may use: its affinity mask cut to the container's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            quota, *rest = Path(quota_file).read_text().split()
            period = Path(period_file).read_text().strip() if period_file else rest[0]
        except OSError:
            continue
        if quota not in ("max", "-1"):
            return max(1, min(cores, math.ceil(int(quota) / int(period))))
    return cores


@cache
def onnxruntime() -> Any:
    """The onnxruntime module, or a clear word on which wheel to install.

    Raises:
        DeviceError: no onnxruntime wheel is installed, or two that break each other.
    """
    names = {dist.name for dist in distributions() if (dist.name or "").startswith("onnxruntime")}
    wheels = sorted(names & {"onnxruntime", "onnxruntime-gpu"})
    if len(wheels) > 1:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            "`pip uninstall -y onnxruntime onnxruntime-gpu`, then install 'wherry[cpu]' or 'wherry[gpu]'"
        )
    try:
        import onnxruntime as module
    except ImportError as error:
        if wheels:
            raise DeviceError(f"{wheels[0]} is installed but does not load: {_one_line(error)}") from error
        raise DeviceError("onnxruntime is not installed: `pip install 'wherry[cpu]'` or 'wherry[gpu]'") from error
    return module


def pick_providers(device: str) -> list[tuple[str, dict[str, Any]]]:
    """The execution providers to ask for, with options.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt:1`; `auto` is CUDA where this
            onnxruntime has it, else the CPU.

    Raises:
        DeviceError: an unknown device, or one that this onnxruntime was built without.
    """
    available = onnxruntime().get_available_providers()
    if device == "auto":
        device = "cuda" if PROVIDERS["cuda"] in available else "cpu"
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not (index.isdecimal() and kind != "cpu")):
        raise DeviceError(f"unknown device '{device}': choose auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N")
    if PROVIDERS[kind] not in available:
        raise DeviceError(
            f"device '{device}' is not there: this onnxruntime has {', '.join(available)} only; "
            "for an NVIDIA GPU `pip uninstall -y onnxruntime` and `pip install 'wherry[gpu]'`"
        )
    if kind == "cpu":
        return [(PROVIDERS["cpu"], {})]
    options = {"device_id": int(index or 0)}
    chain = ["tensorrt", "cuda"] if kind == "tensorrt" else ["cuda"]
    return [*((PROVIDERS[each], options) for each in chain), (PROVIDERS["cpu"], {})]


class Session:
    """A loaded graph.

    Attributes:
        inputs: ports to feed, by name.
        outputs: ports that come back, by name.
        device: where the graph runs: `cpu`, `cuda` or `tensorrt`.
        operators: the kinds of node of the graph as onnxruntime runs it, those inside of If and Loop left out.
        raw: the onnxruntime.InferenceSession, for io binding.
    """

    def __init__(self, path: str | Path, *, device: str = "auto", threads: int | None = None) -> None:
        """Load a graph.

        Args:
            path: the ONNX file; external data is found beside it.
            device: see `pick_providers`.
            threads: intra-op threads; by default all that this process may use.

        Raises:
            DeviceError: the device is not there or cannot take the graph.
            SessionError: the file cannot be read as a graph, or less than one thread.
        """
        if threads is not None and threads < 1:
            raise SessionError(f"threads must be at least 1, not {threads}")
        ort = onnxruntime()
        providers = pick_providers(device)
        if providers[0][0] != PROVIDERS["cpu"]:
            ort.preload_dlls()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or thread_count()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 4  # what fails is raised, and need not be printed as well
        try:
            self.raw = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise SessionError(f"onnxruntime cannot load {path}: {_one_line(error)}") from error
        active = self.raw.get_providers()
        if providers[0][0] not in active:
            raise DeviceError(
                f"device '{device}' did not take {path}: {providers[0][0]} could not be loaded "
                "(CUDA and cuDNN libraries missing or of another version?); use device='cpu' to run on the CPU"
            )
        self.device = next(kind for kind, name in PROVIDERS.items() if name == active[0])
        assigned = self.raw.get_provider_graph_assignment_info()
        self.operators = frozenset(node.op_type for part in assigned for node in part.get_nodes())
        self.inputs = {port.name: port for port in map(_port, self.raw.get_inputs())}
        self.outputs = {port.name: port for port in map(_port, self.raw.get_outputs())}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feeds: input name to array; names that the graph does not have are left out.
            outputs: which outputs to compute; all by default.

        Returns:
            output name to array.

        Raises:
            SessionError: an input is missing, or of a type or shape that the graph does not take.
        """
        names = list(outputs or self.outputs)
        try:
            given = {
                name: np.asarray(array).astype(self.inputs[name].dtype, copy=False)
                for name, array in feeds.items()
                if name in self.inputs
            }
        except (TypeError, ValueError) as error:
            raise SessionError(f"an input is not of the type that the graph takes: {_one_line(error)}") from error
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise SessionError(f"the graph needs input {', '.join(missing)}, which was not given")
        try:
            values = self.raw.run(names, given)
        except Exception as error:  # as above
            raise SessionError(f"onnxruntime failed: {_one_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def run_bound(self, binding: Any, *, partly: bool = False) -> None:
        """Run with inputs and outputs bound beforehand (`raw.io_binding()`).

        Args:
            partly: whether to leave out what the bound outputs do not need.

        Raises:
            SessionError: onnxruntime refused what is bound.
        """
        options = None
        if partly:
            options = onnxruntime().RunOptions()
            options.only_execute_path_to_fetches = True
        try:
            self.raw.run_with_iobinding(binding, options)
        except Exception as error:  # as above
            raise SessionError(f"onnxruntime failed: {_one_line(error)}") from error

    def value(self, array: Array) -> Any:
        """An array as an OrtValue on the session's device."""
        kind = "cpu" if self.device == "cpu" else "cuda"
        return onnxruntime().OrtValue.ortvalue_from_numpy(array, kind, 0)


def _port(argument: Any) -> Port:
    shape = tuple(dim if isinstance(dim, int | str) else "?" for dim in argument.shape)
    if argument.type not in DTYPES:
        raise SessionError(f"the graph's {argument.name} is a {argument.type}, which wherry does not handle")
    return Port(argument.name, DTYPES[argument.type], shape)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:300]
