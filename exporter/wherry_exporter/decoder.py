"""A decoder to one graph for its first step and all later ones, over what it keeps between them.

The tokens come as ids or, where something else is to stand between them, as embeddings. Knows no architecture.
"""

from typing import Any, Literal

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.convert import convert, name_axes
from wherry_exporter.inputs import BATCH, SEQUENCE, TOTAL, parameters_of
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.states import States
from wherry_exporter.stepwise import repeat_step

Tokens = Literal["input_ids", "inputs_embeds"]


def fused_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """With GroupQueryAttention; rows of unlike length are padded on the right."""
    states = States(model)
    if not states.grows:
        raise NotLowered("it keeps states between steps that are not keys and values")
    with lowered(model, decoder=True) as lowering:
        return _trace(_FusedDecoder(model, tokens, lowering), model, tokens, states, new=3)


def plain_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """As transformers has it; rows of unlike length are padded on the left."""
    states = States(model)
    if any(kept.field == "recurrent_states" for kept in states.kept):
        raise NotLowered("a recurrence over tokens is a loop, which a trace unrolls for one length alone")
    return _trace(_PlainDecoder(model, tokens, states), model, tokens, states, new=3)


def stepwise_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """As transformers has it for one token at a time; the graph repeats that over its tokens.

    For what computes several tokens in a way that no graph of any length can express. Rows are padded on the left.
    """
    states = States(model)
    step = _trace(_OneStep(model, tokens, states), model, tokens, states, new=1)
    return repeat_step(step)


class _FusedDecoder(nn.Module):
    def __init__(self, model: Any, tokens: Tokens, lowering: Lowering) -> None:
        super().__init__()
        self.model, self.tokens, self.lowering = model, tokens, lowering

    def forward(self, tokens: Tensor, attention_mask: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        pairs = list(zip(past[::2], past[1::2], strict=True))
        self.lowering.begin(attention_mask, pairs)
        positions = _positions(attention_mask, tokens.shape[1])
        output = self.model(**{self.tokens: tokens}, position_ids=positions, use_cache=False)
        if len(self.lowering.present) != len(pairs):
            count = len(self.lowering.present)
            raise NotLowered(f"{count} of {len(pairs)} layers use transformers' attention interface")
        return output.logits, [tensor for pair in self.lowering.present for tensor in pair]


class _PlainDecoder(nn.Module):
    def __init__(self, model: Any, tokens: Tokens, states: States) -> None:
        super().__init__()
        self.model, self.tokens, self.states, self.takes = model, tokens, states, set(parameters_of(model))

    def forward(self, tokens: Tensor, attention_mask: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        cache = self.states.filled(past)
        inputs: dict[str, Any] = {
            self.tokens: tokens,
            "attention_mask": attention_mask,
            "position_ids": _positions(attention_mask, tokens.shape[1]),
        }
        inputs = {name: value for name, value in inputs.items() if name in self.takes}
        output = self.model(**inputs, **{self.states.argument: cache}, use_cache=True)
        return output.logits, self.states.tensors(cache)


class _OneStep(_PlainDecoder):
    """One token, which leaves states as they are where it is padding.

    So a model that keeps states alone needs no mask, and those that expect one of the new tokens' length get none.
    """

    def __init__(self, model: Any, tokens: Tokens, states: States) -> None:
        super().__init__(model, tokens, states)
        if not any(kept.grows for kept in states.kept):
            self.takes.discard("attention_mask")

    def forward(self, tokens: Tensor, attention_mask: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        logits, present = super().forward(tokens, attention_mask, past)
        real = attention_mask[:, -1].bool()
        kept = [
            new if kept.grows else torch.where(real.reshape(-1, *[1] * len(kept.shape)), new, old)
            for kept, new, old in zip(self.states.kept, present, past, strict=True)
        ]
        return logits, kept


def _positions(attention_mask: Tensor, length: int) -> Tensor:
    """Position of each new token among the real ones of its row."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:]


def _trace(module: nn.Module, model: Any, tokens: Tokens, states: States, *, new: int) -> ir.Model:
    """Trace a module that takes that many new tokens, or any number of them where it is more than one."""
    given = torch.ones(2, new, dtype=torch.int64)
    axes: dict[str, tuple[int | str, ...]] = {tokens: (BATCH, SEQUENCE), "attention_mask": (BATCH, TOTAL)}
    if tokens == "inputs_embeds":
        with torch.no_grad():
            given = model.get_input_embeddings()(given)
        axes[tokens] = (BATCH, SEQUENCE, given.shape[2])
    mask = torch.ones(2, 4 + new, dtype=torch.int64)
    mask[1, -1] = 0
    batch = Dim(BATCH)
    dynamic = {
        "tokens": {0: batch} if new == 1 else {0: batch, 1: Dim.DYNAMIC},
        "attention_mask": {0: batch, 1: Dim.DYNAMIC},
        "past": [{0: batch, 2: Dim.DYNAMIC} if kept.grows else {0: batch} for kept in states.kept],
    }
    graph = convert(
        module,
        {"tokens": given, "attention_mask": mask, "past": states.zeros(2, 4)},
        dynamic,
        [tokens, "attention_mask", *(kept.past for kept in states.kept)],
        ["logits", *(kept.present for kept in states.kept)],
    )
    return name_axes(graph, axes | states.axes())
