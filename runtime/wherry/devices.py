"""Names of devices, the execution providers behind them, and why one that is asked for is not there.

A device that is asked for and not there is an error that says what is missing and what to do; `auto` alone may choose.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from wherry import nvidia
from wherry.errors import DeviceError, InputError
from wherry.tiny import NEGATE

ProviderOptions = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Kind:
    """One row: an execution provider and how to get it.

    Attributes:
        provider: onnxruntime's name of it.
        install: what to do where it is not there.
        plugin: the module of the wheel that holds it, where that is a wheel beside onnxruntime's.
        then: kinds that take what it does not, before the CPU does.
        memory: onnxruntime's name of the memory in which it keeps inputs and outputs.
        numbered: whether there may be several of it.
    """

    provider: str
    install: str
    plugin: str | None = None
    then: tuple[str, ...] = ()
    memory: str = "cpu"
    numbered: bool = True


_GPU = "for an NVIDIA GPU `pip uninstall -y onnxruntime` and `pip install 'wherry[gpu]'`"

KINDS = {
    "cpu": Kind("CPUExecutionProvider", "`pip install 'wherry[cpu]'`", numbered=False),
    "cuda": Kind("CUDAExecutionProvider", _GPU, memory="cuda"),
    "tensorrt": Kind("TensorrtExecutionProvider", _GPU, then=("cuda",), memory="cuda"),
    "openvino": Kind(
        "OpenVINOExecutionProvider", "`pip install onnxruntime-ep-openvino`", plugin="onnxruntime_ep_openvino"
    ),
    "tensorrt-rtx": Kind(
        "NvTensorRTRTXExecutionProvider",
        "`pip install onnxruntime-ep-nv-tensorrt-rtx`",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
    "webgpu": Kind("WebGpuExecutionProvider", "`pip install onnxruntime-ep-webgpu`", plugin="onnxruntime_ep_webgpu"),
    "coreml": Kind("CoreMLExecutionProvider", "onnxruntime's wheel for macOS has it", numbered=False),
    "directml": Kind("DmlExecutionProvider", "on Windows: `pip install onnxruntime-directml`"),
    "qnn": Kind("QNNExecutionProvider", "for Qualcomm's NPUs: `pip install onnxruntime-qnn`", numbered=False),
}
"""What may be asked for by name."""

NAMES = "auto, " + ", ".join(name + "[:N]" * kind.numbered for name, kind in KINDS.items())


@dataclass(frozen=True)
class Device:
    """One device: a key of `KINDS`, and which of several."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.index else self.kind

    @property
    def provider(self) -> str:
        """The execution provider's name."""
        return KINDS[self.kind].provider

    @property
    def memory(self) -> str:
        """onnxruntime's name of the memory in which inputs and outputs are kept."""
        return KINDS[self.kind].memory


def parse(name: str) -> Device:
    """A device by its name, such as `cuda:1`.

    Raises:
        DeviceError: there is none of that name.
    """
    kind, colon, index = name.partition(":")
    if kind not in KINDS or (colon and not (KINDS[kind].numbered and index.isascii() and index.isdecimal())):
        raise DeviceError(f"unknown device '{name}': choose {NAMES}")
    return Device(kind, int(index or 0))


@cache
def onnxruntime() -> Any:
    """The onnxruntime module, or a clear word on which wheel to install.

    Raises:
        DeviceError: no onnxruntime wheel is installed, or two that break each other.
    """
    wheels = onnxruntime_wheels()
    if len(wheels) > 1:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            "`pip uninstall -y onnxruntime onnxruntime-gpu`, then install 'wherry[cpu]' or 'wherry[gpu]'"
        )
    try:
        import onnxruntime as module
    except ImportError as error:
        if wheels:
            raise DeviceError(f"{wheels[0]} is installed but does not load: {one_line(error)}") from error
        raise DeviceError("onnxruntime is not installed: `pip install 'wherry[cpu]'` or 'wherry[gpu]'") from error
    return module


def onnxruntime_wheels() -> list[str]:
    """Which of the wheels that hold the onnxruntime module are installed."""
    names = {dist.name for dist in distributions() if (dist.name or "").startswith("onnxruntime")}
    return sorted(names & {"onnxruntime", "onnxruntime-gpu"})


