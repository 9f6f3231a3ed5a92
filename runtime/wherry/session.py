"""An onnxruntime session on the device asked for, with the threads this process may use. Arrays in, arrays out.

Knows nothing of tasks or text. A device that is asked for and not there is an error, never a silent CPU run.
"""

import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from wherry.devices import KINDS, Device, ProviderOptions, create, full_memory, one_line, resolve
from wherry.devices import onnxruntime as onnxruntime
from wherry.errors import DeviceError, SessionError
from wherry.replay import Replays

Array = np.ndarray[Any, Any]

BFLOAT16 = np.dtype("V2")
"""Elements that numpy knows no type for: they are moved and not reckoned with."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": BFLOAT16,
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
}


SHAPES = {"Shape", "Size", "Squeeze", "Unsqueeze", "Cast", "Gather", "Concat", "Slice", "Range", "Constant"}
SHAPES |= {"Add", "Sub", "Mul", "Div"}
"""Operators that reckon with shapes, which onnxruntime leaves to the CPU on purpose."""

UNCAPTURED = -1
"""The number by which onnxruntime leaves a run out of CUDA graphs."""


@dataclass(frozen=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: as the graph has it.
        dtype: numpy type of the tensor, or `BFLOAT16`.
        shape: sizes, or names of axes that vary.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    @property
    def element(self) -> Any:
        """The type of an element as onnxruntime takes it: numpy's, or ONNX's number of it."""
        return 16 if self.dtype == BFLOAT16 else self.dtype

    @property
    def kind(self) -> str:
        """The type's name."""
        return "bfloat16" if self.dtype == BFLOAT16 else str(self.dtype)


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


