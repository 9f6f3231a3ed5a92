"""Parts of a model that are models of their own: what embeds texts, images or sounds, and what is asked about an image.

Knows nothing of graphs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from wherry_exporter.codec import Coder, Sounder
from wherry_exporter.inputs import ASKED, image_places, image_size, parameters_of, random_inputs
from wherry_exporter.load import Checkpoint

LEVELS = "high_resolution_features"
"""What masks are decoded of besides, in models that embed an image at several resolutions."""
EARLY = "intermediate_embeddings"
"""The same in models that look at what their first layers that see all of an image make of it, such as SAM-HQ."""


class _Part(nn.Module):
    """What a part of a model gives by itself; says of its inputs what the whole model's configuration does."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config


class _TextTower(_Part):
    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.name = "text_embeds" if hasattr(model, "text_projection") else "pooler_output"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        output = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return {self.name: output.pooler_output, "last_hidden_state": output.last_hidden_state}


class _ImageTower(_Part):
    main_input_name = "pixel_values"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.name = "image_embeds" if hasattr(model, "visual_projection") else "pooler_output"

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        output = self.model.get_image_features(pixel_values=pixel_values)
        return {self.name: output.pooler_output, "last_hidden_state": output.last_hidden_state}


class _PatchTower(_ImageTower):
    """Of images that come as patches."""

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, pixel_attention_mask: Tensor, spatial_shapes: Tensor
    ) -> dict[str, Tensor]:
        output = self.model.get_image_features(
            pixel_values=pixel_values, pixel_attention_mask=pixel_attention_mask, spatial_shapes=spatial_shapes
        )
        return {self.name: output.pooler_output, "last_hidden_state": output.last_hidden_state}


class _CaptionTower(_Part):
    """Of texts about sounds: what is projected, not of length one yet, as `ClapTextModelWithProjection` has it."""

    main_input_name = "input_ids"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        output = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return {"text_embeds": self.model.text_projection(output.pooler_output)}


class _SoundTower(_Part):
    main_input_name = "input_features"

    def forward(self, input_features: Tensor, is_longer: Tensor | None = None) -> dict[str, Tensor]:
        output = self.model.audio_model(input_features=input_features, is_longer=is_longer)
        return {"audio_embeds": self.model.audio_projection(output.pooler_output)}


class _Queries(_Part):
    """What is asked for: a vector of length one for each token, as late interaction compares them."""

    main_input_name = "input_ids"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return self._embedded(input_ids, attention_mask)

    def _embedded(self, ids: Tensor, mask: Tensor, **more: Tensor) -> dict[str, Tensor]:
        """Each token attends to all that is real, which transformers forgets in a batch with padding unless told so."""
        kinds = torch.zeros_like(ids)
        return {"embeddings": self.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds, **more).embeddings}


class _Pages(_Queries):
    """What is searched: the same of an image and the words behind it."""

    main_input_name = "pixel_values"

    def forward(  # type: ignore[override]
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        return self._embedded(input_ids, attention_mask, pixel_values=pixel_values)


class _Embedder(_Part):
    """Of an image in which things are to be found by points on them."""

    main_input_name = "pixel_values"

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        places = self.model.get_image_wide_positional_embeddings()
        return {
            "image_embeddings": self.model.get_image_embeddings(pixel_values),
            "image_positional_embeddings": places.repeat(len(pixel_values), 1, 1, 1),
        }


class _Finder(_Part):
    """Of what is at points of an embedded image: three masks for each thing, and how good they are held to be."""

    main_input_name = "input_points"

    def forward(
        self,
        input_points: Tensor,
        input_labels: Tensor,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
    ) -> dict[str, Tensor]:
        return self._found(input_points, input_labels, image_embeddings, image_positional_embeddings)

    def _found(
        self, points: Tensor, labels: Tensor, embeddings: Tensor, places: Tensor, **more: Any
    ) -> dict[str, Tensor]:
        sparse, dense = self.model.get_prompt_embeddings(points, labels)
        masks, scores = self.model.mask_decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            **more,
        )[:2]
        return {"iou_scores": scores, "pred_masks": masks}


class _EarlyEmbedder(_Embedder):
    """Of such an image, with what the first layer that sees all of it gives."""

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        places = self.model.get_image_wide_positional_embeddings()
        embeddings, early = self.model.get_image_embeddings(pixel_values)
        return {
            "image_embeddings": embeddings,
            "image_positional_embeddings": places.repeat(len(pixel_values), 1, 1, 1),
            EARLY: early[0],
        }


