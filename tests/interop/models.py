"""Tiny random models that say something else at every step, and what they say in torch."""

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

TOKENS = {"vocab_size": 49152, "bos_token_id": 0, "eos_token_id": 0}
SEQ2SEQ = {"vocab_size": 49152, "decoder_start_token_id": 0, "pad_token_id": 2, "eos_token_id": 49151}
PREFIX = "translate English to French: "
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
MARIAN = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}
MAKERS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=64, n_layer=2, n_head=4, **TOKENS)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(hidden_size=64, n_layer=2, n_head=4, **TOKENS)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**T5, **SEQ2SEQ, task_specific_params={"translation": {"prefix": PREFIX}})
    ),
    "marian": lambda: MarianMTModel(MarianConfig(**MARIAN, **SEQ2SEQ)),
}


def tiny(name):
    torch.manual_seed(1)
    model = MAKERS[name]().eval()
    for place, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 and place.endswith("weight") else 0.0, 0.3)
    return model


def generated(model, tokenizer, text, new_tokens):
    """The tokens of the greedy continuation, the prompt's first for a decoder."""
    bounds = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    inputs = tokenizer(text, return_tensors="pt")
    return model.generate(**inputs, **bounds, do_sample=False, num_beams=1)[0].tolist()
