"""Checkpoints of integer weights are read as the floats that they stand for, or refused in a line."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

from wherry_exporter import ExportError, export
from wherry_exporter.load import load

GROUP = 32
RANDOM = np.random.default_rng(0)


def words(values, bits, axis, order=range(8)):
    """Integers packed along an axis, the first in the lowest bits, as AutoGPTQ and AutoAWQ pack them."""
    values = np.moveaxis(values.astype(np.uint32), axis, -1)
    count = 32 // bits
    packed = np.zeros((*values.shape[:-1], values.shape[-1] // count), np.uint32)
    for place, column in enumerate(list(order) if count == 8 else range(count)):
        packed |= values[..., column::count] << np.uint32(bits * place)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(packed, -1, axis)).view(np.int32))


def integers(shape, bits):
    """What a matrix (outputs, inputs) is made of: codes (inputs, outputs), zero points and scales by group, floats."""
    outputs, inputs = shape
    codes = RANDOM.integers(0, 2**bits, (inputs, outputs))
    zeros = RANDOM.integers(0, 2**bits, (inputs // GROUP, outputs))
    scales = RANDOM.random((inputs // GROUP, outputs)).astype(np.float16) / 50
    return codes, zeros, scales


def floats(codes, zeros, scales, group):
    return torch.from_numpy(((codes - zeros[group]).astype(np.float32) * scales[group].astype(np.float32)).T)


def gptq(shape, bits, *, form="gptq", ordered=True):
    codes, zeros, scales = integers(shape, bits)
    group = np.arange(shape[1]) // GROUP
    group = group if ordered else RANDOM.permutation(group)
    stored = (zeros - 1) % 2**bits if form == "gptq" else zeros
    parts = {"qweight": words(codes, bits, 0), "qzeros": words(stored, bits, 1), "scales": torch.from_numpy(scales)}
    return parts | {"g_idx": torch.from_numpy(group.astype(np.int32))}, floats(codes, zeros, scales, group)


def awq(shape):
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes, zeros, scales = integers(shape, 4)
    parts = {"qweight": words(codes, 4, 1, order), "qzeros": words(zeros, 4, 1, order)}
    return parts | {"scales": torch.from_numpy(scales)}, floats(codes, zeros, scales, np.arange(shape[1]) // GROUP)


def mlx(shape):
    codes, _, scales = integers(shape, 4)
    biases = -7 * scales
    group = np.arange(shape[1]) // GROUP
    whole = (codes * scales[group].astype(np.float32) + biases[group].astype(np.float32)).T
    parts = {"weight": words(codes.T, 4, 1).view(torch.uint32), "scales": scales.T, "biases": biases.T}
    parts |= {name: torch.from_numpy(np.ascontiguousarray(parts[name])) for name in ("scales", "biases")}
    return parts, torch.from_numpy(whole.astype(np.float32))


def fp8(shape):
    codes = torch.from_numpy(RANDOM.normal(size=shape).astype(np.float32)).to(torch.float8_e4m3fn)
    scales = torch.from_numpy(RANDOM.random((shape[0] // 128, shape[1] // 128)).astype(np.float32)) / 50
    spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return {"weight": codes, "weight_scale_inv": scales}, codes.float() * spread


FORMS = {
    "gptq of 4 bits": ({"quant_method": "gptq", "bits": 4, "group_size": GROUP}, lambda shape: gptq(shape, 4)),
    "gptq of 2 bits": ({"quant_method": "gptq", "bits": 2}, lambda shape: gptq(shape, 2)),
    "gptq of 8 bits, inputs in the order of their activations": (
        {"quant_method": "gptq", "bits": 8, "desc_act": True, "checkpoint_format": "gptq"},
        lambda shape: gptq(shape, 8, ordered=False),
    ),
    "gptq's second form": (
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
        lambda shape: gptq(shape, 4, form="gptq_v2"),
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}, awq),
    "mlx": ({"bits": 4, "group_size": GROUP, "mode": "affine"}, mlx),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}, fp8),
}


@pytest.fixture
def llama(gpt2, tmp_path):
    """Writes a checkpoint with its projections in integers; what those stand for, by name."""

    def write(settings, pack):
        torch.manual_seed(0)
        sizes = {"vocab_size": 50257, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}
        LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).save_pretrained(tmp_path)
        GenerationConfig(max_new_tokens=7).save_pretrained(tmp_path)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((gpt2 / name).read_bytes())
        expected, tensors = {}, {}
        for name, tensor in load_file(tmp_path / "model.safetensors").items():
            if not name.endswith("_proj.weight"):
                tensors[name] = tensor
                continue
            parts, expected[name] = pack(tuple(tensor.shape))
            tensors |= {f"{name.removesuffix('weight')}{part}": value.contiguous() for part, value in parts.items()}
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((tmp_path / "config.json").read_text())
        both = {"quantization_config": settings} | ({} if "quant_method" in settings else {"quantization": settings})
        (tmp_path / "config.json").write_text(json.dumps(config | both))
        return tmp_path, expected

    return write


@pytest.mark.parametrize("form", FORMS)
def test_integers_are_read_as_floats(form, llama):
    folder, expected = llama(*FORMS[form])
    checkpoint = load(folder)
    found = dict(checkpoint.model.named_parameters())
    assert len(expected) == 7
    for name, weight in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].detach(), weight, rtol=1e-6, atol=0)
    assert not {"quantization_config", "quantization"} & vars(checkpoint.model.config).keys()
    assert checkpoint.model.generation_config.max_new_tokens == 7


def rows_of(path):
    """The rows that a graph's 4-bit projections stand for, those of as many inputs together, in no order."""
    model, found = onnx.load(path), {}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        settings = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type != "MatMulNBits" or settings["bits"] != 4 or settings["N"] > 1024:  # the vocabulary
            continue
        levels, scales, *points = (arrays[name] for name in node.input[1:4])
        levels = halves(levels)
        zero = halves(points[0].reshape(len(levels), -1))[:, : levels.shape[1], None] if points else 8
        weight = (levels - zero) * scales.reshape(*levels.shape[:2], 1)
        found.setdefault(settings["K"], []).extend(weight.reshape(len(levels), -1)[:, : settings["K"]])
    return found


