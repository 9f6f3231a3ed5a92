"""Tiny random models of sounds, as folders with their feature extractors' files and their vocabularies."""

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tiny_images import TEXT, save_tokenizer
from wherry_exporter.samples import sample

SOUND = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
SEVEN = {"id2label": dict(enumerate(["bark", "bell", "horn", "rain", "song", "speech", "wind"]))}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
VITS = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "flow_size": 16,
    "spectrogram_bins": 9,
    "duration_predictor_num_flows": 2,
    "duration_predictor_filter_channels": 32,
    "depth_separable_num_layers": 1,
    "prior_encoder_num_flows": 1,
    "prior_encoder_num_wavenet_layers": 1,
    "posterior_encoder_num_wavenet_layers": 1,
    "wavenet_dilation_rate": 1,
    "upsample_initial_channel": 16,
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "noise_scale": 0.0,  # so that it says the same twice
    "noise_scale_duration": 0.0,
}
AST = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_length": 64,
    "num_mel_bins": 16,
}
CLAP = {
    "spec_size": 128,
    "num_mel_bins": 64,
    "window_size": 4,
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "depths": [1, 2],
    "num_attention_heads": [2, 2],
}
MUSIC_DECODER = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "pad_token_id": 32,
    "bos_token_id": 32,
    "initializer_factor": 0.3,
}
MUSIC = {
    "text_encoder": {
        "model_type": "t5",
        "vocab_size": 64,
        "d_model": 24,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
    },
    "audio_encoder": {
        "model_type": "encodec",
        "target_bandwidths": [1.5],
        "sampling_rate": 800,
        "num_filters": 4,
        "upsampling_ratios": [4, 2, 2],
        "codebook_size": 32,
        "codebook_dim": 16,
        "hidden_size": 16,
        "use_causal_conv": False,
    },
    "decoder": {**MUSIC_DECODER, "num_codebooks": 4, "audio_channels": 1},
}
STEREO = {**MUSIC, "decoder": {**MUSIC_DECODER, "num_codebooks": 8, "audio_channels": 2}}
PARAKEET = {
    "encoder_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 48,
        "subsampling_conv_channels": 8,
        "num_mel_bins": 16,
    },
    "vocab_size": 33,
    "pad_token_id": 32,
}
TRANSDUCER = {
    **PARAKEET,
    "decoder_hidden_size": 24,
    "num_decoder_layers": 2,
    "blank_token_id": 32,
    "max_symbols_per_step": 10,
}
HIFIGAN = {
    "model_in_dim": 8,
    "upsample_initial_channel": 16,
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "sampling_rate": 800,
}
SPEECHT5 = {
    "hidden_size": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "speech_decoder_prenet_units": 16,
    "speaker_embedding_dim": 12,
    "speech_decoder_postnet_layers": 2,
    "speech_decoder_postnet_units": 16,
    "max_text_positions": 60,
    "max_speech_positions": 80,
}
FUSED = {"enable_fusion": True, "fusion_type": "aff_2d"}

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2ForCTC", SOUND),
    "hubert": ("HubertForSequenceClassification", SOUND | SEVEN),
    "ast": ("ASTForAudioClassification", AST | SEVEN),
    "parakeet": ("ParakeetForCTC", PARAKEET),
    "parakeet-tdt": ("ParakeetForTDT", TRANSDUCER),
    "parakeet-rnnt": ("ParakeetForRNNT", TRANSDUCER),
    "vits": ("VitsModel", VITS),
    "speecht5": ("SpeechT5ForTextToSpeech", SPEECHT5),
    "hifigan": ("SpeechT5HifiGan", HIFIGAN),
    "musicgen": ("MusicgenForConditionalGeneration", MUSIC),
    "musicgen-stereo": ("MusicgenForConditionalGeneration", STEREO),
    "clap": ("ClapModel", {"text_config": TEXT, "audio_config": CLAP, "projection_dim": 16}),
    "clap-fused": ("ClapModel", {"text_config": TEXT, "audio_config": CLAP | FUSED, "projection_dim": 16}),
}
LETTERS = "|abcdefghijklmnopqrstuvwxyz'"


