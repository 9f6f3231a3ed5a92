"""Tiny random decoders that hear sounds among their words."""

from typing import Any

import torch
import transformers

AUDIO = 100
TEXT = {
    **dict.fromkeys(("pad_token_id", "bos_token_id"), 0),
    "eos_token_id": 1,
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
HEARING = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_mel_bins": 16,
    "max_source_positions": 40,
}
GLM = {**HEARING, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 128}
QWEN = {
    "num_mel_bins": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "d_model": 32,
    "output_dim": 32,
    "downsample_hidden_size": 8,
    "n_window": 50,
    "n_window_infer": 100,
}
GRANITE = {
    "input_dim": 16,
    "num_layers": 2,
    "hidden_dim": 32,
    "feedforward_mult": 2,
    "num_heads": 4,
    "dim_head": 8,
    "output_dim": 10,
    "context_size": 10,
    "max_pos_emb": 16,
    "conv_kernel_size": 3,
}
ASKING = {
    "model_type": "blip_2_qformer",
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "encoder_hidden_size": 32,
}
FUN = {
    **HEARING,
    "num_mel_bins": 8,
    "num_stacked_frames": 2,
    "num_hidden_layers": 3,
    "num_timestamp_prediction_layers": 1,
    "fsmn_kernel_size": 3,
}
FITTED = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 8, "projector_hidden_size": 24}
FAMILIES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "Voxtral": (["audio_values"], {"audio_config": {**GLM, "intermediate_size": 128}, "text": "llama"}),
    "GlmAsr": (["input_features", "input_features_mask"], {"audio_config": GLM, "text": "llama"}),
    "AudioFlamingo3": (["input_features", "input_features_mask"], {"audio_config": HEARING, "text": "qwen2"}),
    "Qwen2Audio": (
        ["input_features", "input_features_mask"],
        {
            "audio_config": {
                **{name: size for name, size in QWEN.items() if name.startswith(("encoder", "num_mel", "d_model"))},
                "max_source_positions": 40,
            },
            "text": "qwen2",
        },
    ),
    "Qwen3ASR": (["input_features", "input_features_mask"], {"audio_config": QWEN, "text": "qwen3"}),
    "GraniteSpeech": (
        ["input_features"],
        {
            "encoder_config": GRANITE,
            "projector_config": ASKING,
            "has_lora_adapter": False,
            "window_size": 6,
            "downsample_rate": 2,
            "text": "granite",
        },
    ),
    "FunAsrNano": (
        ["input_features", "input_features_mask"],
        {"audio_config": FUN, "adaptor_config": FITTED, "text": "qwen3"},
    ),
}
"""What the graph for sounds takes, and the configuration."""


def hearing(family: str, vocab_size: int = 128, spread: float = 0.3, **more: Any) -> Any:
    """A model with random weights, biases and norms among them; the wider spread, the more it says."""
    torch.manual_seed(0)
    settings = {**FAMILIES[family][1], "audio_token_id": AUDIO, **more}
    text = {**TEXT, "vocab_size": vocab_size, "model_type": settings.pop("text")}
    model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    model = model_class(model_class.config_class(text_config=text, **settings)).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, float(name.endswith("weight")), 0.1)
        else:
            torch.nn.init.normal_(parameter, 0.0, 1.0 if "embed_tokens" in name else spread)
    return model
