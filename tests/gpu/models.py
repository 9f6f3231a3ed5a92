"""Tiny random models of each kind, exported at fp32 and what GPUs run: `python tests/gpu/models.py FOLDER`."""

import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from wherry_exporter import export

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
WHISPER = {
    "vocab_size": 120,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 8,
    "max_source_positions": 30,
    "max_target_positions": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
MAKERS = {
    "encoder": lambda: BertForSequenceClassification(BertConfig(**SIZES, vocab_size=120, num_labels=5)),
    "decoder": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, vocab_size=60, num_key_value_heads=2, max_position_embeddings=256, eos_token_id=59)
    ),
    "whisper": lambda: WhisperForConditionalGeneration(WhisperConfig(**WHISPER)),
    "vision": lambda: ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=5)),
}
EXTRACTORS = {
    "whisper": lambda: WhisperFeatureExtractor(feature_size=8, chunk_length=1),
    "vision": lambda: ViTImageProcessor(size={"height": 32, "width": 32}),
}


def tiny(name: str) -> torch.nn.Module:
    """A model whose weights are large enough to say something else at every step."""
    torch.manual_seed(3)
    model = MAKERS[name]().eval()
    for place, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 and place.endswith("weight") else 0.0, 0.2)
    return model


def export_all(folder: Path) -> None:
    """Write the bundle of each model below a folder."""
    letters = Tokenizer(models.WordLevel({letter: at for at, letter in enumerate("_abcdefghijklmnopqrstuvwxyz ")}, "_"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    for name in MAKERS:
        with tempfile.TemporaryDirectory() as checkpoint:
            tiny(name).save_pretrained(checkpoint)
            PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="_", pad_token="_").save_pretrained(checkpoint)
            if name in EXTRACTORS:
                EXTRACTORS[name]().save_pretrained(checkpoint)
            quantized = ["int4f16"] if name == "decoder" else []
            export(checkpoint, folder / name, precision=["fp32", "fp16", "bf16", *quantized])


if __name__ == "__main__":
    export_all(Path(sys.argv[1]))
