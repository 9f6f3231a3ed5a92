"""A decoder that sees images to three graphs: the images' features, the tokens' embeddings, and the decoder over both.

One that hears too has a fourth, of sounds' features. Whoever runs them puts features in the places of the tokens that
stand for them. Knows no architecture.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim

from wherry_exporter.audio_language import traced_audio
from wherry_exporter.convert import Traced, convert, name_axes
from wherry_exporter.decoder import embeddings_of, fused_decoder, plain_decoder, stepwise_decoder
from wherry_exporter.grids import Packing, packed_images
from wherry_exporter.images import (
    features_of,
    image_axes,
    image_inputs,
    image_parameters,
    joined,
    takes_other_sizes,
    takes_tiles,
    tiles_as_they_are,
)
from wherry_exporter.inputs import BATCH, FIXED, parameters_of
from wherry_exporter.load import Checkpoint
from wherry_exporter.lower import Lowering, NotLowered, lowered
from wherry_exporter.pair import fused_encoder_and_decoder, plain_encoder_and_decoder
from wherry_exporter.stretched import stretched
from wherry_exporter.tasks import has_encoder, hears


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

    def __init__(self, model: Any, last: nn.Module | None, lowering: Lowering | None) -> None:
        super().__init__()
        self.model, self.last, self.lowering = model, last, lowering
        self.takes = image_parameters(model)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.lowering:
            self.lowering.begin(None)
        size = tuple(inputs["pixel_values"].shape[2:])
        whole: dict[str, Any] = {"image_sizes": [size], "batch_num_images": [2]}  # more than one is not cut into tiles
        given = inputs | {name: value for name, value in whole.items() if name in self.takes}
        if self.last is None:
            with tiles_as_they_are(self.model, inputs["pixel_values"].shape[0]):
                return features_of(self.model, given)
        found: list[_Features] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> _Features:
            found.append(_Features(output))
            return found[0]

        with suppress(_Found), self.last.register_forward_hook(keep):
            self.model.get_image_features(**given)
        return found[0].features


class _PackedImages(nn.Module):
    """Images that come as patches to their features.

    A module behind the tower that is told grids is given all blocks of patches as the frames of one image, which
    computes the same, and in order: images have unlike rows. Others take what the tower gives as it is.
    """

    def __init__(self, model: Any, tower: Any, packing: Packing, last: nn.Module | None) -> None:
        super().__init__()
        self.tower, self.packing = tower, packing
        self.last = None if last in set(tower.modules()) else last
        self.merge = int(model.config.vision_config.spatial_merge_size)
        modules = (module for module in model.modules() if parameters_of(module)[1:] == ["image_grid_thw"])
        self.projector = next(modules, None)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        pixels, grids = inputs["pixel_values"], inputs["image_grid_thw"]
        output = self.tower(pixels if pixels.ndim == 2 else pixels[None], grid_thw=grids)
        if self.projector is not None:
            states = output.last_hidden_state[self.packing.in_blocks(grids, self.merge)]
            features: Tensor = self.projector(states, _Frames(states.shape[0] // self.merge**2, self.merge))
            return features
        if self.last is not None:
            projected: Tensor = self.last(output.pooler_output)
            return projected
        return torch.cat([output.pooler_output, *(getattr(output, "deepstack_features", None) or [])], -1)


@dataclass(frozen=True)
class _Frames:
    """As much of the grids of images as is asked of those of one of so many frames, each of a side squared."""

    count: Any
    side: int

    def prod(self, **_: int) -> "_Frames":
        return self

    def tolist(self) -> list[Any]:
        return [self.count * self.side**2]

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        yield self.count, self.side, self.side


class _FilledPatches(nn.Module):
    """Images that come as patches, filled up, to the features of blocks of patches, those of all images in a row.

    A block is projected as an image of its own, which computes the same, and in order: images have unlike rows.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.factor = int(model.config.downsample_factor)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        with stretched(self.tower):
            states: Tensor = self.tower(**inputs).last_hidden_state
        factor, (height, width) = self.factor, inputs["spatial_shapes"][:, :, None, None].unbind(1)
        block = torch.arange(states.shape[1] // factor**2)
        place = torch.arange(factor**2)
        across = width // factor
        row = block[:, None] // across * factor + place // factor
        column = block[:, None] % across * factor + place % factor
        real = block[:, None] < height * across // factor  # (images, blocks, 1)
        chosen = torch.where(real, row * width + column, 0).flatten(1)
        patches = states.gather(1, chosen[..., None].expand(-1, -1, states.shape[2]))
        blocks = patches.reshape(-1, factor, factor, states.shape[2])[real.flatten()]
        features: Tensor = self.projector(blocks)[:, 0, 0]
        return features


class _PlacedPatches(nn.Module):
    """Images as patches that tell where they are, filled up, to the features of blocks of patches, in a row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.embed_vision
        self.side = int(model.config.vision_config.pooling_kernel_size)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        with patch.object(self.tower.pooler, "_avg_pool_by_positions", self._pooled):
            states = self.tower(inputs["pixel_values"], inputs["image_position_ids"]).last_hidden_state
        features: Tensor = self.projector(inputs_embeds=states)
        return features

    def _pooled(self, states: Tensor, places: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The model's own pooling, for any number of patches: it finds the side of a block by a root."""
        column, row = places.clamp(min=0).unbind(2)
        across = (column.amax(1, keepdim=True) + 1) // self.side
        block = column // self.side + across * (row // self.side)
        within = (block[:, None] == torch.arange(length)[:, None]).to(states.dtype)  # (images, blocks, patches)
        return within @ states / self.side**2, within.any(2)


def _last_layer(model: Any, inputs: Mapping[str, Tensor]) -> nn.Module | None:
    """The module whose output is the features of all images; None where more is done to them."""
    outputs: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output))

    with torch.no_grad(), ExitStack() as hooks:
        for module in model.modules():
            hooks.enter_context(module.register_forward_hook(keep))
        features = features_of(model, inputs)
    for module, output in reversed(outputs):
        if output.numel() == features.numel() and torch.equal(output.reshape(features.shape), features):
            return module
    return None


