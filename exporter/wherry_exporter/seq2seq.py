"""Models that are an encoder and a decoder without saying so, in the form of those that do. Knows nothing of graphs."""

from typing import Any

from torch import nn

from wherry_exporter.tasks import is_captioner


def encoder_decoder_of(model: Any) -> Any:
    """The model itself, or one that takes and gives what an encoder-decoder model of transformers does."""
    if is_captioner(model):
        return _Captioner(model)
    encoder = model.get_encoder()
    if not hasattr(encoder, "config"):
        encoder.config = model.config
    return model


def start_token(model: Any) -> int:
    """The token that every generated text starts with."""
    for settings, name in (
        (model.config, "decoder_start_token_id"),
        (model.generation_config, "decoder_start_token_id"),
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
