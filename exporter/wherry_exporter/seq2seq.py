"""What decoders behind an encoder take and give in a step, and models that are such a pair without saying so.

Knows nothing of graphs.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from wherry_exporter.errors import ExportError
from wherry_exporter.inputs import BATCH, SEQUENCE
from wherry_exporter.tasks import composes, is_captioner, sees_first


class Step(Protocol):
    """One step of a decoder over its cache and the encoder's states.

    Attributes:
        inputs: what it takes beside those, for a batch of two.
        axes: of what it takes and, where they tell something, of what it gives.
        outputs: the names of what it gives.
        rows: of what it takes for one of the encoder's: as many as there are codebooks.
    """

    inputs: Mapping[str, Tensor]
    axes: Mapping[str, tuple[int | str, ...]]
    outputs: Sequence[str]
    rows: int

    def __call__(
        self, inputs: Mapping[str, Tensor], states: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, ...]: ...


class TokenStep:
    """Tokens, or their embeddings where a model takes those alone, to logits."""

    outputs: Sequence[str] = ("logits",)

    def __init__(self, model: Any, encoded: type[Any], new: int = 3) -> None:
        """Of a model whose encoder gives its states in a class of that kind, with that many tokens at a time."""
        self.model, self.encoded, self.rows = model, encoded, rows_of(model)
        ids, axes = torch.arange(2, 2 + new).repeat(2 * self.rows, 1), (BATCH, SEQUENCE)
        if self.rows > 1:
            axes = (f"{self.rows}*{BATCH}", SEQUENCE)
        self.inputs: Mapping[str, Tensor] = {"input_ids": ids}
        self.axes: Mapping[str, tuple[int | str, ...]] = {"input_ids": axes}
        if model.main_input_name == "inputs_embeds":
            embeddings = model.get_input_embeddings()(ids).detach()
            self.inputs = {"inputs_embeds": embeddings}
            self.axes = {"inputs_embeds": (*axes, embeddings.shape[2])}

    def __call__(
        self, inputs: Mapping[str, Tensor], states: Tensor, mask: Tensor | None, cache: Any
    ) -> tuple[Tensor, ...]:
        output = self.model(
            **{f"decoder_{name}": value for name, value in inputs.items()},
            encoder_outputs=self.encoded(last_hidden_state=states),
            past_key_values=cache,
            use_cache=True,
            **({} if mask is None else {"attention_mask": mask}),
        )
        return (output.logits,)


def encoder_decoder_of(model: Any) -> Any:
    """The model itself, or one that takes and gives what an encoder-decoder model of transformers does."""
    if sees_first(model):
        return _Reader(model)
    if is_captioner(model):
        return _Answerer(model) if hasattr(model, "text_encoder") else _Captioner(model)
    writes = any(hasattr(each, "language_model") for each in (model, model.base_model))
    if hasattr(model, "get_image_features") and writes:  # T5Gemma 2's encoder of words sees by itself
        return _Seer(model)
    if composes(model):
        return _Composer(model)
    encoder = model.get_encoder()
    if not hasattr(encoder, "config"):
        encoder.config = model.config
    return model


def rows_of(model: Any) -> int:
    """How many rows of tokens a decoder takes for one of its encoder's: as many as there are codebooks."""
    return model.rows if isinstance(model, _Composer) else 1


def writer_of(model: Any) -> Any:
    """The part of a model that sees images which reads and writes words."""
    return model.language_model if hasattr(model, "language_model") else model.model.language_model


def start_token(model: Any) -> int:
    """The token that every generated text starts with."""
    for settings, name in (
        (model.config, "decoder_start_token_id"),
        (model.generation_config, "decoder_start_token_id"),
        (model.config.get_text_config(), "decoder_start_token_id"),
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


class _Reader(nn.Module):
    """Of a model whose words follow an image what writes: each layer attends to what the image is at that layer."""

    main_input_name = "pixel_values"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.base, self.head = _Patches(model), model.base_model, model.get_output_embeddings()
        self.config, self.generation_config = model.config, model.generation_config
        self.size = int(model.config.hidden_size)

    def get_encoder(self) -> Any:
        return self.encoder

    def forward(
        self,
        pixel_values: Any = None,
        decoder_input_ids: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        use_cache: bool = True,  # noqa: ARG002
    ) -> Any:
        encoded = self.encoder(pixel_values) if encoder_outputs is None else encoder_outputs
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if past_key_values is None else past_key_values
        for index, layer in enumerate(self.base.encoder.layer):
            states = encoded[0][:, :, index * self.size : (index + 1) * self.size]
            if not cache.is_updated.get(index):
                attention = layer.attention.self
                pair = (
                    project(states).unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)
                    for project in (attention.key, attention.value)
                )
                cache.cross_attention_cache.update(*pair, index)
                cache.is_updated[index] = True
        past, new, seen = cache.self_attention_cache.get_seq_length(), decoder_input_ids.shape[1], encoded[0].shape[1]
        behind = torch.arange(past + new) > past + torch.arange(new)[:, None]
        mask = nn.functional.pad(torch.zeros(behind.shape).masked_fill(behind, torch.finfo().min), (seen, 0))
        embeddings = self.base.embeddings(decoder_input_ids, past_key_values_length=past)
        states = self.base.encoder(embeddings, mask, _BehindImage(cache)).last_hidden_state
        return Seq2SeqLMOutput(logits=self.head(states), past_key_values=cache, encoder_last_hidden_state=encoded[0])


