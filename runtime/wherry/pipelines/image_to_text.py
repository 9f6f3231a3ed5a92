"""image-to-text: an image in, what it shows or says in words out, by an encoder of images and a decoder of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wherry.errors import InputError
from wherry.generation import Engine, GenerationConfig
from wherry.pipelines.base import TextPipeline
from wherry.pipelines.generated import captioner_defaults, decoder_roles, open_decoder, pieces, written
from wherry.pipelines.images import ImagePipeline, pixels
from wherry.vision.processor import Prepared

POSITIONS = "max_position_embeddings"


class ImageWriterPipeline(ImagePipeline, TextPipeline):
    """What an encoder sees, a decoder writes about."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.decoder = open_decoder(self.sessions, "left", self.bundle.config)
        self.defaults = captioner_defaults(self.bundle)
        config = self.bundle.config
        parts = (config.get("text_config") or {}, config.get("decoder") or {}, config)
        self.positions = next((int(part[POSITIONS]) for part in parts if part.get(POSITIONS)), None)
        if self.positions is not None and _new_tokens(self.defaults) >= self.positions:
            self.defaults = self.defaults.updated(max_new_tokens=self.positions - 1)

    def needed(self) -> Sequence[str]:
        """An encoder of images and a decoder, in one graph or in two."""
        return ("encoder_model", *decoder_roles(self.variant.graphs))

    def configured(self, options: Mapping[str, Any]) -> GenerationConfig:
        """The options of a call.

        Raises:
            InputError: an unknown one, more tokens than the decoder has positions for, or no token to begin with.
        """
        config = self.defaults.updated(**options)
        if config.decoder_start_token_id is None:
            raise InputError(f"{self.bundle.folder} does not tell decoder_start_token_id: pass it")
        if self.positions is not None and (asked := _new_tokens(config)) >= self.positions:
            raise InputError(f"this model writes at most {self.positions - 1} tokens, not {asked}: pass max_new_tokens")
        return config


class ImageToTextPipeline(ImageWriterPipeline):
    """`pipe(image)` is `[{"generated_text": what is to be seen or read}]`; a list gives a list of such results.

    `pipe.stream(image)` yields pieces of the text as they come.
    """

    task = "image-to-text"

    def __call__(self, inputs: Any, *, batch_size: int = 8, **options: Any) -> Any:
        """Write about an image, each of a list, or an iterator's images as they come.

        Args:
            batch_size: how many images run together.
            options: fields of `GenerationConfig`.

        Raises:
            InputError: no image that can be read, or an unknown option.
        """
        config = self.configured(options)

        def run(images: Sequence[Prepared]) -> Iterator[list[dict[str, Any]]]:
            made = written(self.tokenizer, self.decoder, self._seen(images), config, batch_size)
            return ([{"generated_text": text} for text in texts] for texts in made)

        return self.mapped(inputs, batch_size, run)

    def stream(self, image: Any, **options: Any) -> Iterator[str]:
        """Write about one image and yield the text piece by piece. Arguments and errors are as in a call."""
        config = self.configured(options)
        if config.num_beams > 1 or config.num_return_sequences > 1:
            raise InputError("a stream is of one text: pass num_beams=1 and no num_return_sequences")
        engine = Engine(self.decoder)
        (given,) = self.mapped([image], 1, self._seen)
        engine.submit([int(config.decoder_start_token_id or 0)], config, given)
        return (piece for _, _, piece in pieces(self.tokenizer, engine, config))

    def _seen(self, images: Sequence[Prepared]) -> list[dict[str, Any]]:
        """What the decoder takes of each image."""
        given = pixels(images)
        states = self.session.run(given, ["last_hidden_state"])["last_hidden_state"]
        seen = {"encoder_hidden_states": states}
        if "attention_mask" in given:
            seen["encoder_attention_mask"] = given["attention_mask"]
        return [{name: values[row : row + 1] for name, values in seen.items()} for row in range(len(images))]


def _new_tokens(config: GenerationConfig) -> int:
    """At most so many: a `max_length` counts the token to begin with too."""
    return config.max_new_tokens if config.max_length is None else min(config.max_new_tokens, config.max_length - 1)


PIPELINE = ImageToTextPipeline