def halves(bytes_):
    return np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(*bytes_.shape[:-1], -1).astype(np.float32)


def ordered(rows):
    rows = np.stack(rows)
    return rows[np.lexsort(rows.T[:4])]


@pytest.mark.parametrize("form", ["gptq of 4 bits", "awq"])
def test_four_bits_stay_as_they_are(form, llama, tmp_path):
    folder, expected = llama(*FORMS[form])
    bundle = export(folder, tmp_path / "bundle", precision=["fp32", "int4"], block_size=16)
    assert bundle.variants["fp32"].parity["max_rel_diff"] < 1e-3
    assert "quantization_config" not in json.loads((tmp_path / "bundle" / "config.json").read_text())
    manifest = json.loads((tmp_path / "bundle" / "wherry.json").read_text())
    assert "weights in the checkpoint's own 4 bits" in manifest["variants"]["int4"]["recipe"]
    found = rows_of(tmp_path / "bundle" / "onnx" / "model_q4.onnx")
    assert found.keys() == {128, 256}
    for inputs, rows in found.items():
        wanted = [row for weight in expected.values() if weight.shape[1] == inputs for row in weight.numpy()]
        np.testing.assert_allclose(ordered(rows), ordered(wanted), rtol=1e-5, atol=1e-7)


def test_experts_in_mxfp4(gpt2, tmp_path):
    """As gpt-oss has them: two codes a byte, and an exponent for each 32."""
    sizes = {"vocab_size": 50257, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    experts = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    GptOssForCausalLM(GptOssConfig(**sizes, **experts)).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((gpt2 / "tokenizer.json").read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    values, expected = np.concatenate([values, -values]), {}
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        number, inputs, outputs = tensors.pop(name).shape
        codes = RANDOM.integers(0, 16, (number, outputs, inputs // 32, 16, 2))
        exponents = RANDOM.integers(120, 124, (number, outputs, inputs // 32))
        tensors[f"{name}_blocks"] = torch.from_numpy((codes[..., 0] | codes[..., 1] << 4).astype(np.uint8))
        tensors[f"{name}_scales"] = torch.from_numpy(exponents.astype(np.uint8))
        weight = values[codes].reshape(number, outputs, inputs // 32, 32) * 2.0 ** (exponents - 127)[..., None]
        expected[name] = torch.from_numpy(weight.reshape(number, outputs, inputs).swapaxes(1, 2).astype(np.float32))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    found = dict(load(tmp_path).model.named_parameters())
    assert len(expected) == 2
    for name, weight in expected.items():
        torch.testing.assert_close(found[name].detach(), weight, rtol=0, atol=0)


def without_zeros(shape):
    parts, weight = gptq(shape, 4)
    return {name: part for name, part in parts.items() if name != "qzeros"}, weight


REFUSED = {
    "gptq of 3 bits": (
        {"quant_method": "gptq", "bits": 3},
        "of 3 bits in the form gptq: those of 2, 4, 8 bits",
    ),
    "marlin": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "in the form marlin"),
    "gemv": ({"quant_method": "awq", "bits": 4, "version": "GEMV"}, "in the form gemv: .* in the form gemm"),
    "another mode": ({"bits": 4, "group_size": 32, "mode": "mxfp4"}, "MLX weights .* mxfp4: .* in the form affine"),
    "what does not fit": ({"quant_method": "gptq", "bits": 8}, "GPTQ weights that do not fit each other"),
    "a method whose library is not there": ({"quant_method": "aqlm"}, "transformers cannot load .*aqlm"),
    "no method": ({"quant_method": "rubbish"}, "lacks weights that LlamaForCausalLM needs"),
}


def test_a_part_that_is_missing_is_named(llama):
    folder, _ = llama(FORMS["gptq of 4 bits"][0], without_zeros)
    with pytest.raises(ExportError, match=r"GPTQ weights without 'model\.layers\.0\..*_proj\.qzeros'"):
        load(folder)


def test_settings_that_are_no_object(llama):
    folder, _ = llama({"quant_method": "gptq"}, lambda shape: gptq(shape, 4))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": ["gptq"]}))
    with pytest.raises(ExportError, match=r"transformers cannot read .*config\.json"):
        load(folder)


@pytest.mark.parametrize("case", REFUSED)
def test_other_integers_are_refused(case, llama):
    settings, reason = REFUSED[case]
    folder, _ = llama(settings, lambda shape: gptq(shape, 4))
    with pytest.raises(ExportError, match=reason):
        load(folder)


def test_an_adapter_is_to_be_merged(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ExportError, match=r"holds an adapter .*merge_and_unload"):
        load(tmp_path)
