"""`wherry doctor`: what this machine has to run models with, whether it works, and what to do where it does not."""

import argparse
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

from wherry import nvidia
from wherry.devices import KINDS, Device, installed, onnxruntime, onnxruntime_wheels, resolve, trial
from wherry.errors import DeviceError
from wherry.hub import cache_folder
from wherry.session import thread_count

PACKAGES = ("wherry", "numpy", "tokenizers", "huggingface_hub", "jinja2")
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "sve")
"""Of processors: those that onnxruntime's kernels ask for."""
ROOM = 1e9
"""Bytes of disk that the cache should have at least."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        about: what was looked at.
        found: what it is.
        fault: what is wrong and what to do; None where nothing is.
    """

    about: str
    found: str
    fault: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `wherry doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "exit code: 0 where nothing is wrong, 1 where something is\n\nexample:\n  wherry doctor"


def run(arguments: argparse.Namespace) -> int:
    """Print what is there, a line of advice for each fault."""
    found = [*_software(), *_processor(), *_nvidia(), *_devices(), *_cache()]
    faults = [each for each in found if each.fault]
    if arguments.json:
        print(json.dumps({"healthy": not faults, "findings": [asdict(each) for each in found]}, ensure_ascii=False))
    else:
        width = max(len(each.about) for each in found)
        for each in found:
            print(f"{'!' if each.fault else ' '} {each.about:<{width}}  {each.found}")
        print()
        for each in faults:
            print(f"{each.about}: {each.fault}")
        if not faults:
            print("nothing is wrong")
    return 1 if faults else 0


def _software() -> list[Finding]:
    found = [Finding("python", f"{platform.python_version()}, {platform.platform()}")]
    found += [Finding(name, installed(name) or "not installed") for name in PACKAGES]
    wheels = onnxruntime_wheels()
    fault = None
    try:
        onnxruntime()
    except DeviceError as error:
        fault = str(error)
    versions = ", ".join(f"{name} {installed(name)}" for name in wheels)
    found.append(Finding("onnxruntime", versions or "not installed", fault))
    plugins = sorted({dist.name for dist in distributions() if (dist.name or "").startswith("onnxruntime-ep-")})
    return found + [Finding("plugin", f"{name} {installed(name)}") for name in plugins]


def _processor() -> list[Finding]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    has = [feature for feature in FEATURES if feature in flags]
    name = facts.get("model name") or platform.processor() or platform.machine()
    cores, may = os.cpu_count() or 1, thread_count()
    limit = "" if may == cores else ", the rest is barred by affinity or the container's quota"
    return [
        Finding("processor", f"{name}{': ' if has else ''}{', '.join(has)}"),
        Finding("cores", f"{cores}, of which this process may use {may}{limit}"),
    ]


def _nvidia() -> list[Finding]:
    takes = nvidia.driver_cuda()
    if takes is None:
        return [Finding("NVIDIA driver", "none")]
    version = nvidia.driver_version() or "of unknown version"
    found = [Finding("NVIDIA driver", f"{version}, for CUDA up to {takes[0]}.{takes[1]}")]
    for index, card in enumerate(nvidia.cards()):
        memory = f"{card.free / 1e9:.1f} of {card.total / 1e9:.1f} GB free"
        found.append(Finding(f"GPU {index}", f"{card.name}, {memory}"))
    return found + [Finding(name, version) for name, version in nvidia.found_packages()]


def _devices() -> list[Finding]:
    """Each execution provider that is installed, tried on a graph of one node."""
    try:
        ort = onnxruntime()
    except DeviceError:
        return []
    wanted = getattr(ort, "cuda_version", "")
    found = [Finding("CUDA wanted", wanted)] if wanted else []
    for name, kind in KINDS.items():
        if kind.provider not in ort.get_available_providers() and not (
            kind.plugin and installed(kind.plugin.replace("_", "-"))
        ):
            continue
        try:
            resolve(name)
            fault = trial(Device(name))
        except DeviceError as error:
            fault = str(error)
        if name == "tensorrt" and fault and "libnvinfer" in fault:
            found.append(Finding(f"device {name}", f"not installed: {fault}"))  # few want it, and it is no fault
        else:
            found.append(Finding(f"device {name}", "does not work" if fault else "works", fault))
    return found


def _cache() -> list[Finding]:
    folder = cache_folder()
    above = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(above).free
    fault = None
    if not os.access(above, os.W_OK):
        fault = f"{above} cannot be written to: set WHERRY_CACHE to a folder that can"
    elif free < ROOM:
        fault = f"only {free / 1e9:.1f} GB are free there: make room, or set WHERRY_CACHE to another disk's folder"
    return [Finding("cache", f"{folder}, {free / 1e9:.0f} GB free", fault)]
