"""image-text-to-text: a prompt or a chat with images among its words in, the text that goes on out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wherry.errors import InputError
from wherry.generation import GenerationConfig
from wherry.generation.batch import Given
from wherry.pipelines.base import Array
from wherry.pipelines.generated import decoder_roles
from wherry.pipelines.image_prompts import ImagePrompts
from wherry.pipelines.text_generation import Chat, TextGenerationPipeline, is_chat, joined
from wherry.vision import read_image
from wherry.vision.read import pillow
from wherry.vision.tiles import order
from wherry.vision.views import View, Viewer, positions

SOURCES = ("image", "path", "url")
"""What the part of a message that is an image may name it by."""


@dataclass(frozen=True)
class Seen:
    """A text with places for images, and the images."""

    text: str
    images: Sequence[Any]


class ImageTextToTextPipeline(TextGenerationPipeline):
    """`pipe(image, "<image> What is this?")` is `[{"input_text": ..., "generated_text": text and what follows}]`.

    So is `pipe(chat)`, whose messages hold `{"type": "image", "image": image}` and `{"type": "text", "text": text}`.
    Images are paths, bytes of files, PIL images, or uint8 arrays (height, width, 3) of RGB.

    `pipe.stream(...)` yields pieces of the new text as they come.
    """

    task = "image-text-to-text"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pillow()
        super().__init__(*arguments, **options)
        self.viewer = Viewer.load(self.bundle.folder)
        self.prompts = ImagePrompts(str(self.bundle.config.get("model_type")), self.bundle.config, self.tokenizer)

    def needed(self) -> Sequence[str]:
        """A decoder of embeddings, and what makes those of words and of images."""
        return (*decoder_roles(self.variant.graphs), "embed_tokens", "vision_encoder")

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
        prompts, single = _prompts(images, text)
        continued = self.continued(prompts, batch_size, None, truncation=truncation, **options)
        results = [
            [_result(prompt, text, logprobs, return_full_text) for text, logprobs in found]
            for prompt, found in zip(prompts, continued, strict=True)
        ]
        return results[0] if single else results

    def stream(  # type: ignore[override]
        self, images: Any = None, text: Any = None, *, truncation: bool = False, **options: Any
    ) -> Iterator[str]:
        """Continue one prompt or chat and yield the new text piece by piece. Arguments and errors are as in a call."""
        prompts, single = _prompts(images, text)
        if not single:
            raise InputError("a stream is of one prompt or chat, not of a list of them")
        return self.streamed(prompts[0], None, truncation=truncation, **options)

    def asking(self, image: Any, question: str) -> Any:
        """A prompt that asks about an image: a chat, where the model has a template for them."""
        if self.tokenizer.chat_template_names:
            content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            return [{"role": "user", "content": content}]
        return Seen(f"{self.prompts.place}{question}", [image])

    def encode(self, prompt: Any, config: GenerationConfig, *, truncation: bool) -> tuple[list[int], Given]:
        """The tokens of a prompt, and its embeddings with images in their places."""
        text, images = (prompt.text, prompt.images) if isinstance(prompt, Seen) else self._apart(prompt)
        views = [self._view(image, f"image {number}") for number, image in enumerate(images)]
        features = self._features(views) if views else []
        parts = [len(view.pixels) if view.grid is None and view.size is None else 1 for view in views]
        counts = [len(each) // count for each, count in zip(features, parts, strict=True)]
        written = self.prompts(text, views, counts)
        bos = self.tokenizer.special_tokens.get("bos_token")
        special = self.prompts.special and not (is_chat(prompt) and bos is not None and written.startswith(bos))
        row = self.tokens(written, config, special=special, truncation=truncation)
        return row, self._given(np.array([row]), views, np.concatenate(features)) if views else {}

    def _view(self, image: Any, name: str) -> View:
        name = image if isinstance(image, str) else name
        return self.viewer(read_image(image, name=name), name=name)

    def _apart(self, chat: Chat) -> tuple[str, list[Any]]:
        """A chat as its template writes it, with places for images, and the images."""
        images: list[Any] = []
        messages = []
        for message in chat:
            content = message.get("content")
            if isinstance(content, list | tuple):
                images += [_image(part) for part in content if _is_image(part)]
                content = [{"type": "image"} if _is_image(part) else part for part in content]
            messages.append({**message, "content": content})
        return self.written(messages), images

    def _features(self, views: Sequence[View]) -> list[Array]:
        """A vector for each image token of each image, in order: float (tokens, size)."""
        graph = self.sessions["vision_encoder"]
        taken = graph.inputs["pixel_values"].shape
        pixels = np.concatenate([view.pixels for view in views])
        batches = [pixels[at : at + 1] for at in range(len(pixels))] if taken[0] == 1 else [pixels]
        more: dict[str, Array] = {}
        if len(taken) == 5:
            batches = [pixels[None]]
            more["pixel_attention_mask"] = np.ones((1, len(pixels), *pixels.shape[2:]), bool)
        if all(view.grid is not None for view in views):
            name = "grid_thw" if "grid_thw" in graph.inputs else "image_grid_thw"
            more[name] = np.concatenate([view.grid for view in views if view.grid is not None])
        found = [graph.run({"pixel_values": batch, **more})["image_features"] for batch in batches]
        flat = np.concatenate([each.reshape(-1, each.shape[-1]) for each in found])
        one = len(flat) // len(pixels)
        ends = np.cumsum([len(view.pixels) for view in views[:-1]], dtype=np.int64) * len(flat) // len(pixels)
        return [
            each if view.size is None else each[order(view.size, (view.rows, view.columns), one - 1)]
            for view, each in zip(views, np.split(flat, ends), strict=True)
        ]

    def _given(self, ids: Array, views: Sequence[View], features: Array) -> dict[str, Array]:
        """What the decoder takes of a prompt (1, length) with images."""
        places = ids == self.prompts.token
        embeddings = self.sessions["embed_tokens"].run({"input_ids": ids})["inputs_embeds"]
        if int(places.sum()) != len(features):
            raise InputError(
                f"the images have {len(features)} features, and the prompt {int(places.sum())} tokens for them"
            )
        embeddings[places] = features
        found = {"inputs_embeds": embeddings, "token_type_ids": places.astype(np.int64)}
        if len(self.session.inputs["position_ids"].shape if "position_ids" in self.session.inputs else ()) == 3:
            merge = int(self.bundle.config["vision_config"].get("spatial_merge_size", 2))
            grids = [view.grid for view in views if view.grid is not None]
            found["position_ids"] = positions(places[0], grids, merge)
        return found


def _prompts(images: Any, text: Any) -> tuple[list[Any], bool]:
    """Chats, or texts with their images; and whether there is but one."""
    if text is None:
        images, text = None, images
    several = isinstance(text, list | tuple) and not is_chat(text)
    texts = list(text) if several else [text]
    if images is None:
        each: list[Any] = [None] * len(texts)
    elif several:
        each = list(images) if isinstance(images, list | tuple) else [images]
    else:
        each = [images]
    if len(each) != len(texts):
        raise InputError(f"{len(texts)} texts and images for {len(each)}: give each text its image, or a list of them")
    return [_prompt(*pair) for pair in zip(texts, each, strict=True)], not several


def _prompt(text: Any, images: Any) -> Any:
    if is_chat(text):
        if images is not None:
            raise InputError("a chat holds its images in its messages: give none beside it")
        return text
    if isinstance(text, Seen):
        return text
    if not isinstance(text, str):
        raise InputError(f"a prompt must be a str or a chat, not {type(text).__name__}")
    return Seen(text, [] if images is None else images if isinstance(images, list | tuple) else [images])


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "image"


def _image(part: Mapping[str, Any]) -> Any:
    named = [part[name] for name in SOURCES if part.get(name) is not None]
    if len(named) != 1:
        raise InputError(f"a part of type image needs one of {', '.join(SOURCES)}, the last of which is a path here")
    return named[0]


def _result(prompt: Any, text: str, logprobs: Any, whole: bool) -> dict[str, Any]:
    asked = prompt.text if isinstance(prompt, Seen) else prompt
    told = {"input_text": asked, "generated_text": joined(asked, text) if whole else text}
    return told if logprobs is None else {**told, "logprobs": logprobs}


PIPELINE = ImageTextToTextPipeline
