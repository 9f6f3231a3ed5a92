"""Checkpoints of weights that are integers already, read as floats: GPTQ's and AWQ's here, others by transformers.

Knows no architecture. Formats: https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/casper-hansen/AutoAWQ.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherry.files import read_json
from wherry_exporter.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

WORD = 32
"""Bits of the integers that weights are packed in."""
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in its word AWQ keeps each of eight columns, by half-bytes from the lowest one up."""
PARTS = ("qweight", "qzeros", "scales", "g_idx")


def prepared(config: Any, folder: Path) -> "dict[str, Tensor] | None":
    """The weights of a GPTQ or AWQ checkpoint in float32, by name; None where transformers reads them itself.

    `config` is told that its model's weights are floats, or are to be made floats.

    Raises:
        ExportError: of GPTQ or AWQ in a form that is not known.
    """
    settings: Any = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = settings.get("quant_method")
    if method in BY_TRANSFORMERS:
        config.quantization_config = {**settings, "dequantize": True}
    if method not in FORMS:
        return None
    unpack, setting, known, widths = FORMS[method]
    bits, form = settings.get("bits", 4), str(settings.get(setting) or known[0]).lower()
    if bits not in widths or form not in known:
        raise ExportError(
            f"{folder} has {method.upper()} weights of {bits} bits in the form {form}: those of "
            f"{', '.join(map(str, widths))} bits are read, in the form {' or '.join(known)}"
        )
    del config.quantization_config
    try:
        return dict(_floats(_tensors(folder), lambda parts: unpack(parts, bits, form)))
    except (RuntimeError, IndexError, TypeError) as error:
        raise ExportError(f"{folder} has {method.upper()} weights that do not fit each other: {error}") from error


def whole(model: Any) -> Any:
    """A model whose quantized modules are ordinary ones, as far as transformers can make them."""
    import torch
    from transformers.quantizers.base import HfQuantizer

    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None or type(quantizer)._dequantize is HfQuantizer._dequantize:
        return model
    return model.dequantize(dtype=torch.float32)


def _tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    listed = {folder / name for name in read_json(index)["weight_map"].values()} if index.exists() else None
    shards = sorted(listed or folder.glob("*.safetensors"))
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


def _floats(tensors: "dict[str, Tensor]", unpack: Any) -> "Iterator[tuple[str, Tensor]]":
    """Every weight, those that are integers unpacked; `tensors` is emptied as they are."""
    for name in [name for name in tensors if name.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        parts = {part: tensors.pop(f"{module}.{part}", None) for part in PARTS}
        yield f"{module}.weight", unpack(parts)
    yield from tensors.items()


def _bits(words: "Tensor", bits: int) -> "Tensor":
    """The integers in each word, the lowest bits first: (..., words) to (..., words, integers a word)."""
    import torch

    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    found: Tensor = (words[..., None] >> shifts) & (2**bits - 1)
    return found


def _gptq(parts: "Mapping[str, Any]", bits: int, form: str) -> "Tensor":
    """A matrix (outputs, inputs), packed along its inputs; zero points, along its outputs, once were one too small."""
    import torch

    codes = _bits(parts["qweight"].T, bits).flatten(1)
    zeros = _bits(parts["qzeros"], bits).flatten(1) + int(form == "gptq") & 2**bits - 1
    groups, inputs = len(parts["scales"]), codes.shape[1]
    group = parts["g_idx"] if parts["g_idx"] is not None else torch.arange(inputs) // -(-inputs // groups)
    group = group.long()
    weight: Tensor = (codes - zeros.T[:, group]) * parts["scales"].float().T[:, group]
    return weight.contiguous()


def _awq(parts: "Mapping[str, Any]", bits: int, _: str) -> "Tensor":
    """A matrix (outputs, inputs), packed along its outputs."""
    codes, zeros = (_bits(parts[name], bits)[..., AWQ_ORDER].flatten(1) for name in ("qweight", "qzeros"))
    size = len(codes) // len(zeros)
    scales = parts["scales"].float().repeat_interleave(size, 0)
    weight: Tensor = ((codes - zeros.repeat_interleave(size, 0)) * scales).T
    return weight.contiguous()


FORMS: Mapping[str, tuple[Any, str, tuple[str, ...], tuple[int, ...]]] = {
    "gptq": (_gptq, "checkpoint_format", ("gptq", "gptq_v2"), (2, 4, 8)),
    "awq": (_awq, "version", ("gemm",), (4,)),
}
"""How each method's weights are unpacked, the setting that tells their form, the forms that are known, and widths."""
BY_TRANSFORMERS = ("fp8", "mxfp4", "mxfp8", "metal", "compressed-tensors")
"""Methods whose weights transformers makes floats as it reads them, if told to."""
