"""NVIDIA's libraries as onnxruntime needs them: loaded without torch, and named where they are missing.

Knows nothing of graphs. Every function takes a machine without a GPU or a driver.
"""

import ctypes
import hashlib
import io
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from threading import Event, Thread
from typing import Any

from wherry.errors import SessionError
from wherry.files import sha256
from wherry.hub import cache_folder

PACKAGES = {
    "libcudart": "nvidia-cuda-runtime",
    "libcublas": "nvidia-cublas",
    "libcublasLt": "nvidia-cublas",
    "libcurand": "nvidia-curand",
    "libcufft": "nvidia-cufft",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvJitLink": "nvidia-nvjitlink",
    "libcudnn": "nvidia-cudnn",
    "libnvinfer": "tensorrt",
    "libnvonnxparser": "tensorrt",
}
"""Library to package, without the CUDA version that some packages have behind their name."""

PROVIDERS = {"cuda": "libonnxruntime_providers_cuda.so", "tensorrt": "libonnxruntime_providers_tensorrt.so"}

TICK = 1.0
"""Seconds between words on what takes long."""


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
        name: as NVIDIA calls it.
        total, free: bytes of its memory.
    """

    name: str
    total: int
    free: int


@cache
def preload(ort: Any) -> None:
    """Load CUDA's, cuDNN's and TensorRT's libraries out of NVIDIA's wheels, where they are."""
    with redirect_stdout(io.StringIO()):  # what is missing it prints, and `fault` tells
        ort.preload_dlls()
    for path in _tensorrt_libraries(_major(ort)):
        with suppress(OSError):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def _tensorrt_libraries(cuda: str) -> list[Path]:
    try:
        files = distribution(f"tensorrt-cu{cuda}-libs").files or []
    except PackageNotFoundError:
        return []
    wanted = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")
    named = [file for name in wanted for file in files if file.name.startswith(name)]
    return [Path(str(file.locate())) for file in named]


def fault(ort: Any, kind: str) -> str | None:
    """Why the execution provider of CUDA or TensorRT cannot load, and what to do; None where nothing is missing.

    Args:
        kind: `cuda` or `tensorrt`.
    """
    cuda = f"CUDA {ort.cuda_version}"
    driver = driver_cuda()
    if driver is None:
        return (
            f"there is no NVIDIA driver (libcuda.so.1 is not found), and onnxruntime-gpu {ort.__version__} needs one "
            f"for {cuda}: install it from nvidia.com/drivers, and in a container pass the GPU (docker run --gpus all); "
            "device='cpu' runs on the CPU"
        )
    missing = _missing(Path(ort.__file__).parent / "capi" / PROVIDERS[kind])
    if missing is not None:
        return _fix(missing, ort)
    wanted = tuple(map(int, ort.cuda_version.split(".")[:2]))
    if driver < wanted:
        return (
            f"the NVIDIA driver is for CUDA {driver[0]}.{driver[1]}, and onnxruntime-gpu {ort.__version__} needs one "
            f"for {cuda}: update the driver from nvidia.com/drivers, or install an onnxruntime-gpu for that CUDA"
        )
    return None


def _missing(library: Path) -> str | None:
    """Why a library does not load, in the words of the system; None where it does."""
    with suppress(OSError):
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL)
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def _fix(missing: str, ort: Any) -> str:
    """A library that is missing, its version found and needed, and what to install."""
    named = re.search(r"(lib\w+)\.so\.(\d+)", missing)
    base = next((name for name in sorted(PACKAGES, key=len, reverse=True) if named and named[1] == name), None)
    if named is None or base is None:
        return f"{missing}; `pip install -U 'wherry[gpu]'`"
    library, needed, package, cuda = named[0], named[2], PACKAGES[base], _major(ort)
    here = [f"{name} {version}" for name, version in _found(package)]
    if package == "tensorrt":
        install = f"pip install 'tensorrt-cu{cuda}=={needed}.*'"
    else:
        install = "pip install -U 'wherry[gpu]'"
    return (
        f"{library} is not found, which onnxruntime-gpu {ort.__version__} for CUDA {ort.cuda_version} needs (found: "
        f"{', '.join(here) or f'no {package}'}): `{install}`"
    )


def engine_cache(index: int, graph: Path) -> dict[str, str]:
    """TensorRT's options to keep what it builds, in a folder for this GPU, driver, TensorRT and graph with its weights.

    Warns where there is nothing yet, as building then takes minutes.
    """
    if driver_cuda() is None:
        return {}
    found = cards()
    machine = [found[index].name if index < len(found) else "", driver_version() or "", *map(str, _found("tensorrt"))]
    weights = [sha256(path) for path in sorted(graph.parent.glob(graph.name + "*"))]
    kept = cache_folder() / "tensorrt" / hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]
    folder = kept / hashlib.sha256("\n".join(weights).encode()).hexdigest()[:16]
    if not any(folder.glob("*.engine")):
        warnings.warn(
            f"TensorRT builds an engine for {graph}, which may take minutes, and keeps it in {folder}", stacklevel=7
        )
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(kept),
    }


@contextmanager
def building(options: Mapping[str, str]) -> Iterator[None]:
    """Count seconds on standard error, where that is a terminal, while TensorRT builds engines that it has not kept.

    Args:
        options: of its execution provider.
    """
    kept = options.get("trt_engine_cache_path")
    if not sys.stderr.isatty() or (kept is not None and any(Path(kept).glob("*.engine"))):
        yield
        return
    started, done = time.monotonic(), Event()

    def tell() -> None:
        while not done.wait(TICK):
            sys.stderr.write(f"\rTensorRT builds an engine: {time.monotonic() - started:.0f} s")
            sys.stderr.flush()

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        sys.stderr.write("\r\033[K")


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the driver takes, (major, minor); None without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    return number.value // 1000, number.value % 1000 // 10


def driver_version() -> str | None:
    """The driver's own version, such as 580.159.04, where NVIDIA's management library tells it."""
    library = _management()
    return None if library is None else str(library.nvmlSystemGetDriverVersion())


def cards() -> list[Card]:
    """The GPUs of this machine, where NVIDIA's management library tells them."""
    library = _management()
    if library is None:
        return []
    found = []
    for index in range(library.nvmlDeviceGetCount()):
        handle = library.nvmlDeviceGetHandleByIndex(index)
        memory = library.nvmlDeviceGetMemoryInfo(handle)
        found.append(Card(str(library.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free)))
    return found


