"""A decoder that hears sounds to three graphs: the sounds' features, the tokens' embeddings, and the decoder over both.

Whoever runs them puts the features in the places of the audio tokens. Knows no architecture.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import onnx_ir as ir
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.decoder import embeddings_of, fused_decoder, plain_decoder
from wherry_exporter.images import joined
from wherry_exporter.inputs import BATCH
from wherry_exporter.load import Checkpoint
from wherry_exporter.packed import packed_sounds
from wherry_exporter.sounds import FRAMES, features_heard, graph_name, sound_axes, sound_inputs, takes_other_lengths


class _AudioEncoder(nn.Module):
    """Sounds to the features of all of them, in a row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return features_heard(self.model, inputs)


def _trace(checkpoint: Checkpoint, *, fused: bool) -> Traced:
    model: Any = checkpoint.model
    decoder = (fused_decoder if fused else plain_decoder)(model, "inputs_embeds")
    graphs = {
        "audio_encoder": traced_audio(model),
        "embed_tokens": embeddings_of(model),
        "decoder_model_merged": decoder,
    }
    return Traced(graphs, padding_side="right" if fused else "left")


def traced_audio(model: Any) -> ir.Model:
    """The graph of sounds' features."""
    inputs, axes = joined(sound_inputs(model, rows=2, seed=0, scale=2)), sound_axes(model)
    free = {BATCH: Dim(BATCH)} | ({FRAMES: Dim.AUTO} if takes_other_lengths(model) else {})
    shapes = {
        name: {at: free[axis] for at, axis in enumerate(axes[name]) if isinstance(axis, str) and axis in free}
        for name in inputs
    }
    with packed_sounds(model):
        graph = convert(_AudioEncoder(model), {"inputs": inputs}, {"inputs": shapes}, list(inputs), ["audio_features"])
    size = list(graph.graph.outputs[0].shape or ())[-1]
    name_axes(graph, {**axes, "audio_features": ("num_features", str(size))})
    for value in graph.graph.inputs:
        value.name = graph_name(model, str(value.name))
    return graph


AUDIO_LANGUAGE: Mapping[str, Callable[[Checkpoint], Traced]] = {
    "fused": partial(_trace, fused=True),
    "plain": partial(_trace, fused=False),
}
