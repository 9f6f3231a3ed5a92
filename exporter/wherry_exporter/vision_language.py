"""A decoder that sees images to three graphs: the images' features, the tokens' embeddings, and the decoder over both.

Whoever runs them puts the features in the places of the image tokens. Knows no architecture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.decoder import fused_decoder, plain_decoder
from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import BATCH, IMAGE_AXES, SEQUENCE, parameters_of, random_inputs
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import Lowering, NotLowered, lowered


def image_inputs(model: Any, *, rows: int, seed: int) -> dict[str, Tensor]:
    """Images for that many rows of text, of the size that the configuration names.

    A model that takes a mask of pixels takes several images a row: here two, which are padding in part. All but the
    first row's second image are zeros, which is how such a model knows that there is none.
    """
    if "pixel_attention_mask" not in parameters_of(model):
        return random_inputs(model, ["pixel_values"], batch=rows, scale=1, seed=seed)
    images = random_inputs(model, ["pixel_values"], batch=2 * rows, scale=1, seed=seed)["pixel_values"]
    images = images.reshape(rows, 2, *images.shape[1:])
    images[1:, 1] = 0
    mask = torch.ones(rows, 2, *images.shape[3:], dtype=torch.bool)
    mask[:, 0, :, 3 * images.shape[4] // 4 :] = False
    return {"pixel_values": images, "pixel_attention_mask": mask}


def image_axes(values: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """The names of the axes of images."""
    if "pixel_attention_mask" not in values:
        return {"pixel_values": IMAGE_AXES}
    several = (BATCH, "num_images")
    return {"pixel_values": (*several, *IMAGE_AXES[1:]), "pixel_attention_mask": (*several, *IMAGE_AXES[2:])}


class _Found(Exception):
    """Ends a forward pass that has come to what is wanted of it."""


class _Features:
    """The features of all images; to do anything with them ends the forward pass."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __iter__(self) -> Iterator[Tensor]:
        raise _Found

    def __getattr__(self, name: str) -> Any:
        raise _Found


class _VisionEncoder(nn.Module):
    """Images to their features, as the last layer gives them, before they are cut into one tensor per row of text."""

    def __init__(self, model: Any, last: nn.Module, lowering: Lowering | None) -> None:
        super().__init__()
        self.model, self.last, self.lowering = model, last, lowering

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.lowering:
            self.lowering.begin(None)
        found: list[_Features] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> _Features:
            found.append(_Features(output))
            return found[0]

        with suppress(_Found), self.last.register_forward_hook(keep):
            self.model.get_image_features(**inputs)
        return found[0].features


def _last_layer(model: Any, inputs: Mapping[str, Tensor]) -> nn.Module:
    """The module whose output is the features of all images."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append((module, output))

    with torch.no_grad(), ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(keep))
        rows = model.get_image_features(**inputs).pooler_output
    features = torch.cat([row.flatten(0, -2) for row in rows])
    for module, output in reversed(outputs):
        same_size = isinstance(output, Tensor) and output.numel() == features.numel()
        if same_size and torch.equal(output.reshape(features.shape), features):
            return module
    raise ExportError("no layer gives the images' features as they are")


class _Embeddings(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Tensor:
        embeddings: Tensor = self.embeddings(input_ids)
        return embeddings


def _trace(checkpoint: Checkpoint, *, fused_vision: bool, fused_text: bool) -> Traced:
    model: Any = checkpoint.model
    if not hasattr(model, "get_image_features"):
        raise ExportError("it tells no features of images from its decoder")
    inputs = image_inputs(model, rows=2, seed=0)
    last = _last_layer(model, inputs)
    if fused_vision and "pixel_attention_mask" in inputs:
        raise NotLowered("attention to an image's pixels takes a mask")
    if fused_vision:
        with lowered(model, decoder=False) as lowering:
            vision = _trace_vision(_VisionEncoder(model, last, lowering), inputs)
            if not lowering.calls:
                raise NotLowered("no layer for images uses transformers' attention interface")
    else:
        vision = _trace_vision(_VisionEncoder(model, last, None), inputs)
    embeddings = convert(
        _Embeddings(model),
        {"input_ids": torch.ones(2, 3, dtype=torch.int64)},
        {"input_ids": {0: Dim(BATCH), 1: Dim.DYNAMIC}},
        ["input_ids"],
        ["inputs_embeds"],
    )
    graphs = {
        "vision_encoder": vision,
        "embed_tokens": name_axes(embeddings, {"input_ids": (BATCH, SEQUENCE)}),
        "decoder_model_merged": (fused_decoder if fused_text else plain_decoder)(model, "inputs_embeds"),
    }
    return Traced(graphs, padding_side="right" if fused_text else "left")


def _trace_vision(module: nn.Module, inputs: dict[str, Tensor]) -> ir.Model:
    axes: dict[str, Sequence[int | str]] = dict(image_axes(inputs))
    free = {name: {at: Dim.AUTO for at, axis in enumerate(axes[name]) if axis == "num_images"} for name in inputs}
    shapes = {name: {0: Dim(BATCH), **free[name]} for name in inputs}
    graph = convert(module, {"inputs": inputs}, {"inputs": shapes}, list(inputs), ["image_features"])
    axes["image_features"] = ("num_features", *(str(dim) for dim in list(graph.graph.outputs[0].shape or ())[1:]))
    return name_axes(graph, axes)


VISION_LANGUAGE: Mapping[str, Callable[[Checkpoint], Traced]] = {
    "fused": partial(_trace, fused_vision=True, fused_text=True),
    "fused decoder": partial(_trace, fused_vision=False, fused_text=True),
    "plain": partial(_trace, fused_vision=False, fused_text=False),
}