def resolve(name: str) -> Device:
    """The device of a name, once onnxruntime is known to have its execution provider.

    Args:
        name: `auto` is CUDA where the installed onnxruntime has it and it works, else the CPU; other names are those
            of `KINDS`, with a number behind a colon where there may be several.

    Raises:
        DeviceError: an unknown name, or onnxruntime has not got it.
    """
    ort = onnxruntime()
    if name == "auto":
        return _best()
    device = parse(name)
    kind = KINDS[device.kind]
    if _plugged(kind):
        _plugin_devices(device)
        return device
    if kind.provider not in ort.get_available_providers():
        raise DeviceError(
            f"device '{name}' is not there: this onnxruntime has {', '.join(ort.get_available_providers())} only; "
            + kind.install
        )
    return device


def _best() -> Device:
    if KINDS["cuda"].provider not in onnxruntime().get_available_providers():
        return Device("cpu")
    fault = trial(Device("cuda"))
    if fault is None:
        return Device("cuda")
    warnings.warn(f"runs on the CPU, though onnxruntime-gpu is installed: {fault}", stacklevel=4)
    return Device("cpu")


@cache
def trial(device: Device) -> str | None:
    """Run a graph of one node on a device; gives why that fails, if it does."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = create(NEGATE, device, options)
        session.run(None, {"x": [1.0]})
    except DeviceError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class of their own
        return one_line(error)
    return None


def create(graph: str | bytes, device: Device, options: Any, given: ProviderOptions | None = None) -> Any:
    """An onnxruntime.InferenceSession on a device.

    Args:
        graph: path or content of the graph.
        options: onnxruntime.SessionOptions.
        given: options of the execution provider.

    Raises:
        DeviceError: the execution provider does not load; whatever onnxruntime raises comes as it is.
    """
    ort = onnxruntime()
    kind = KINDS[device.kind]
    own = {name: _text(value) for name, value in (given or {}).items()}
    if _plugged(kind):
        chosen = _plugin_devices(device)[device.index]
        options.add_provider_for_devices([chosen], {**_exact(device, chosen.ep_metadata), **own})
        providers = None
    else:
        if kind.memory == "cuda":
            nvidia.preload(ort)
            own = {"device_id": str(device.index), **_defaults(device, graph), **own}
        rest = [(KINDS[name].provider, {"device_id": str(device.index)}) for name in kind.then]
        cpu: list[tuple[str, dict[str, str]]] = [] if device.kind == "cpu" else [(KINDS["cpu"].provider, {})]
        providers = [(kind.provider, own), *rest, *cpu]
    building = nvidia.building(own) if device.kind == "tensorrt" else nullcontext()
    with _silent(ort), building:
        try:
            session = ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
        except Exception as error:
            if kind.memory == "cuda" and re.search("TensorRT|CUDA|graph capture", str(error)):
                _explain(device, given or {}, error)
            raise
    if kind.provider not in session.get_providers():
        raise DeviceError(f"device '{device}' does not work: {_why_not(device)}")
    return session


def _defaults(device: Device, graph: str | bytes) -> dict[str, str]:
    """Options of an execution provider for NVIDIA's GPUs where none are given."""
    if device.kind == "cuda":
        return {"use_tf32": "0"}  # float32 is float32, as in torch
    return nvidia.engine_cache(device.index, Path(graph)) if isinstance(graph, str) else {}


def _exact(device: Device, metadata: Mapping[str, str]) -> dict[str, str]:
    """Options under which a plugin's execution provider computes float32 in float32.

    OpenVINO else takes bfloat16 or float16 where the processor has them
    (https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html).
    """
    if device.kind != "openvino":
        return {}
    return {"load_config": json.dumps({metadata["ov_device"]: {"EXECUTION_MODE_HINT": "ACCURACY"}})}


