"""The graph that reads prompts: what of a decoder gives keys and values, in 8-bit integers. The decoder makes tokens.

Many rows at once are bound by arithmetic, not by the weights that are read, and products of integers are the fastest
that there are. Knows no model.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from wherry_exporter.errors import UsageError


def prefill_of(decoder: ir.Model) -> ir.Model:
    """A copy of a decoder's graph without its logits and all that makes them.

    Raises:
        UsageError: a graph that is no decoder that writes keys and values where it reads them.
    """
    if not any(node.op_type == "GroupQueryAttention" for node in decoder.graph):
        raise UsageError("a fast prefill is for decoders whose graph has GroupQueryAttention")
    model = decoder.clone()
    kept = [value for value in model.graph.outputs if value.name != "logits"]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    RemoveUnusedNodesPass()(model)
    return model
