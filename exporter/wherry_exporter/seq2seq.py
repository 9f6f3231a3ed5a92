"""What decoders behind an encoder take and give in a step, and models that are such a pair without saying so.

Knows nothing of graphs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from wherry_exporter.inputs import BATCH, SEQUENCE
from wherry_exporter.tasks import is_captioner


class Step(Protocol):
    """One step of a decoder over its cache and the encoder's states.

    Attributes:
        inputs: what it takes beside those, for a batch of two.
        axes: of what it takes and, where they tell something, of what it gives.
        outputs: the names of what it gives.
    """

    inputs: Mapping[str, Tensor]
    axes: Mapping[str, tuple[int | str, ...]]
    outputs: Sequence[str]

    def __call__(
        self, inputs: Mapping[str, Tensor], states: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, ...]: ...


class TokenStep:
    """Tokens to logits."""

    axes: Mapping[str, tuple[int | str, ...]] = {"input_ids": (BATCH, SEQUENCE)}
    outputs: Sequence[str] = ("logits",)

    def __init__(self, model: Any) -> None:
        self.model = model
        self.inputs: Mapping[str, Tensor] = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}

    def __call__(
        self, inputs: Mapping[str, Tensor], states: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, ...]:
        output = self.model(
            decoder_input_ids=inputs["input_ids"],
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            past_key_values=cache,
            use_cache=True,
            **({} if mask is None else {"attention_mask": mask}),
        )
        return (output.logits,)


def encoder_decoder_of(model: Any) -> Any:
    """The model itself, or one that takes and gives what an encoder-decoder model of transformers does."""
    return _Captioner(model) if is_captioner(model) else model


def start_token(model: Any) -> int:
    """The token that every generated text starts with."""
    for settings, name in (
        (model.config, "decoder_start_token_id"),
        (model.generation_config, "decoder_start_token_id"),
        (model.config.get_text_config(), "bos_token_id"),
    ):
        if getattr(settings, name, None) is not None:
            return int(getattr(settings, name))
    return 0


class _Captioner(nn.Module):
    main_input_name = "pixel_values"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.text_decoder = model.vision_model, model.text_decoder
        self.config, self.generation_config = model.config, model.generation_config

    def get_encoder(self) -> Any:
        return self.vision_model

    def forward(
        self, pixel_values: Any = None, decoder_input_ids: Any = None, encoder_outputs: Any = None, **cache: Any
    ) -> Any:
        states = self.vision_model(pixel_values).last_hidden_state if encoder_outputs is None else encoder_outputs[0]
        output = self.text_decoder(input_ids=decoder_input_ids, encoder_hidden_states=states, **cache)
        output.encoder_last_hidden_state = states
        return output
