"""A decoder to one graph for its first step and all later ones, over past keys and values.

The tokens come as ids or, where something else is to stand between them, as embeddings. Knows no architecture.
"""

from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache

from wherry_exporter.cache import Pairs, cache_axes, cache_shapes, pairs_of
from wherry_exporter.convert import convert, name_axes
from wherry_exporter.inputs import BATCH, PAST, SEQUENCE, TOTAL, parameters_of
from wherry_exporter.lower import Lowering, NotLowered, lowered

Tokens = Literal["input_ids", "inputs_embeds"]


def fused_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """With GroupQueryAttention; rows of unlike length are padded on the right."""
    shapes = cache_shapes(model)
    with lowered(model, decoder=True) as lowering:
        return _trace(_FusedDecoder(model, tokens, lowering), model, tokens, shapes)


def plain_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """As transformers has it; rows of unlike length are padded on the left."""
    return _trace(_PlainDecoder(model, tokens), model, tokens, cache_shapes(model))


class _FusedDecoder(nn.Module):
    def __init__(self, model: Any, tokens: Tokens, lowering: Lowering) -> None:
        super().__init__()
        self.model, self.tokens, self.lowering = model, tokens, lowering

    def forward(self, tokens: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, Pairs]:
        self.lowering.begin(attention_mask, past)
        positions = _positions(attention_mask, tokens.shape[1])
        output = self.model(**{self.tokens: tokens}, position_ids=positions, use_cache=False)
        if len(self.lowering.present) != len(past):
            count = len(self.lowering.present)
            raise NotLowered(f"{count} of {len(past)} layers use transformers' attention interface")
        return output.logits, self.lowering.present


class _PlainDecoder(nn.Module):
    def __init__(self, model: Any, tokens: Tokens) -> None:
        super().__init__()
        self.model, self.tokens, self.takes = model, tokens, set(parameters_of(model))

    def forward(self, tokens: Tensor, attention_mask: Tensor, past: Pairs) -> tuple[Tensor, Pairs]:
        cache = DynamicCache(past)
        inputs: dict[str, Any] = {self.tokens: tokens, "attention_mask": attention_mask, "past_key_values": cache}
        if "position_ids" in self.takes:
            inputs["position_ids"] = _positions(attention_mask, tokens.shape[1])
        output = self.model(**inputs, use_cache=True)
        return output.logits, pairs_of(cache)


def _positions(attention_mask: Tensor, length: int) -> Tensor:
    """Position of each new token among the real ones of its row."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:]


def _trace(module: nn.Module, model: Any, tokens: Tokens, shapes: list[tuple[int, int, int]]) -> ir.Model:
    given = torch.ones(2, 3, dtype=torch.int64)
    axes: dict[str, tuple[int | str, ...]] = {tokens: (BATCH, SEQUENCE), "attention_mask": (BATCH, TOTAL)}
    if tokens == "inputs_embeds":
        with torch.no_grad():
            given = model.get_input_embeddings()(given)
        axes[tokens] = (BATCH, SEQUENCE, given.shape[2])
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, -1] = 0
    past = [(torch.zeros(2, heads, 4, key), torch.zeros(2, heads, 4, value)) for heads, key, value in shapes]
    batch, cached = Dim(BATCH), {0: Dim(BATCH), 2: Dim.DYNAMIC}
    dynamic = {
        "tokens": {0: batch, 1: Dim.DYNAMIC},
        "attention_mask": {0: batch, 1: Dim.DYNAMIC},
        "past": [(cached, cached) for _ in shapes],
    }
    names, cache = cache_axes(shapes)
    graph = convert(
        module,
        {"tokens": given, "attention_mask": mask, "past": past},
        dynamic,
        [tokens, "attention_mask", *(f"past_key_values.{name}" for name in names)],
        ["logits", *(f"present.{name}" for name in names)],
    )
    return name_axes(graph, axes | cache)