class _EarlyFinder(_Finder):
    """Of what is at points of such an image: to each mask one of high quality is added."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size
        self.embedding_sizes = {EARLY: (side, side, vision.hidden_size)}

    def forward(  # type: ignore[override]
        self,
        input_points: Tensor,
        input_labels: Tensor,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        intermediate_embeddings: Tensor,
    ) -> dict[str, Tensor]:
        return self._found(
            input_points,
            input_labels,
            image_embeddings,
            image_positional_embeddings,
            hq_token_only=False,
            intermediate_embeddings=[intermediate_embeddings],
        )


class _LevelsEmbedder(_Part):
    """Of an image at several resolutions, the coarsest last, as SAM 2 has it."""

    main_input_name = "pixel_values"

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        size = image_size(self.config)
        if tuple(pixel_values.shape[2:]) != size:
            raise ValueError(f"images must be of size {size}")
        return {
            f"image_embeddings.{level}": found
            for level, found in enumerate(self.model.get_image_embeddings(pixel_values))
        }


class _LevelsFinder(_Part):
    """Of what is at points of such an image, and whether there is anything."""

    main_input_name = "input_points"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        decoder = model.mask_decoder
        channels = decoder.conv_s0.out_channels, decoder.conv_s1.out_channels, model.hidden_dim
        sizes = zip(channels, model.backbone_feature_sizes, strict=True)
        self.embedding_sizes = {f"image_embeddings.{at}": (count, *size) for at, (count, size) in enumerate(sizes)}

    def forward(self, input_points: Tensor, input_labels: Tensor, **embeddings: Tensor) -> dict[str, Tensor]:
        *finer, coarsest = (embeddings[name] for name in self.embedding_sizes)
        sparse, dense = self.model.get_prompt_embeddings(input_points, input_labels)
        places = self.model.get_image_wide_positional_embeddings()
        masks, scores, _, objects = self.model.mask_decoder(
            image_embeddings=coarsest,
            image_positional_embeddings=places.repeat(len(coarsest), 1, 1, 1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            high_resolution_features=finer,
        )
        return {"iou_scores": scores, "pred_masks": masks, "object_score_logits": objects}


def parts_of(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Role to what a graph is made of: the whole model, and its towers where it has a text's and another's.

    What a tower gives has the names of `CLIPTextModelWithProjection` where there is a projection, of `SiglipTextModel`
    where there is none. A model that finds things by points on them is in two parts, as transformers.js has it.
    """
    model: Any = checkpoint.model
    if checkpoint.task == "mask-generation":
        embedder, finder = _asked_about(model)
        return {
            "vision_encoder": replace(checkpoint, model=embedder),
            "prompt_encoder_mask_decoder": replace(checkpoint, model=finder),
        }
    if checkpoint.task == "audio-to-audio":
        return {
            "encoder_model": replace(checkpoint, model=cast("Any", Coder(model))),
            "decoder_model": replace(checkpoint, model=cast("Any", Sounder(model))),
        }
    if image_places(model):
        return {
            "text_model": replace(checkpoint, model=cast("Any", _Queries(model))),
            "vision_model": replace(checkpoint, model=cast("Any", _Pages(model))),
        }
    towers: dict[str, Any] = {}
    if checkpoint.task == "zero-shot-image-classification":
        patches = "spatial_shapes" in parameters_of(model)
        towers = {
            "text_model": _TextTower(model),
            "vision_model": (_PatchTower if patches else _ImageTower)(model),
        }
    if checkpoint.task == "zero-shot-audio-classification":
        towers = {"text_model": _CaptionTower(model), "audio_model": _SoundTower(model)}
    return {"model": checkpoint} | {role: replace(checkpoint, model=tower) for role, tower in towers.items()}


def _asked_about(model: Any) -> tuple[Any, Any]:
    """What embeds an image, and what finds things in it."""
    takes = parameters_of(model.mask_decoder)
    if LEVELS in takes:
        return _LevelsEmbedder(model), _LevelsFinder(model)
    return (_EarlyEmbedder(model), _EarlyFinder(model)) if EARLY in takes else (_Embedder(model), _Finder(model))


def with_points(model: Any, feed: Mapping[str, np.ndarray[Any, Any]], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Images, and beside them what the graph that finds things in them takes: at points drawn by chance."""
    pixels = torch.from_numpy(feed["pixel_values"])
    embedder, finder = _asked_about(model)
    with torch.no_grad():
        known = embedder(pixels) | random_inputs(finder, ASKED[:2], batch=len(pixels), scale=1, seed=seed)
    return {**feed, **{name: value.numpy() for name, value in known.items()}}