DECODERS = {"fused": fused_decoder, "plain": plain_decoder, "stepwise": stepwise_decoder}


def _trace(checkpoint: Checkpoint, *, fused_vision: bool, text: Literal["fused", "plain", "stepwise"]) -> Traced:
    model: Any = checkpoint.model
    images = _images(model)
    if fused_vision and set(images) != {"pixel_values"}:
        raise NotLowered("attention to images takes more than their pixels")
    encoder_decoder = has_encoder(model)
    if encoder_decoder and text == "stepwise":
        raise NotLowered("its decoder stands behind an encoder")
    if encoder_decoder:
        graphs = dict((fused_encoder_and_decoder if text == "fused" else plain_encoder_and_decoder)(checkpoint).graphs)
    else:
        graphs = {"decoder_model_merged": DECODERS[text](model, "inputs_embeds")}
    if hears(model):
        graphs["audio_encoder"] = traced_audio(model)
    graphs = {
        "vision_encoder": (_fused_vision if fused_vision else _plain_vision)(model, images),
        "embed_tokens": embeddings_of(model),
        **graphs,
    }
    return Traced(graphs, padding_side="right" if text == "fused" or encoder_decoder else "left")


def _fused_vision(model: Any, images: dict[str, Tensor]) -> ir.Model:
    last = None if takes_tiles(model) else _last_layer(model, images)
    with lowered(model, decoder=False) as lowering:
        vision = _trace_vision(model, _VisionEncoder(model, last, lowering), images)
        if not lowering.calls:
            raise NotLowered("no layer for images uses transformers' attention interface")
    return vision


def _plain_vision(model: Any, images: dict[str, Tensor]) -> ir.Model:
    if "image_grid_thw" in images:
        last = _last_layer(model, images)
        with packed_images(model) as (tower, packing):
            return _trace_vision(model, _PackedImages(model, tower, packing, last), images)
    if "spatial_shapes" in images:
        return _trace_vision(model, _FilledPatches(model), images)
    if "image_position_ids" in images:
        return _trace_vision(model, _PlacedPatches(model), images)
    module = _VisionEncoder(model, None if takes_tiles(model) else _last_layer(model, images), None)
    if "image_sizes" in images:  # a loop over images
        images = {"pixel_values": images["pixel_values"][:1]}
    return _trace_vision(model, module, images)


def _images(model: Any) -> dict[str, Tensor]:
    """Images to trace with: of another size than the configuration's where the model allows it."""
    images = joined(image_inputs(model, rows=2, seed=0, scale=2 if takes_other_sizes(model) else 1))
    return {"pixel_values": images["pixel_values"]} if takes_tiles(model) else images


def _trace_vision(model: Any, module: nn.Module, inputs: dict[str, Tensor]) -> ir.Model:
    axes: dict[str, Sequence[int | str]] = dict(image_axes(inputs))
    if len(inputs["pixel_values"]) == 1:
        axes["pixel_values"] = (1, *axes["pixel_values"][1:])
    sized = takes_other_sizes(model)
    shapes: dict[str, dict[int, Any]] = {}
    for name in inputs:
        free = ("num_images", "num_patches", "qformer_sequence_length", *(("height", "width") if sized else ()))
        shapes[name] = {at: Dim.AUTO for at, axis in enumerate(axes[name]) if axis in free and axis not in FIXED}
        if axes[name][0] == BATCH and len(inputs[name]) > 1:
            shapes[name][0] = Dim(BATCH)
    graph = convert(module, {"inputs": inputs}, {"inputs": shapes}, list(inputs), ["image_features"])
    axes["image_features"] = ("num_features", *(str(dim) for dim in list(graph.graph.outputs[0].shape or ())[1:]))
    name_axes(graph, axes)
    known: dict[str, str | None] = {"image_position_ids": "pixel_position_ids"}
    if model.config.model_type == "qwen2_vl":
        known["image_grid_thw"] = "grid_thw"
    for value in graph.graph.inputs:
        value.name = known.get(str(value.name), value.name)
    return graph


VISION_LANGUAGE: Mapping[str, Callable[[Checkpoint], Traced]] = {
    "fused": partial(_trace, fused_vision=True, text="fused"),
    "fused decoder": partial(_trace, fused_vision=False, text="fused"),
    "fused encoder": partial(_trace, fused_vision=True, text="plain"),
    "plain": partial(_trace, fused_vision=False, text="plain"),
    "stepwise": partial(_trace, fused_vision=False, text="stepwise"),
}