class Session:
    """A loaded graph.

    Attributes:
        inputs: ports to feed, by name.
        outputs: ports that come back, by name.
        device: where the graph runs, without a number: a key of `wherry.devices.KINDS`.
        memory: where its inputs and outputs are kept: `cpu` or `cuda`.
        index: which of several devices of that kind.
        on_gpu: whether that is not the memory of the CPU.
        graphs: whether runs may be captured as CUDA graphs: the provider option `enable_cuda_graph`.
        operators: the kinds of node of the graph as onnxruntime runs it, those inside of If and Loop left out.
        raw: the onnxruntime.InferenceSession, for io binding.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        provider_options: ProviderOptions | None = None,
        recommended: Mapping[str, ProviderOptions] | None = None,
        allow_fallback: bool = False,
    ) -> None:
        """Load a graph.

        Args:
            path: the ONNX file; external data is found beside it.
            device: see `wherry.devices.resolve`.
            threads: intra-op threads; by default all that this process may use.
            provider_options: for onnxruntime's execution provider, such as `gpu_mem_limit` in bytes.
            recommended: such options by kind of device, for whichever it comes to be.
            allow_fallback: run on the CPU, with a warning, where the device cannot.

        Raises:
            DeviceError: the device is not there or cannot take the graph.
            SessionError: the file cannot be read as a graph, or less than one thread.
        """
        if threads is not None and threads < 1:
            raise SessionError(f"threads must be at least 1, not {threads}")
        try:
            chosen = resolve(device)
            given = {**(recommended or {}).get(chosen.kind, {}), **(provider_options or {})}
            self._load(Path(path), chosen, threads or thread_count(), given)
        except DeviceError as error:
            if not allow_fallback:
                raise
            warnings.warn(f"runs on the CPU instead: {error}", stacklevel=2)
            self._load(Path(path), Device("cpu"), threads or thread_count(), {})

    def _load(self, path: Path, device: Device, threads: int, given: ProviderOptions) -> None:
        options = onnxruntime().SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 4  # what fails is raised, and need not be printed as well
        try:
            self.raw = create(str(path), device, options, given)
        except DeviceError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            if "NOT_IMPLEMENTED" in str(error) and path.stem.endswith("_bf16"):
                raise DeviceError(
                    f"device '{device}' does not have the operators of {path} in bfloat16: run it on an NVIDIA GPU "
                    f"with onnxruntime-gpu, or run another variant; onnxruntime says: {one_line(error)}"
                ) from error
            full = full_memory(error, device, given)
            raise SessionError(full or f"onnxruntime cannot load {path}: {one_line(error)}") from error
        self.place, self.given = device, given
        self.device, self.memory, self.index = device.kind, device.memory, device.index
        self.on_gpu = device.memory != "cpu"
        assigned = self.raw.get_provider_graph_assignment_info()
        self._nodes = [(part.ep_name, node.op_type) for part in assigned for node in part.get_nodes()]
        if device.kind != "cpu" and self._nodes:
            self._look_at_placement(path)
        self.graphs = device.kind == "cuda" and str(given.get("enable_cuda_graph", 0)) not in ("0", "False")
        self._numbers = count(1)
        self._replays = Replays(self) if self.graphs else None
        self._uncaptured = self._options(None) if self.graphs else None  # looking for what is not there takes its time
        infos = zip(self.raw.get_inputs(), self.raw.get_input_memory_infos(), strict=True)
        self._resident = {port.name for port, info in infos if info.name.lower().startswith(device.memory)}
        self.operators = frozenset(operator for _, operator in self._nodes)
        self.inputs = {port.name: port for port in map(_port, self.raw.get_inputs())}
        self.outputs = {port.name: port for port in map(_port, self.raw.get_outputs())}

    def placement(self) -> dict[str, int]:
        """How many nodes of the graph each of onnxruntime's execution providers runs, the most first."""
        return dict(Counter(provider for provider, _ in self._nodes).most_common())

    def native(self, operator: str) -> bool:
        """Whether onnxruntime's own kernels, on the CPU or of CUDA, run all nodes of that kind in `memory`."""
        return {provider for provider, name in self._nodes if name == operator} <= {KINDS[self.memory].provider}

    def _look_at_placement(self, path: Path) -> None:
        """Say so where the device leaves the graph, or much of it, to the CPU."""
        if self.place.provider not in self.placement():
            raise DeviceError(
                f"device '{self.place}' takes no node of {path}: {self.place.provider} has none of its operators; "
                "run another variant, or on device='cpu'"
            )
        left = [name for provider, name in self._nodes if provider == KINDS["cpu"].provider and name not in SHAPES]
        if left:
            names = ", ".join(f"{name} ({count})" for name, count in Counter(left).most_common(4))
            warnings.warn(
                f"{len(left)} of {len(self._nodes)} nodes of {path} run on the CPU, as {self.place} does not have them "
                f"in this precision: {names}",
                stacklevel=4,
            )

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
            raise SessionError(f"an input is not of the type that the graph takes: {one_line(error)}") from error
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise SessionError(f"the graph needs input {', '.join(missing)}, which was not given")
        if self._replays is not None:
            return self._replays.run(given, names, lambda: self._run(given, names))
        return self._run(given, names)

    def _run(self, given: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        try:
            values = self.raw.run(names, given, self._uncaptured)
        except Exception as error:  # as above
            raise self._failed(error) from error
        return dict(zip(names, values, strict=True))

    def run_bound(self, binding: Any, *, partly: bool = False, graph: int | None = None) -> None:
        """Run with inputs and outputs bound beforehand (`raw.io_binding()`).

        Args:
            partly: whether to leave out what the bound outputs do not need.
            graph: of `new_graph`, for runs that always have the same things bound.

        Raises:
            SessionError: onnxruntime refused what is bound.
        """
        options = self._uncaptured
        if partly or graph is not None:
            options = self._options(graph)
            options.only_execute_path_to_fetches = partly
        try:
            self.raw.run_with_iobinding(binding, options)
        except Exception as error:  # as above
            raise self._failed(error) from error

    def _options(self, graph: int | None) -> Any:
        options = onnxruntime().RunOptions()
        if self.graphs:
            options.add_run_config_entry("gpu_graph_id", str(UNCAPTURED if graph is None else graph))
        return options

    def new_graph(self) -> int | None:
        """A number for runs that are captured as one CUDA graph; None where that is not wanted."""
        return next(self._numbers) if self.graphs else None

    def value(self, array: Array, name: str | None = None) -> Any:
        """An array as an OrtValue: in the session's memory, or where the graph reads the input of that name."""
        host = name is not None and name not in self._resident
        memory, index = ("cpu", 0) if host else (self.memory, self.index)
        return onnxruntime().OrtValue.ortvalue_from_numpy(array, memory, index)

    def _failed(self, error: Exception) -> SessionError:
        return SessionError(full_memory(error, self.place, self.given) or f"onnxruntime failed: {one_line(error)}")


def _port(argument: Any) -> Port:
    shape = tuple(dim if isinstance(dim, int | str) else "?" for dim in argument.shape)
    if argument.type not in DTYPES:
        raise SessionError(f"the graph's {argument.name} is a {argument.type}, which wherry does not handle")
    return Port(argument.name, DTYPES[argument.type], shape)
