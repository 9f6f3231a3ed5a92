"""A decoder to one graph for its first step and all later ones, over what it keeps between them.

The tokens come as ids or, where something else is to stand between them, as embeddings. Knows no architecture.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import DynamicCache

from wherry_exporter.convert import convert, name_axes
from wherry_exporter.inputs import BATCH, SEQUENCE, TOTAL, parameters_of, reserved_positions
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.states import Keeping, Reading, States
from wherry_exporter.stepwise import repeat_step

Tokens = Literal["input_ids", "inputs_embeds"]
PER_LAYER = "per_layer_inputs"
"""What tokens add in each layer, (batch, sequence, layers, size), where they do."""


def fused_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """With GroupQueryAttention; rows of unlike length are padded on the right."""
    states = States(model)
    if not states.grows:
        raise NotLowered("it keeps states between steps that are not keys and values")
    if tokens == "inputs_embeds" and looks_ahead(model):
        raise NotLowered("tokens attend to those that follow")
    turned = not (tokens == "inputs_embeds" and _in_three_dimensions(model))
    with lowered(model, decoder=True, rotary=turned) as lowering:
        return _trace(_FusedDecoder(model, tokens, lowering), model, tokens, states, new=3)


def plain_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """As transformers has it; rows of unlike length are padded on the left."""
    states = States(model)
    if any(kept.field == "recurrent_states" for kept in states.kept):
        raise NotLowered("a recurrence over tokens is a loop, which a trace unrolls for one length alone")
    return _trace(_PlainDecoder(model, tokens, states), model, tokens, states, new=3)


def embeddings_of(model: Any) -> ir.Model:
    """What makes the embeddings of tokens, with room for what is added to the states after the first layers."""
    graph = convert(
        _Embeddings(model),
        {"input_ids": torch.ones(2, 3, dtype=torch.int64)},
        {"input_ids": {0: Dim(BATCH), 1: Dim.DYNAMIC}},
        ["input_ids"],
        ["inputs_embeds", *([PER_LAYER] if added_inputs(model) else [])],
    )
    return name_axes(graph, {"input_ids": (BATCH, SEQUENCE)})


def embedded(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """What stands for tokens, by the names of a decoder's inputs; zeros for what only images add after first layers."""
    found = {}
    if added_inputs(model):
        pad = model.config.get_text_config().pad_token_id
        for token in (getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video", "audio")):
            ids = ids if token is None else ids.masked_fill(ids == token, pad)
        found[PER_LAYER] = model.get_decoder().get_per_layer_inputs(ids)
    embeddings: Tensor = model.get_input_embeddings()(ids)
    if layers := added_layers(model):
        embeddings = nn.functional.pad(embeddings, (0, layers * embeddings.shape[-1]))
    return {"inputs_embeds": embeddings} | found


def stepwise_decoder(model: Any, tokens: Tokens = "input_ids") -> ir.Model:
    """As transformers has it for one token at a time; the graph repeats that over its tokens.

    For what computes several tokens in a way that no graph of any length can express. Rows are padded on the left.
    """
    states = States(model)
    if tokens == "inputs_embeds" and looks_ahead(model):
        raise NotLowered("tokens attend to those that follow")
    return repeat_step(_trace(_OneStep(model, tokens, states), model, tokens, states, new=1))


def rereading_decoder(model: Any) -> ir.Model:
    """As transformers has it without a cache: what is kept are the tokens, all of which are read in every step.

    Rows are padded on the left.
    """
    return _trace(_Rereading(model, "input_ids"), model, "input_ids", Reading(), new=3)


def looks_ahead(model: Any) -> Literal["images", "prompts"] | None:
    """What tokens attend to all of even where it follows: images, prompts or nothing. Seen by running the model."""
    kinds = kinds_of_tokens(model)
    if kinds is None:
        return None
    ids = torch.arange(4)[None]
    ahead = []
    for types in (torch.zeros_like(ids), torch.ones_like(ids)):
        with torch.no_grad():
            alone, among = (
                model(**{"input_ids": ids[:, :length], kinds: types[:, :length]}).logits[0, 0] for length in (1, 4)
            )
        ahead.append(not torch.allclose(alone, among, rtol=1e-4, atol=1e-5))
    return "prompts" if ahead[0] else "images" if ahead[1] else None


def kinds_of_tokens(model: Any) -> str | None:
    """By which name a model takes which tokens stand for images, where that may tell what they attend to."""
    if "token_type_ids" in parameters_of(model):
        return "token_type_ids"
    seen = getattr(model.config.get_text_config(), "use_bidirectional_attention", None) == "vision"
    return "mm_token_type_ids" if seen else None


def added_inputs(model: Any) -> tuple[int, int] | None:
    """The shape, (layers, size), of what tokens add in each layer beside their embeddings; None where it is nothing."""
    text = model.config.get_text_config()
    size = getattr(text, "hidden_size_per_layer_input", None) if PER_LAYER in parameters_of(model) else None
    return (text.num_hidden_layers, size) if size else None


def added_layers(model: Any) -> int:
    """How many layers' features of images are added to the decoder's states after its first layers."""
    vision = getattr(model.config, "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or [])


def _in_three_dimensions(model: Any) -> bool:
    """Whether a token's position is one in time, one in height and one in width."""
    return "mrope_section" in (getattr(model.config.get_text_config(), "rope_parameters", None) or {})


class _Embeddings(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        return tuple(embedded(self.model, input_ids).values())


class _Decoder(nn.Module):
    def __init__(self, model: Any, tokens: Tokens) -> None:
        super().__init__()
        self.model, self.tokens, self.takes = model, tokens, set(parameters_of(model))
        self.ahead, self.first, self.layers = None, reserved_positions(model), 0
        if tokens == "inputs_embeds":
            self.ahead, self.first, self.layers = looks_ahead(model), _first_position(model), added_layers(model)

    def _run(self, tokens: Tensor, attention_mask: Tensor, more: dict[str, Tensor], **cache: Any) -> Any:
        inputs: dict[str, Any] = {self.tokens: tokens, **more}
        if "position_ids" in self.takes and "position_ids" not in more:
            inputs["position_ids"] = _positions(attention_mask, tokens.shape[1]) + self.first
        if not self.layers:
            with _placed(self.model, attention_mask) if "position_ids" not in self.takes else nullcontext():
                return self.model(**inputs, **cache)
        own, *added = tokens.chunk(1 + self.layers, 2)
        decoder = self.model.get_decoder()

        def add(_module: nn.Module, arguments: Any, given: dict[str, Any]) -> Any:
            return arguments, given | {"deepstack_visual_embeds": added}

        with (
            decoder.register_forward_pre_hook(add, with_kwargs=True),
            patch.object(decoder, "_deepstack_process", lambda states, _places, features: states + features),
        ):
            return self.model(**inputs | {self.tokens: own}, **cache)


class _FusedDecoder(_Decoder):
    def __init__(self, model: Any, tokens: Tokens, lowering: Lowering) -> None:
        super().__init__(model, tokens)
        self.lowering = lowering

    def forward(
        self, tokens: Tensor, attention_mask: Tensor, more: dict[str, Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        pairs = list(zip(past[::2], past[1::2], strict=True))
        self.lowering.begin(attention_mask, pairs)
        output = self._run(tokens, attention_mask, more, use_cache=False)
        if len(self.lowering.present) != len(pairs):
            count = len(self.lowering.present)
            raise NotLowered(f"{count} of {len(pairs)} layers use transformers' attention interface")
        return output.logits, [tensor for pair in self.lowering.present for tensor in pair]


class _PlainDecoder(_Decoder):
    def __init__(self, model: Any, tokens: Tokens, states: States) -> None:
        super().__init__(model, tokens)
        self.states = states

    def forward(
        self, tokens: Tensor, attention_mask: Tensor, more: dict[str, Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        cache, length = self.states.filled(past), past[0].shape[2]
        more = dict(more)
        if self.ahead == "images":
            kinds = nn.functional.pad(more.pop("token_type_ids"), (length, 0))
            more[kinds_of_tokens(self.model) or ""] = kinds
        elif self.ahead == "prompts":  # the first step's tokens
            cache = _FirstStep(zip(past[::2], past[1::2], strict=True))
            later = (attention_mask.new_ones(length).sum() > 0).to(torch.int64)
            more["token_type_ids"] = later.expand(tokens.shape[0], length + tokens.shape[1])
        if "attention_mask" in self.takes:
            more["attention_mask"] = attention_mask
        output = self._run(tokens, attention_mask, more, **{self.states.argument: cache}, use_cache=True)
        return output.logits, self.states.tensors(cache)


class _OneStep(_PlainDecoder):
    """One token, which leaves states as they are where it is padding.

    So a model that keeps states alone needs no mask, and those that expect one of the new tokens' length get none.
    """

    def __init__(self, model: Any, tokens: Tokens, states: States) -> None:
        super().__init__(model, tokens, states)
        if not any(kept.grows for kept in states.kept):
            self.takes.discard("attention_mask")

    def forward(
        self, tokens: Tensor, attention_mask: Tensor, more: dict[str, Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        logits, present = super().forward(tokens, attention_mask, more, past)
        real = attention_mask[:, -1].bool()
        kept = [
            new if kept.grows else torch.where(real.reshape(-1, *[1] * len(kept.shape)), new, old)
            for kept, new, old in zip(self.states.kept, present, past, strict=True)
        ]
        return logits, kept


class _Rereading(_Decoder):
    def forward(
        self, tokens: Tensor, attention_mask: Tensor, more: dict[str, Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        reading = Reading()
        ids = torch.cat([reading.ids(past), tokens], 1)
        if "attention_mask" in self.takes:
            more = {**more, "attention_mask": attention_mask}
        logits = self._run(ids, attention_mask, more).logits
        return logits[:, -tokens.shape[1] :], reading.tensors(ids)


class _FirstStep(DynamicCache):  # type: ignore[misc]
    """A cache that may be empty yet, so that a model goes on asking which tokens may look ahead."""

    is_initialized = False


def _first_position(model: Any) -> int:
    """What a model counts positions from."""
    ids = torch.ones(1, 2, dtype=torch.int64)
    given = model.prepare_inputs_for_generation(ids, attention_mask=ids, position_ids=torch.arange(2)[None])
    positions = given.get("position_ids")  # some leave them to a later part
    return 0 if positions is None else int(positions[..., 0].max())


@contextmanager
def _placed(model: nn.Module, attention_mask: Tensor) -> Iterator[None]:
    """Tell the tables of positions where tokens stand among the real ones: BART's and its kin would count padding."""

    def embed(forward: Any, ids: Any, *given: Any, **named: Any) -> Any:
        length = ids.shape[1] if isinstance(ids, Tensor) else ids[1]
        found = forward(ids, *given, **named | {"position_ids": _positions(attention_mask, length)})
        return found[0] if found.ndim == 4 else found  # of those that add an axis for the batch

    with ExitStack() as stack:
        for module in model.modules():
            if {"past_key_values_length", "position_ids"} <= set(parameters_of(module)):
                stack.enter_context(patch.object(module, "forward", partial(embed, module.forward)))
        yield


def _positions(attention_mask: Tensor, length: int) -> Tensor:
    """Position of each new token among the real ones of its row."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -length:]


def _trace(module: nn.Module, model: Any, tokens: Tokens, states: Keeping, *, new: int) -> ir.Model:
    """Trace a module that takes that many new tokens, or any number of them where it is more than one."""
    given = torch.ones(2, new, dtype=torch.int64)
    axes: dict[str, tuple[int | str, ...]] = {tokens: (BATCH, SEQUENCE), "attention_mask": (BATCH, TOTAL)}
    if tokens == "inputs_embeds":
        with torch.no_grad():
            given = model.get_input_embeddings()(given).repeat(1, 1, 1 + added_layers(model))
        axes[tokens] = (BATCH, SEQUENCE, given.shape[2])
    mask = torch.ones(2, 4 + new, dtype=torch.int64)
    mask[1, -1] = 0
    more: dict[str, Tensor] = {}
    if tokens == "inputs_embeds" and _in_three_dimensions(model):
        more["position_ids"] = torch.arange(4, 4 + new).expand(3, 2, new).contiguous()
        axes["position_ids"] = (3, BATCH, SEQUENCE)
    if tokens == "inputs_embeds" and (added := added_inputs(model)):
        more[PER_LAYER] = torch.zeros(2, new, *added)
        axes[PER_LAYER] = (BATCH, SEQUENCE, *added)
    if tokens == "inputs_embeds" and looks_ahead(model) == "images":
        more["token_type_ids"] = torch.tensor([[0, 1, 1], [1, 1, 0]])
        axes["token_type_ids"] = (BATCH, SEQUENCE)
    batch = Dim(BATCH)
    dynamic = {
        "tokens": {0: batch} if new == 1 else {0: batch, 1: Dim.DYNAMIC},
        "attention_mask": {0: batch, 1: Dim.DYNAMIC},
        "more": {
            name: {
                at: batch if axis == BATCH else Dim.DYNAMIC
                for at, axis in enumerate(axes[name])
                if isinstance(axis, str) and (axis, new) != (SEQUENCE, 1)
            }
            for name in more
        },
        "past": [{0: batch, 2: Dim.DYNAMIC} if kept.grows else {0: batch} for kept in states.kept],
    }
    graph = convert(
        module,
        {"tokens": given, "attention_mask": mask, "more": more, "past": states.zeros(2, 4)},
        dynamic,
        [tokens, "attention_mask", *more, *(kept.past for kept in states.kept)],
        ["logits", *(kept.present for kept in states.kept)],
    )
    return name_axes(graph, axes | states.axes())
