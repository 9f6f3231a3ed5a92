"""Checkpoints of integer weights, read as floats: GPTQ's, AWQ's and MLX's here, others by transformers.

Knows no architecture. Formats: https://github.com/AutoGPTQ/AutoGPTQ, https://github.com/casper-hansen/AutoAWQ and
https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
BY_TRANSFORMERS = ("fp8", "mxfp4", "mxfp8", "metal", "compressed-tensors")
"""Methods whose weights transformers makes floats as it reads them, if told to."""


@dataclass(frozen=True)
class _Method:
    """How a method keeps a matrix of weights.

    Attributes:
        unpack: its parts, how many bits a weight has and the form to the matrix, (outputs, inputs) in float32.
        parts: the names of its tensors, the integers first; all methods have `scales`.
        setting: what in the configuration tells the form.
        forms: those that are known, the first where none is told.
        widths: bits a weight that are known.
        order: the name of a tensor that may be there too, which group each input is of.
    """

    unpack: "Callable[[Mapping[str, Any], int, str], Tensor]"
    parts: tuple[str, ...]
    setting: str
    forms: tuple[str, ...]
    widths: tuple[int, ...]
    order: str = ""


def prepared(config: Any, folder: Path) -> "dict[str, Tensor] | None":
    """The weights of a GPTQ, AWQ or MLX checkpoint in float32, by name; None where transformers reads them itself.

    `config` is told that its model's weights are floats, or are to be made floats.

    Raises:
        ExportError: of those methods in a form that is not known.
    """
    settings: Any = getattr(config, "quantization_config", None) or getattr(config, "quantization", None)
    settings = settings.to_dict() if hasattr(settings, "to_dict") else settings
    if not isinstance(settings, dict):
        return None
    name = str(settings.get("quant_method") or ("mlx" if {"bits", "group_size"} <= settings.keys() else ""))
    if name in BY_TRANSFORMERS:
        config.quantization_config = {**settings, "dequantize": True}
    if name not in METHODS:
        return None
    method = METHODS[name]
    bits, form = settings.get("bits", 4), str(settings.get(method.setting) or method.forms[0]).lower()
    if bits not in method.widths or form not in method.forms:
        raise ExportError(
            f"{folder} has {name.upper()} weights of {bits} bits in the form {form}: those of "
            f"{', '.join(map(str, method.widths))} bits are read, in the form {' or '.join(method.forms)}"
        )
    for told in ("quantization_config", "quantization"):
        vars(config).pop(told, None)
    try:
        return dict(_floats(_tensors(folder), method, bits, form))
    except KeyError as error:
        raise ExportError(f"{folder} has {name.upper()} weights without {error}") from error
    except (RuntimeError, IndexError, TypeError) as error:
        raise ExportError(f"{folder} has {name.upper()} weights that do not fit each other: {error}") from error


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
    listed = {folder / name for name in read_json(index).get("weight_map", {}).values()} if index.exists() else set()
    shards = sorted(listed or folder.glob("*.safetensors"))
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


def _floats(tensors: "dict[str, Tensor]", method: _Method, bits: int, form: str) -> "Iterator[tuple[str, Tensor]]":
    """Every weight, those that are integers unpacked; `tensors` is emptied as they are."""
    for module in [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]:
        if f"{module}.{method.parts[0]}" not in tensors:
            continue
        parts = {part: tensors.pop(f"{module}.{part}") for part in method.parts}
        if (name := f"{module}.{method.order}") in tensors:
            parts[method.order] = tensors.pop(name)
        yield f"{module}.weight", method.unpack(parts, bits, form)
    yield from tensors.items()


def _bits(words: "Tensor", bits: int) -> "Tensor":
    """The integers in each row's words, the lowest bits first: (..., words) to (..., words, integers a word)."""
    import torch

    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    found: Tensor = (words.view(torch.int32)[..., None] >> shifts) & (2**bits - 1)
    return found


def _gptq(parts: Mapping[str, Any], bits: int, form: str) -> "Tensor":
    """Packed along the inputs; zero points, along the outputs, were one too small in the first form."""
    import torch

    codes = _bits(parts["qweight"].T, bits).flatten(1)
    zeros = (_bits(parts["qzeros"], bits).flatten(1) + int(form == "gptq")) & (2**bits - 1)
    groups, inputs = len(parts["scales"]), codes.shape[1]
    group = parts["g_idx"].long() if "g_idx" in parts else torch.arange(inputs) // -(-inputs // groups)
    weight: Tensor = (codes - zeros.T[:, group]) * parts["scales"].float().T[:, group]
    return weight.contiguous()


def _awq(parts: Mapping[str, Any], bits: int, _: str) -> "Tensor":
    """Packed along the outputs."""
    codes, zeros = (_bits(parts[name], bits)[..., AWQ_ORDER].flatten(1) for name in ("qweight", "qzeros"))
    size = len(codes) // len(zeros)
    scales = parts["scales"].float().repeat_interleave(size, 0)
    weight: Tensor = ((codes - zeros.repeat_interleave(size, 0)) * scales).T
    return weight.contiguous()


def _mlx(parts: Mapping[str, Any], bits: int, _: str) -> "Tensor":
    """Packed along the inputs; what is added is a float for each group."""
    codes = _bits(parts["weight"], bits).flatten(1)
    scales, biases = parts["scales"].float(), parts["biases"].float()
    weight: Tensor = codes.view(*scales.shape, -1) * scales[..., None] + biases[..., None]
    return weight.flatten(1)


METHODS: Mapping[str, _Method] = {
    "gptq": _Method(
        _gptq, ("qweight", "qzeros", "scales"), "checkpoint_format", ("gptq", "gptq_v2"), (2, 4, 8), order="g_idx"
    ),
    "awq": _Method(_awq, ("qweight", "qzeros", "scales"), "version", ("gemm",), (4,)),
    "mlx": _Method(_mlx, ("weight", "scales", "biases"), "mode", ("affine",), (2, 4, 8)),
}
