"""Quantized graphs: what is in them, how large they are, and that CPUs with and without VNNI agree on them."""

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from wherry_exporter.convert import convert
from wherry_exporter.quantize import weight_only


def tensors(bundle, precision):
    graph = onnx.load(bundle.folder / bundle.variants[precision].graphs["model"]).graph
    return graph, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_int8_weights_use_seven_bits(bundle):
    """Without VNNI two uint8 x int8 products are added in 16 bits: 2 * 255 * 64 fits, 2 * 255 * 127 does not."""
    for name in ("minilm", "rampart"):
        graph, arrays = tensors(bundle(name), "int8")
        inputs = {node.input[1] for node in graph.node if node.op_type in ("QAttention", "MatMulInteger")}
        assert len(inputs) >= 6
        for weight in inputs:
            assert arrays[weight].dtype == np.int8
            assert np.abs(arrays[weight].astype(int)).max() <= 64
            assert len(np.unique(arrays[weight])) > 100  # and they do use them


def test_int8_attention_is_one_operator(bundle):
    graph, _ = tensors(bundle("minilm"), "int8")
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QAttention") + kinds.count("Attention") == 6
    assert kinds.count("MatMulInteger") + kinds.count("MatMul") == 18


def test_decoders_are_weight_only(bundle):
    for precision, bits in (("int8", {8}), ("int4", {4, 8})):
        graph, arrays = tensors(bundle("smollm2-gguf"), precision)
        nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
        found = [{item.name: item.i for item in node.attribute} for node in nodes]
        assert len(nodes) == 30 * 5 + 1  # packed query, key and value; output; gate, up and down; and the lm_head
        assert {each["bits"] for each in found} == bits
        assert {each["block_size"] for each in found} == {32}
        assert not [name for name, array in arrays.items() if array.dtype == np.float32 and array.size > 10**6]


def test_sizes(bundle):
    def share(name, precision):
        variants = bundle(name).variants
        return variants[precision].bytes / variants["fp32"].bytes

    assert share("smollm2-gguf", "int4") < 0.27
    assert share("smollm2-gguf", "int8") < 0.35
    assert share("minilm", "int8") < 0.36
    assert share("rampart", "int8") < 0.36


def test_embeddings_alone_keep_the_name_of_their_output():
    ids = torch.ones(2, 3, dtype=torch.int64)
    graph = weight_only(convert(torch.nn.Embedding(1024, 32), {"input": ids}, {"input": {}}, ["ids"], ["embeds"]), 8)
    assert [node.op_type for node in graph.graph] == ["GatherBlockQuantized"]
    assert [value.name for value in graph.graph.outputs] == ["embeds"]
