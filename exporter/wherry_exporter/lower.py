"""Swaps a transformers model's attention, rotary embedding and RMS norm for onnxruntime's fused operators.

While `lowered` is open, tracing the model emits `GroupQueryAttention` (decoders, with past_key_values),
`MultiHeadAttention` (encoders) and `SimplifiedLayerNormalization` as single nodes, so no graph pattern has to be
recognized afterwards and the trace is several times shorter. It works on any architecture that goes through
transformers' attention interface; `NotLowered` tells of those that don't. Nothing here knows a model by name.

Operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic, symbolic_multi_out
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from wherry_exporter.convert import OPSET
from wherry_exporter.inputs import parameters_of

NAME = "wherry_onnxruntime"


class NotLowered(Exception):
    """This architecture does something with attention that the fused operators cannot express."""


@dataclass
class Lowering:
    """What the swapped modules share during one trace.

    Attributes:
        attention_mask: (batch, total_sequence) int64; 1 for a token, 0 for padding.
        patch_mask: (batch, patches) int64, the same of an image's patches where some are padding.
        past: per layer, key and value of shape (batch, kv_heads, past_sequence, head_size); empty for encoders.
        present: per layer, what the traced attention returned as the new key and value.
        seqlens_k: (batch,) int32, number of valid tokens per row minus one.
        total: () int32, total_sequence.
        rotary: cosine and sine tables, (max_position, rotary_size / 2), when the layer at hand asked for rotation.
        interleaved: whether rotation pairs neighbouring elements instead of halves.
        calls: how many layers attend.
        keys: of the new tokens, by the layers that keep them.
    """

    attention_mask: Tensor | None = None
    patch_mask: Tensor | None = None
    past: Sequence[tuple[Tensor, Tensor]] = ()
    present: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    seqlens_k: Tensor | None = None
    total: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    interleaved: bool = False
    calls: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)

    def begin(
        self,
        attention_mask: Tensor | None,
        past: Sequence[tuple[Tensor, Tensor]] = (),
        patch_mask: Tensor | None = None,
    ) -> None:
        """Start one traced forward."""
        self.attention_mask, self.patch_mask = attention_mask, patch_mask
        self.past, self.present, self.calls, self.keys = past, [], 0, {}
        if past:
            assert attention_mask is not None
            self.seqlens_k = (attention_mask.sum(1) - 1).to(torch.int32)
            shape = symbolic(
                "Shape", [attention_mask], {"start": 1, "end": 2}, dtype=torch.int64, shape=[1], version=OPSET
            )
            total = symbolic("Squeeze", [shape], {}, dtype=torch.int64, shape=[], version=OPSET)
            self.total = symbolic("Cast", [total], {"to": 6}, dtype=torch.int32, shape=[], version=OPSET)

    def attention(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """transformers' attention interface.

        Takes (batch, heads, sequence, head_size), gives (batch, sequence, heads, head_size) and no weights.
        """
        unknown = [
            name
            for name, given in options.items()
            if name not in ("dropout", "sliding_window", "softcap", "is_causal", "output_attentions", "use_cache")
            and isinstance(given, Tensor)
            and name != "position_ids"
        ]
        if unknown or attention_mask is not None:
            raise NotLowered(f"attention takes {', '.join(unknown) or 'a mask of its own'}")
        self.calls += 1
        batch, heads, length, size = query.shape
        if self.past and size % 8:
            raise NotLowered(f"attention heads of size {size}, which is no multiple of 8")
        kv_heads = key.shape[1]

        def flat(states: Tensor) -> Tensor:
            return states.transpose(1, 2).reshape(batch, states.shape[2], states.shape[1] * size)

        attributes: dict[str, Any] = {"num_heads": heads}
        if scaling is not None:
            attributes["scale"] = float(scaling)
        inputs: list[Tensor | None] = [flat(query), flat(key), flat(value)]
        if not self.past:
            if options.get("sliding_window") or options.get("softcap") or heads != kv_heads:
                raise NotLowered("an encoder with windowed, capped or grouped attention")
            if options.get("is_causal", getattr(module, "is_causal", False)):
                attributes["unidirectional"] = 1
            masks = (self.attention_mask, self.patch_mask)  # of the text, and of images, which may have none
            mask = next((each for each in masks if each is not None and each.shape == (batch, length)), None)
            output = symbolic(
                "com.microsoft::MultiHeadAttention",
                [*inputs, None, mask.to(torch.int32)] if mask is not None else inputs,
                attributes,
                dtype=query.dtype,
                shape=[batch, length, heads * size],
                version=1,
            )
            return output.reshape(batch, length, heads, size), None

        assert self.attention_mask is not None
        layer = next((at for at, known in self.keys.items() if known is key), module.layer_idx)
        past_key, past_value = self.past[layer]
        inputs += [past_key, past_value, self.seqlens_k, self.total]
        attributes["kv_num_heads"] = kv_heads
        if options.get("sliding_window"):
            attributes["local_window_size"] = int(options["sliding_window"])
        if options.get("softcap"):
            attributes["softcap"] = float(options["softcap"])
        if self.rotary is not None:
            attributes |= {"do_rotary": 1, "rotary_interleaved": int(self.interleaved)}
            inputs += self.rotary
            self.rotary = None  # a layer without rotation may follow
        cache = [batch, kv_heads, self.attention_mask.shape[1], size]
        output, present_key, present_value = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            inputs,
            attributes,
            dtypes=[query.dtype] * 3,
            shapes=[[batch, length, heads * size], cache, cache],
            version=1,
        )
        if layer not in self.keys:  # others attend to what that layer keeps
            self.present.append((present_key, present_value))
            self.keys[layer] = key
        return output.reshape(batch, length, heads, size), None


@contextmanager
def lowered(model: PreTrainedModel, *, decoder: bool, rotary: bool = True) -> Iterator[Lowering]:
    """Swap the model's modules for the time of a trace, and put everything back afterwards.

    Without `rotary` a decoder's rotation stays as it is.
    """
    state = Lowering()
    if not model._supports_attention_backend and not model._supports_sdpa:
        raise NotLowered(f"{type(model).__name__} does not use transformers' attention interface")
    with ExitStack() as stack:
        ALL_ATTENTION_FUNCTIONS.register(NAME, state.attention)
        for module in model.modules():  # which may each have another one
            config = getattr(module, "config", None)
            if isinstance(config, PreTrainedConfig):
                stack.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation)
                if any(isinstance(inner, nn.MultiheadAttention) for inner in module.children()):
                    # torch's own attention goes on taking the masks that this asks for
                    stack.enter_context(patch.object(module, "config", copy(config)))
        model.set_attn_implementation(NAME)
        for module in model.modules():
            if isinstance(module, Conv1D):
                stack.enter_context(patch.object(module, "forward", _linear(module)))
            elif isinstance(module, NewGELUActivation):
                stack.enter_context(patch.object(module, "forward", _tanh_gelu))
            elif type(module).__name__.endswith("RMSNorm") and (norm := _rms_norm(module)):
                stack.enter_context(patch.object(module, "forward", norm))
        if decoder and rotary:
            _lower_rotary(model, state, stack)
        yield state


def _linear(module: Conv1D) -> Any:
    """GPT-2's Conv1D as MatMul and Add on the three axes there are, rather than a reshape to two and a Gemm."""
    return lambda states: torch.matmul(states, module.weight) + module.bias