def _explain(device: Device, given: ProviderOptions, error: Exception) -> None:
    """Raise what onnxruntime says of a GPU in clear words, where they are known."""
    fault = nvidia.fault(onnxruntime(), device.kind)
    if fault is not None:
        raise DeviceError(f"device '{device}' does not work: {fault}") from error
    if "provider_options_utils" in str(error) and "device_id" not in str(error):
        named = ", ".join(f"{name}={value}" for name, value in given.items())
        raise DeviceError(f"device '{device}' does not take the options {named}: {one_line(error)}") from error
    if "associated profiles" in str(error):
        raise DeviceError(
            f"device '{device}' takes the graph in parts, for which the bundle's shapes do not tell enough: set the "
            "provider options trt_profile_min_shapes, trt_profile_opt_shapes and trt_profile_max_shapes, to nothing to "
            "learn them as they come"
        ) from error
    if "graph capture feature" in str(error):
        raise DeviceError(
            f"device '{device}' does not have all operators of the graph in this precision, which enable_cuda_graph "
            "needs: leave that out, or run the variant fp16"
        ) from error
    if re.search("invalid device (id|ordinal)|device_id", str(error), re.IGNORECASE):
        names = ", ".join(f"GPU {at} ({card.name})" for at, card in enumerate(nvidia.cards()))
        raise DeviceError(
            f"device '{device}' is not there: the driver has {names or 'fewer GPUs'}, "
            "of which CUDA_VISIBLE_DEVICES may hide some"
        ) from error


@contextmanager
def _silent(ort: Any) -> Iterator[None]:
    """Without onnxruntime's own log, which says in many lines what is raised in one."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)  # onnxruntime's default


def _why_not(device: Device) -> str:
    if KINDS[device.kind].memory == "cuda":
        return nvidia.fault(onnxruntime(), device.kind) or (
            "the driver shows no GPU to this process: see nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    return f"{device.provider} could not be loaded; {KINDS[device.kind].install}"


def _plugged(kind: Kind) -> bool:
    """Whether a plugin brings the execution provider; onnxruntime lists that too once it is registered."""
    has = kind.provider in onnxruntime().get_available_providers()
    return kind.plugin is not None and (not has or kind.provider in _REGISTERED)


def _plugin_devices(device: Device) -> list[Any]:
    """The devices of a plugin's execution provider, which is registered on first use."""
    kind = KINDS[device.kind]
    assert kind.plugin is not None
    _register(kind.plugin, kind.provider, kind.install)
    found = [each for each in onnxruntime().get_ep_devices() if each.ep_name == kind.provider]
    if device.index >= len(found):
        raise DeviceError(
            f"device '{device}' is not there: {kind.provider} finds {len(found)} "
            f"{'device' if len(found) == 1 else 'devices'} on this machine"
        )
    return found


_REGISTERED: set[str] = set()


def _register(module: str, provider: str, install: str) -> None:
    if provider in _REGISTERED:
        return
    try:
        path = import_module(module).get_library_path()
    except ModuleNotFoundError as error:
        raise DeviceError(f"{provider} is not installed: {install}") from error
    try:
        onnxruntime().register_execution_provider_library(provider, str(path))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise DeviceError(
            f"{provider} is installed but does not load into onnxruntime {onnxruntime().__version__}: "
            f"{one_line(error)}; `pip install -U {module.replace('_', '-')} onnxruntime`"
        ) from error
    _REGISTERED.add(provider)


def full_memory(error: Exception, device: Device, given: ProviderOptions) -> str | None:
    """What to do where onnxruntime failed because a GPU's memory is full; None where it failed for another reason."""
    told = str(error)
    if device.memory == "cpu" or not re.search("out of memory|Failed to allocate memory|Available memory of", told):
        return None
    if "Available memory of" in told:
        limit = int(given.get("gpu_mem_limit", 0)) / 1e6
        return (
            f"the limit of {limit:.0f} MB of the memory of {device} is reached: use a smaller batch or a smaller "
            "precision, or raise the provider option gpu_mem_limit"
        )
    cards = nvidia.cards()
    free = ""
    if device.index < len(cards):
        card = cards[device.index]
        free = f" ({card.free / 1e9:.1f} of {card.total / 1e9:.1f} GB of the {card.name} are free)"
    return (
        f"the memory of {device} is full{free}: use a smaller batch or a smaller precision, or close other models; "
        f"onnxruntime says: {one_line(error)}"
    )


def _text(value: str | int | float | bool) -> str:
    """An option as onnxruntime takes it: True is 1."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def parse_options(pairs: list[str]) -> dict[str, str]:
    """Options of an execution provider given as `name=value`.

    Raises:
        InputError: one that has another form.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise InputError(f"provider option '{pair}' is not of the form name=value")
        options[name] = value
    return options


def installed(package: str) -> str | None:
    """The version of a package, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def one_line(error: BaseException) -> str:
    """What an error says, in one line: its beginning and its end where it is longer than 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-155:]}"
