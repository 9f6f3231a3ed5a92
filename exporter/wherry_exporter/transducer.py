"""A model that writes down what it hears frame by frame, with what it has written in view, to two graphs.

The encoder gives a state for every few frames of a sound. A step takes one of them and the last token that was written,
and gives the logits of the next token, or of none, and of how far to go on where the model says so (a transducer:
Graves, arXiv:1211.3711; with durations: Xu et al., arXiv:2304.06795).
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.inputs import BATCH, FRAMES, free_axes, random_inputs
from wherry_exporter.load import Checkpoint
from wherry_exporter.pair import ENCODER_SEQUENCE

STATES = ("past_hidden", "past_cell")
FEW = 24
"""States of a sound that steps are calibrated with."""


class Encoder(nn.Module):
    """A sound's features to states, (batch, states, size)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        states: Tensor = self.model.get_audio_features(**inputs).pooler_output
        return states


class Step(nn.Module):
    """One token and one state of the encoder, over what its recurrent layers kept, (batch, layers, size) each."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.lstm = next(module for module in model.decoder.modules() if isinstance(module, nn.LSTM))

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, past_hidden: Tensor, past_cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept: list[Tensor] = []
        given = tuple(each.transpose(0, 1).contiguous() for each in (past_hidden, past_cell))

        def recur(embeddings: Tensor, _states: Any = None) -> tuple[Tensor, Any]:
            output, states = nn.LSTM.forward(self.lstm, embeddings, given)  # type: ignore[arg-type]
            kept.extend(states)
            return output, states

        with patch.object(self.lstm, "forward", recur):
            logits = joined(self.model, encoder_hidden_states, input_ids).logits
        hidden, cell = (each.transpose(0, 1) for each in kept)
        return logits, hidden, cell


def joined(model: Any, states: Tensor, ids: Tensor, **cached: Any) -> Any:
    """What the model gives for one state of its encoder and one token, (batch, 1, size) and (batch, 1)."""
    rest = dict.fromkeys(("last_hidden_state", "hidden_states", "attentions", "attention_mask"))
    encoded = SimpleNamespace(pooler_output=states, **rest)
    return model(encoder_outputs=encoded, decoder_input_ids=ids, **cached)


def nothing_kept(model: Any, batch: int) -> dict[str, Tensor]:
    """What the recurrent layers keep before the first token."""
    lstm = Step(model).lstm
    return {name: torch.zeros(batch, lstm.num_layers, lstm.hidden_size) for name in STATES}


def some_steps(model: Any, entry: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A batch of what a step takes: states of a sound, and tokens of chance behind others."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        states = Encoder(model)({name: torch.from_numpy(value) for name, value in entry.items()})
        states = states.flatten(0, 1)[:FEW, None]
        before, ids = torch.randint(model.config.vocab_size, (2, len(states), 1), generator=random)
        _, *kept = Step(model)(before, states, **nothing_kept(model, len(states)))
    tensors = {"input_ids": ids, "encoder_hidden_states": states, **dict(zip(STATES, kept, strict=True))}
    return {name: value.numpy() for name, value in tensors.items()}


def sound_to_tokens(checkpoint: Checkpoint) -> Traced:
    model: Any = checkpoint.model
    shapes, inputs = free_axes(model.get_encoder(), ["input_features"])
    encoder = convert(
        Encoder(model), {"inputs": inputs}, {"inputs": shapes}, ["input_features"], ["encoder_hidden_states"]
    )
    bins = inputs["input_features"].shape[2]
    with torch.no_grad():
        states = Encoder(model)(random_inputs(model.get_encoder(), ["input_features"], batch=2, scale=1, seed=0))
    kept = nothing_kept(model, 2)
    size, layers, width = states.shape[2], *kept[STATES[0]].shape[1:]
    step = convert(
        Step(model),
        {"input_ids": torch.ones(2, 1, dtype=torch.int64), "encoder_hidden_states": states[:, :1], **kept},
        {name: {0: Dim(BATCH)} for name in ("input_ids", "encoder_hidden_states", *STATES)},
        ["input_ids", "encoder_hidden_states", *STATES],
        ["logits", "present_hidden", "present_cell"],
    )
    axes = dict.fromkeys(STATES, (BATCH, layers, width))
    return Traced(
        {
            "encoder_model": name_axes(
                encoder,
                {
                    "input_features": (BATCH, FRAMES[1], bins),
                    "encoder_hidden_states": (BATCH, ENCODER_SEQUENCE, size),
                },
            ),
            "decoder_joint": name_axes(
                step, {"input_ids": (BATCH, 1), "encoder_hidden_states": (BATCH, 1, size), **axes}
            ),
        }
    )