def _tanh_gelu(states: Tensor) -> Tensor:
    return nn.functional.gelu(states, approximate="tanh")


def _rms_norm(module: nn.Module) -> Any:
    """SimplifiedLayerNormalization in place of a module that a trial shows to compute just that."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or epsilon is None:
        return None
    trial = torch.randn(3, weight.shape[0], generator=torch.Generator().manual_seed(0))
    normed = trial * torch.rsqrt(trial.pow(2).mean(-1, keepdim=True) + epsilon)
    with torch.no_grad():
        expected = module(trial)
        for scale in (weight, 1.0 + weight):  # Gemma keeps the scale's distance from one
            if torch.allclose(normed * scale, expected, rtol=1e-5, atol=1e-6):
                break
        else:
            return None
    scale = nn.Parameter(scale.detach().clone(), requires_grad=False)

    def forward(states: Tensor) -> Tensor:
        return symbolic(
            "SimplifiedLayerNormalization",
            [states, scale],
            {"axis": -1, "epsilon": float(epsilon), "stash_type": 1},
            dtype=states.dtype,
            shape=states.shape,
            version=1,
        )

    return forward


def _lower_rotary(model: PreTrainedModel, state: Lowering, stack: ExitStack) -> None:
    """Leave rotation to GroupQueryAttention where it is the usual kind with tables that depend on position alone."""
    decoder: Any = model.get_decoder()
    tables = [module for module in decoder.modules() if type(module).__name__.endswith("RotaryEmbedding")]
    source = sys.modules[type(decoder).__module__]
    apply = getattr(source, "apply_rotary_pos_emb", None)
    if apply is None or len(tables) != 1 or len(parameters_of(tables[0])) > 2:  # more than states and positions
        return
    table: Any = tables[0]
    rope = getattr(table, "rope_type", "default")
    positions = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0))
    config: Any = model.config.get_text_config()
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if rope in ("dynamic", "longrope") or not positions or size % 16:  # GroupQueryAttention rotates no other sizes
        return
    interleaved = _is_interleaved(apply)
    if interleaved is None:
        return
    with torch.no_grad():
        cosine, sine = table(torch.zeros(1, 1, 1), torch.arange(positions)[None])
    cosine, sine = cosine[0], sine[0]
    half = cosine.shape[-1] // 2
    if half % 8:
        return
    pick = slice(0, None, 2) if interleaved else slice(0, half)
    rotary = (cosine[:, pick].clone(), sine[:, pick].clone())

    def swapped(query: Tensor, key: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        state.rotary, state.interleaved = rotary, interleaved
        return query, key

    stack.enter_context(patch.object(source, "apply_rotary_pos_emb", swapped))
    stack.enter_context(patch.object(table, "forward", lambda *_, **__: rotary))


def _is_interleaved(apply: Any) -> bool | None:
    """Whether a rotation pairs neighbours (True) or halves (False), by trial; None if it is another kind."""
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 3, 8, generator=random) for _ in range(2))
    angles = torch.outer(torch.arange(3.0), torch.tensor([1.0, 0.5, 0.25, 0.125]))
    for interleaved in (False, True):
        full = angles.repeat_interleave(2, -1) if interleaved else torch.cat([angles, angles], -1)
        if interleaved:
            turned = torch.stack([-query[..., 1::2], query[..., ::2]], -1).flatten(-2)
        else:
            turned = torch.cat([-query[..., 4:], query[..., :4]], -1)
        expected = query * full.cos() + turned * full.sin()
        try:
            rotated, _ = apply(query, key, full.cos()[None], full.sin()[None])
        except (TypeError, ValueError, RuntimeError):
            return None
        if rotated.shape == expected.shape and torch.allclose(rotated, expected, atol=1e-5):
            return interleaved
    return None
