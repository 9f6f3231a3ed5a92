"""image-text-to-text: a prompt or a chat with images among its words in, the text that goes on out."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wherry.generation import GenerationConfig
from wherry.generation.batch import Given
from wherry.pipelines.among_words import AmongWordsPipeline, Mixed
from wherry.pipelines.base import Array
from wherry.pipelines.image_prompts import ImagePrompts
from wherry.pipelines.text_generation import is_chat
from wherry.vision import read_image
from wherry.vision.read import pillow
from wherry.vision.tiles import order
from wherry.vision.views import View, Viewer, positions


class ImageTextToTextPipeline(AmongWordsPipeline):
    """`pipe(image, "<image> What is this?")` is `[{"input_text": ..., "generated_text": text and what follows}]`.

    So is `pipe(chat)`, whose messages hold `{"type": "image", "image": image}` and `{"type": "text", "text": text}`.
    Images are paths, bytes of files, PIL images, or uint8 arrays (height, width, 3) of RGB.

    `pipe.stream(...)` yields pieces of the new text as they come.
    """

    task = "image-text-to-text"
    kind = "image"
    things = "images"
    tower = "vision_encoder"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pillow()
        super().__init__(*arguments, **options)
        self.viewer = Viewer.load(self.bundle.folder)
        self.prompts = ImagePrompts(str(self.bundle.config.get("model_type")), self.bundle.config, self.tokenizer)
        self.token, self.place = self.prompts.token, self.prompts.place

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: Any = None,
        *,
        return_full_text: bool = True,
        truncation: bool = False,
        batch_size: int = 8,
        **options: Any,
    ) -> Any:
        """Continue a prompt or a chat, or each of a list.

        Args:
            images: of a text: one, or a list of as many as it has places; of a list of texts, so for each. Or chats.
            text: a prompt with a place for each image, such as `<image>`, a chat, or a list of either.
            return_full_text: whether the result begins with the prompt or the chat's messages.
            truncation: cut the beginning of a prompt that is too long, up to its first image at most.
            batch_size: how many sequences run together.
            options: as in text-generation.

        Raises:
            InputError: an image that cannot be read, more or fewer images than places, a prompt that is empty or does
                not fit the model's context, or an unknown option.
            ChatTemplateError: a chat for a model that has no chat template.
        """
        return self.answers(
            images,
            text,
            return_full_text=return_full_text,
            truncation=truncation,
            batch_size=batch_size,
            **options,
        )

    def stream(  # type: ignore[override]
        self, images: Any = None, text: Any = None, *, truncation: bool = False, **options: Any
    ) -> Iterator[str]:
        """Continue one prompt or chat and yield the new text piece by piece. Arguments and errors are as in a call."""
        return self.answered(images, text, truncation=truncation, **options)

    def encode(self, prompt: Any, config: GenerationConfig, *, truncation: bool) -> tuple[list[int], Given]:
        """The tokens of a prompt, and its embeddings with images in their places."""
        text, images = (prompt.text, prompt.parts) if isinstance(prompt, Mixed) else self.apart(prompt)
        views = [self._view(image, f"image {number}") for number, image in enumerate(images)]
        features = self._features(views) if views else []
        parts = [len(view.pixels) if view.has_parts else 1 for view in views]
        counts = [len(each) // count for each, count in zip(features, parts, strict=True)]
        written = self.prompts(text, views, counts)
        bos = self.tokenizer.special_tokens.get("bos_token")
        special = self.prompts.special and not (is_chat(prompt) and bos is not None and written.startswith(bos))
        row = self.tokens(written, config, special=special, truncation=truncation)
        return row, self._given(np.array([row]), views, np.concatenate(features)) if views else {}

    def _view(self, image: Any, name: str) -> View:
        name = image if isinstance(image, str) else name
        return self.viewer(read_image(image, name=name), name=name)

    def _features(self, views: Sequence[View]) -> list[Array]:
        """A vector for each image token of each image, in order: float (tokens, size)."""
        graph = self.sessions["vision_encoder"]
        taken = graph.inputs["pixel_values"].shape
        parts = np.cumsum([len(view.pixels) for view in views])
        more: dict[str, Array] = {}
        if taken[0] == 1:  # each of its own size
            batches = [part[None] for view in views for part in view.pixels]
        else:
            batches = [np.concatenate([view.pixels for view in views])]
        if all(view.places is not None for view in views):
            batches, more["pixel_position_ids"] = _filled(views, taken[1])
        if len(taken) == 5:
            count, _, *size = batches[0].shape
            batches = [batches[0][None]]
            more["pixel_attention_mask"] = np.ones((1, count, *size), bool)
        if all(view.grid is not None for view in views):
            name = "grid_thw" if "grid_thw" in graph.inputs else "image_grid_thw"
            more[name] = np.concatenate([view.grid for view in views if view.grid is not None])
        found = [graph.run({"pixel_values": batch, **more})["image_features"] for batch in batches]
        each = [features.reshape(-1, features.shape[-1]) for features in found]
        flat = np.concatenate(each)
        one = len(flat) // int(parts[-1])
        ends = parts * len(flat) // parts[-1]
        if taken[0] == 1:
            ends = np.cumsum([len(features) for features in each])[parts - 1]
        return [
            features if view.size is None else features[order(view.size, (view.rows, view.columns), one - 1)]
            for view, features in zip(views, np.split(flat, ends[:-1]), strict=True)
        ]

    def _given(self, ids: Array, views: Sequence[View], features: Array) -> dict[str, Array]:
        """What the decoder takes of a prompt (1, length) with images."""
        found = self.embedded(ids, features)
        if len(self.session.inputs["position_ids"].shape if "position_ids" in self.session.inputs else ()) == 3:
            merge = int(self.bundle.config["vision_config"].get("spatial_merge_size", 2))
            grids = [view.grid for view in views if view.grid is not None]
            found["position_ids"] = positions(ids[0] == self.token, grids, merge)
        return found


def _filled(views: Sequence[View], width: int | str) -> tuple[list[Array], Array]:
    """Images as patches, filled up to as many as the graph takes, or the widest has; and where those are.

    Returns:
        one float32 (images, patches, values), and int64 (images, patches, 2), -1 where there is none.
    """
    width = width if isinstance(width, int) else max(len(view.pixels) for view in views)
    pixels = np.zeros((len(views), width, views[0].pixels.shape[1]), np.float32)
    places = np.full((len(views), width, 2), -1)
    for image, view in enumerate(views):
        pixels[image, : len(view.pixels)] = view.pixels
        places[image, : len(view.pixels)] = view.places
    return [pixels], places


PIPELINE = ImageTextToTextPipeline
