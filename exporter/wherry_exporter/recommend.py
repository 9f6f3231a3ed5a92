"""Options of execution providers that are good for a variant, which its manifest recommends to whoever runs it."""

from collections.abc import Mapping

import onnx_ir as ir

from wherry_exporter.inputs import BATCH, SEQUENCE

Options = dict[str, dict[str, str]]
ROWS = (1, 8, 64)
TOKENS = 128
"""The fewest, the usual and the most rows of a batch, and the usual tokens of a text, that TensorRT makes ready for."""


def recommended(graphs: Mapping[str, ir.Model], precision: str, limit: int) -> dict[str, Options]:
    """Options by role and kind of device.

    Args:
        graphs: by role, in float32.
        precision: of the variant.
        limit: the most tokens that the model takes.
    """
    found = {role: _for_graph(graph, precision, limit) for role, graph in graphs.items()}
    return {role: options for role, options in found.items() if options}


def _for_graph(model: ir.Model, precision: str, limit: int) -> Options:
    options: Options = {}
    nodes = list(model.graph.all_nodes())
    if precision in ("fp16", "bf16", "int4f16") and any(node.op_type == "GroupQueryAttention" for node in nodes):
        options["cuda"] = {"enable_cuda_graph": "1"}  # steps as one graph; in float32 CUDA has not got all operators
    if precision in ("fp32", "fp16") and all(not node.domain and node.op_type not in ("If", "Loop") for node in nodes):
        options |= _profiles(model.graph, limit)
    if "tensorrt" in options and precision == "fp16":
        options["tensorrt"]["trt_fp16_enable"] = "1"
    return options


def _profiles(graph: ir.Graph, limit: int) -> Options:
    """The ranges of sizes for which TensorRT builds one engine, where it takes the graph whole and they are known."""
    ranges = {BATCH: ROWS, SEQUENCE: (1, min(TOKENS, limit), limit)}
    axes = [[size if isinstance(size, int) else size.value for size in value.shape or ()] for value in graph.inputs]
    names = {size for sizes in axes for size in sizes if not isinstance(size, int)}
    if not names or not names <= set(ranges):
        return {}
    told = {}
    for number, which in enumerate(("min", "opt", "max")):
        shapes = ["x".join(str(ranges[size][number] if size in ranges else size) for size in sizes) for sizes in axes]
        pairs = zip(graph.inputs, shapes, strict=True)
        told[f"trt_profile_{which}_shapes"] = ",".join(f"{value.name}:{shape}" for value, shape in pairs)
    return {"tensorrt": told}
