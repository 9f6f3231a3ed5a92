"""Other runtimes beside ours: processes of an environment of their own, and the models that they take.

That environment holds what peers.txt names; README.md says how to make it. Models are made once, in the
cache folder: SmolLM2-135M from its GGUF file and its checkpoint, others of usual shapes with random weights.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from wherry.hub import cache_folder
from wherry.session import thread_count
from wherry_exporter import export
from wherry_exporter.samples import sample

HERE = Path(__file__).parent
MADE = cache_folder() / "benchmarks" / "peers"

QUANTIZE = """
import sys
import llama_cpp
source, target, kind = sys.argv[1:]
settings = llama_cpp.llama_model_quantize_default_params()
settings.ftype, settings.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), True
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), settings))
"""
BUILD = """
import runpy, sys
packages, source, target, precision = sys.argv[1:]
sys.path.append(packages)
sys.argv = ["builder", "-i", source, "-o", target, "-p", precision, "-e", "cpu", "-c", target + ".cache"]
runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")
"""
CONVERT = """
import sys
packages, source, target, precision = sys.argv[1:]
sys.path.append(packages)
from ctranslate2.converters import TransformersConverter
TransformersConverter(source).convert(target, quantization=precision)
"""
"""genai's builder and CTranslate2's converter need torch and transformers, which are here and not there."""

WHISPER = {
    "d_model": 512,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
}
MARIAN = {
    **WHISPER,
    "vocab_size": 58101,
    "pad_token_id": 58100,
    "decoder_start_token_id": 58100,
    "eos_token_id": 0,
    "forced_eos_token_id": None,
    "activation_function": "swish",
    "static_position_embeddings": True,
    "scale_embedding": True,
}
T5 = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": 49152}),
    "t5-small": ("T5ForConditionalGeneration", T5),
    "marian": ("MarianMTModel", MARIAN),
    "whisper-base": ("WhisperForConditionalGeneration", {**WHISPER, "vocab_size": 51865}),
}


class Peer:
    """A runtime in a process of its own; calls are those of its class in peer.py."""

    def __init__(self, python: Path, kind: str, model: Path) -> None:
        self.process = subprocess.Popen(
            [python, HERE / "peer.py", kind, model, str(thread_count())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, do: str, **arguments: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def smollm2(python: Path) -> dict[str, Peer]:
    """llama.cpp and onnxruntime-genai with SmolLM2-135M, in 4 and 8 bits, by name."""
    gguf = sample("smollm2-gguf")
    found = {}
    for bits in (4, 8):
        target = _made(f"smollm2-Q{bits}_0.gguf", [python, "-c", QUANTIZE, gguf], [f"Q{bits}_0"])
        found[f"llama.cpp Q{bits}_0"] = Peer(python, "llama.cpp", target)
    for bits in (4, 8):
        command = [sys.executable, "-c", BUILD, _packages(python), sample("smollm2")]
        found[f"genai int{bits}"] = Peer(python, "genai", _made(f"smollm2-genai-int{bits}", command, [f"int{bits}"]))
    return found


def checkpoint(name: str) -> Path:
    """A model of a usual shape with random weights."""
    folder = MADE / name
    if not folder.exists():
        torch.manual_seed(0)
        kind, settings = SHAPES[name]
        model_class = getattr(transformers, kind)
        model = model_class(model_class.config_class(**settings))
        making = MADE / f".{name}"
        model.save_pretrained(making)
        if name == "gpt2":
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(sample("smollm2") / file, making)
        else:
            words(model.config).save_pretrained(making)
        making.rename(folder)
    return folder


def words(config: Any) -> Any:
    """A tokenizer of the words `w0`, `w1` and so on, as many as a model has tokens, and `<pad>` among them."""
    names = [f"w{number}" for number in range(config.vocab_size)]
    names[config.pad_token_id or 0] = "<pad>"
    if config.model_type == "whisper":  # CTranslate2 looks for these
        names[50258], names[50362], names[50363] = "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>"
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, names[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {name: names[getattr(config, f"{name}_id", None) or 2] for name in ("bos_token", "eos_token")}
    special |= {"pad_token": "<pad>", "unk_token": names[3]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def exported(name: str, precisions: Sequence[str], *, fast_prefill: bool = False) -> Path:
    """Our bundle of a checkpoint."""
    folder = MADE / "-".join([name, *precisions, *(["prefill"] if fast_prefill else [])])
    if not folder.exists():
        export(checkpoint(name), folder, precision=list(precisions), fast_prefill=fast_prefill)
    return folder


def ctranslate2(python: Path, name: str, kind: str) -> dict[str, Peer]:
    """CTranslate2 with a checkpoint in float32 and in int8, by name."""
    found = {}
    for precision in ("float32", "int8"):
        command = [sys.executable, "-c", CONVERT, _packages(python), checkpoint(name)]
        target = _made(f"{name}-ctranslate2-{precision}", command, [precision])
        found[f"CTranslate2 {precision}"] = Peer(python, kind, target)
    return found


def _packages(python: Path) -> Path:
    (found,) = python.parent.parent.glob("lib/python*/site-packages")
    return found


def _made(name: str, command: Sequence[str | Path], last: Sequence[str]) -> Path:
    """What a command makes that is given the place before its last arguments; made once."""
    target, making = MADE / name, MADE / f".{name}"
    if not target.exists():
        MADE.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(making, ignore_errors=True)
        subprocess.run([*command, making, *last], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        making.rename(target)
    return target
