"""The two towers of a model that compares texts with images or sounds, each as a model of its own.

Knows nothing of graphs.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from wherry_exporter.inputs import parameters_of
from wherry_exporter.load import Checkpoint


class _TextTower(nn.Module):
    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.name = "text_embeds" if hasattr(model, "text_projection") else "pooler_output"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        output = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return {self.name: output.pooler_output, "last_hidden_state": output.last_hidden_state}


class _ImageTower(nn.Module):
    main_input_name = "pixel_values"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config
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


class _CaptionTower(nn.Module):
    """Of texts about sounds: what is projected, not of length one yet, as `ClapTextModelWithProjection` has it."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        output = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return {"text_embeds": self.model.text_projection(output.pooler_output)}


class _SoundTower(nn.Module):
    main_input_name = "input_features"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_features: Tensor, is_longer: Tensor | None = None) -> dict[str, Tensor]:
        output = self.model.audio_model(input_features=input_features, is_longer=is_longer)
        return {"audio_embeds": self.model.audio_projection(output.pooler_output)}


def parts_of(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Role to what a graph is made of: the whole model, and its towers where it has a text's and another's.

    What a tower gives has the names of `CLIPTextModelWithProjection` where there is a projection, of `SiglipTextModel`
    where there is none.
    """
    model: Any = checkpoint.model
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