def found_packages() -> list[tuple[str, str]]:
    """NVIDIA's wheels that hold what onnxruntime loads, and their versions."""
    return [each for package in dict.fromkeys(PACKAGES.values()) for each in _found(package)]


def _found(package: str) -> list[tuple[str, str]]:
    names = (package, *(f"{package}-cu{cuda}" for cuda in (11, 12, 13)))
    return [(name, version) for name in names if (version := _version(name))]


@cache
def _management() -> Any:
    try:
        library = import_module("pynvml")  # of the package nvidia-ml-py
        library.nvmlInit()
    except ModuleNotFoundError:
        return None
    except library.NVMLError:
        return None
    return library


class Copies:
    """Copies within a GPU's memory, into it and out of it, by CUDA's own runtime library."""

    def __init__(self, runtime: Any, index: int) -> None:
        self.runtime, self.index = runtime, index

    @classmethod
    def on(cls, ort: Any, index: int) -> "Copies":
        """For the GPU of that number, once `preload` has loaded the library."""
        return cls(ctypes.CDLL(f"libcudart.so.{_major(ort)}"), index)

    def move(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, height: int) -> None:
        """Copy `height` pieces of `width` bytes, which begin `pitch` bytes after each other, between any two memories.

        Raises:
            SessionError: CUDA refused.
        """
        if not width or not height:
            return
        sizes = [ctypes.c_size_t(size) for size in (target_pitch, source_pitch, width, height)]
        ends = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call("cudaMemcpy2D", ends[0], sizes[0], ends[1], sizes[1], *sizes[2:], 4)  # 4: see from the addresses

    def clear(self, target: int, size: int) -> None:
        """Fill with zeros."""
        self._call("cudaMemset", ctypes.c_void_p(target), 0, ctypes.c_size_t(size))

    def wait(self) -> None:
        """Until all is copied."""
        self._call("cudaSetDevice", self.index)
        self._call("cudaDeviceSynchronize")

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.runtime, name)(*arguments)
        if status:
            raise SessionError(f"CUDA failed to copy within GPU {self.index}: {name} gave error {status}")


def _version(package: str) -> str | None:
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def _major(ort: Any) -> str:
    return str(ort.cuda_version).split(".", maxsplit=1)[0]