def make(name: str, folder: Path) -> Path:
    """Save a model and what it needs beside it."""
    model_class, settings = TINY[name]
    own: Any = getattr(transformers, model_class)
    torch.manual_seed(1)
    model = own(own.config_class(**settings)).eval()
    for parameter in model.parameters():  # so that letters and classes differ from sound to sound
        if name != "vits" and not name.startswith("musicgen"):
            torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.25)
    if name.startswith(("parakeet", "speecht5")):
        for tensor, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, float("norm" in tensor and tensor.endswith("weight")), 0.1)
            else:
                torch.nn.init.normal_(parameter, 0.0, 0.5)
    if name in ("parakeet-tdt", "parakeet-rnnt"):  # which seldom writes, and goes on
        model.joint.head.bias.data[32:34] += torch.tensor([6.0, -9.0])[: len(model.joint.head.bias) - 32]
        model.generation_config.decoder_start_token_id = 32
        model.generation_config.suppress_tokens = list(range(33, len(model.joint.head.bias))) or None
    if name.startswith("clap"):  # so that likenesses to texts do too
        for tensor, parameter in model.named_parameters():
            scales = parameter.ndim == 1 and tensor.lower().endswith("norm.weight")
            torch.nn.init.normal_(parameter, float(scales), 0.25 if scales else 0.5)
        torch.nn.init.constant_(model.logit_scale_a, 3.0)
    if name.startswith("musicgen"):
        for layer in model.audio_encoder.quantizer.layers:  # which is zeros at first
            torch.nn.init.normal_(layer.codebook.embed)
        for token in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
            setattr(model.generation_config, token, 32)
        model.generation_config.guidance_scale = 3.0
    model.save_pretrained(folder)
    if name.startswith("musicgen"):
        save_tokenizer(folder)
    elif name == "speecht5":
        save_letters(folder)
    elif name == "ast":
        transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=64).save_pretrained(folder)
    elif name.startswith("parakeet"):
        transformers.ParakeetFeatureExtractor(feature_size=16).save_pretrained(folder)
        save_pieces(folder)
    elif name.startswith("clap"):
        kind = "fusion" if name == "clap-fused" else "rand_trunc"
        transformers.ClapFeatureExtractor(max_length_s=1, truncation=kind).save_pretrained(folder)
        save_tokenizer(folder)
    elif name not in ("vits", "hifigan"):
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    if name == "wav2vec2":
        vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {c: n + 4 for n, c in enumerate(LETTERS)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        transformers.Wav2Vec2CTCTokenizer(folder / "vocab.json").save_pretrained(folder)
    if name == "vits":
        vocabulary = {letter: number for number, letter in enumerate("_ abcdefghijklmnopqrstuvwxyz'-–")}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        transformers.VitsTokenizer(
            folder / "vocab.json", language="eng", phonemize=False, pad_token="_", unk_token=None
        ).save_pretrained(folder)
    return folder


def save_letters(folder: Path) -> None:
    """SpeechT5's tokenizer: a sentencepiece model of letters."""
    with (folder / "spm_char.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["the quick brown fox jumps over a lazy dog, 'tis so."]),
            model_writer=file,
            model_type="char",
            character_coverage=1.0,
            minloglevel=2,
            **{"vocab_size": 81, "hard_vocab_limit": False, "bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3},
        )
    transformers.SpeechT5Tokenizer(str(folder / "spm_char.model")).save_pretrained(folder)


def save_pieces(folder: Path) -> None:
    """A tokenizer of pieces of words, with the blank behind them."""
    pieces = ["<unk>", "▁", *(f"▁{letter}" for letter in "abcde"), *LETTERS[2:27]]
    rust = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    rust.add_special_tokens(["<pad>"])
    tokenizer = transformers.ParakeetTokenizer(tokenizer_object=rust, pad_token="<pad>", unk_token="<unk>")
    assert tokenizer.pad_token_id == 32
    tokenizer.save_pretrained(folder)


def make_whisper(folder: Path) -> Path:
    """A tiny Whisper with the real one's tokens and settings."""
    shutil.copytree(sample("whisper"), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    settings = json.loads((sample("whisper") / "config.json").read_text())
    torch.manual_seed(1)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**settings | WHISPER))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.25)
    generation = transformers.GenerationConfig.from_pretrained(sample("whisper"))
    generation.suppress_tokens += range(50258, 50363)  # languages and tasks among words
    generation.alignment_heads = [[0, 1], [0, 2]]
    model.generation_config = generation
    model.save_pretrained(folder)
    return folder