class _BehindImage:
    """Keys and values of an image, and behind them those of words, which alone grow."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def update(self, keys: Tensor, values: Tensor, index: int) -> tuple[Tensor, Tensor]:
        image, words = self.cache.cross_attention_cache.layers[index], self.cache.self_attention_cache
        keys, values = words.update(keys, values, index)
        return torch.cat([image.keys, keys], 2), torch.cat([image.values, values], 2)


class _Patches(nn.Module):
    """What an image's patches are before each layer of a decoder whose words do not change them, side by side."""

    main_input_name = "pixel_values"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base, self.config = model.base_model, model.config.vision_config
        if getattr(model.config, "num_image_with_embedding", None):
            kind = type(model).__name__
            raise ExportError(f"{kind} cannot be exported: it takes several frames of a video, each with an embedding")

    def forward(self, pixel_values: Any) -> Any:
        states = [self.base.visual_projection(self.base.image_encoder(pixel_values).last_hidden_state)]
        for layer in self.base.encoder.layer[:-1]:
            states.append(layer(states[-1]))
        return BaseModelOutput(last_hidden_state=torch.cat(states, 2))


class _Answerer(nn.Module):
    """Of a model that is asked about images what answers, which looks at what the question makes of its image."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.text_decoder = _Asked(model), model.text_decoder
        self.config, self.generation_config = model.config, model.generation_config

    def get_encoder(self) -> Any:
        return self.encoder

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        pixel_values: Any = None,
        decoder_input_ids: Any = None,
        encoder_outputs: Any = None,
        **cache: Any,
    ) -> Any:
        encoded = self.encoder(input_ids, attention_mask, pixel_values) if encoder_outputs is None else encoder_outputs
        with ExitStack() as hooks:
            for name, module in self.text_decoder.named_modules():
                if name.endswith("crossattention.self"):
                    hooks.enter_context(module.register_forward_pre_hook(_with_mask, with_kwargs=True))
            return self.text_decoder(
                input_ids=decoder_input_ids,
                encoder_hidden_states=encoded.last_hidden_state,
                encoder_attention_mask=attention_mask,
                **cache,
            )


def _with_mask(_module: nn.Module, given: Any, named: dict[str, Any]) -> Any:
    """Hand on the mask of padded questions, which transformers loses under another name."""
    return given, named | {"encoder_attention_mask": named["attention_mask"]}


class _Asked(nn.Module):
    """A question that looks at its image."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.text_encoder, self.config = model.vision_model, model.text_encoder, model.config

    def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any) -> Any:
        seen = self.vision_model(pixel_values).last_hidden_state
        return self.text_encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.int64),
        )


class _Composer(nn.Module):
    """Of a model that makes music of a text what comes before its codec."""

    main_input_name = "input_ids"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = _Described(model), model.decoder
        self.rows = int(model.decoder.num_codebooks)
        self.config, self.generation_config = deepcopy(model.text_encoder.config), model.generation_config
        self.config.decoder_start_token_id = self.generation_config.decoder_start_token_id

    def get_encoder(self) -> Any:
        return self.encoder

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        encoder_outputs: Any = None,
        **cache: Any,
    ) -> Any:
        encoded = self.encoder(input_ids, attention_mask) if encoder_outputs is None else encoder_outputs
        return self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            **cache,
        )


class _Described(nn.Module):
    """A text as what music is made of: as large as the decoder has it, and zeros for padding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_encoder, self.config = model.text_encoder, model.text_encoder.config
        self.projection = getattr(model, "enc_to_dec_proj", nn.Identity())

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        output = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
        output.last_hidden_state = self.projection(output.last_hidden_state) * attention_mask[..., None]
        return output


class _Seer(nn.Module):
    """Of a model that sees images among its words what comes after both have become embeddings."""

    main_input_name = "inputs_embeds"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text, self.head = writer_of(model), model.get_output_embeddings()
        self.config, self.generation_config = model.config, model.generation_config

    def get_encoder(self) -> Any:
        return self.text.get_encoder()

    def get_input_embeddings(self) -> Any:
        return self.text.get_input_embeddings()

    def forward(self, **given: Any) -> Any:
        output = self.text(**given)
        if "logits" not in output:
            output.logits = self.head(output.last_hidden_state)
        return output
