"""One tiny random model of each family crosses: its graphs compute what torch computes, its tokens are torch's.

`trace_verified` compares with torch at batch sizes, lengths and image sizes other than traced; here that has to come
out within a thousandth, and models that generate have to give the tokens of `generate`.
"""

import shutil
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from onnxruntime import InferenceSession

import tiny_sounds
from tiny_hearing import hearing
from tiny_images import TINY
from wherry.cli import main
from wherry.errors import TaskError
from wherry.generation import Decoder, Engine, GenerationConfig, generate
from wherry.session import Session
from wherry_exporter import export
from wherry_exporter.build import trace_verified, write_variant
from wherry_exporter.card import in_words
from wherry_exporter.decoder import looks_ahead
from wherry_exporter.entries import Entries
from wherry_exporter.errors import ExportError, ParityError
from wherry_exporter.images import (
    features_of,
    features_read,
    graph_images,
    image_inputs,
    image_parameters,
    joined,
    takes_other_sizes,
)
from wherry_exporter.inputs import axes_of, fixed_sizes, parameters_of
from wherry_exporter.load import Checkpoint, without_losses
from wherry_exporter.noise import still, stilled
from wherry_exporter.plan import Plan, Settings
from wherry_exporter.precision import Quantizer
from wherry_exporter.probes import position_limit
from wherry_exporter.seq2seq import start_token
from wherry_exporter.speech import speak
from wherry_exporter.spliced import token_positions
from wherry_exporter.storage import save
from wherry_exporter.tasks import is_captioner, task_of
from wherry_exporter.verify import judge

TEXT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE = {**TEXT, "hidden_size": 64, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
SOUND = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
T5 = {
    "vocab_size": 120,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 120,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1}
RESNET = transformers.ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage4"]
)
DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "backbone_config": RESNET,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 5,
}
RTDETR = {
    "backbone_config": transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    ),
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [8, 16, 16],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 6,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_n_points": 2,
    "num_denoising": 0,
}
ROBERTA = {**TEXT, "pad_token_id": 1, "bos_token_id": 0, "max_position_embeddings": 66}
HIFIGAN = {
    "upsample_initial_channel": 16,
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
}
VITS = {
    **HIFIGAN,
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
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
}
SPEECHT5 = {**tiny_sounds.SPEECHT5, "vocab_size": 120}
VIDEO = {**VISION, "num_frames": 4, "num_labels": 5}
VJEPA2 = {
    **VIDEO,
    "crop_size": 32,
    "frames_per_clip": 4,
    "mlp_ratio": 1.5,
    "pred_hidden_size": 16,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 2,
    "num_pooler_layers": 1,
}
CLAP_SOUND = {
    "spec_size": 64,
    "num_mel_bins": 16,
    "window_size": 4,
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "depths": [2, 2],
    "num_attention_heads": [2, 2],
}
CLAP = {"text_config": ROBERTA, "audio_config": CLAP_SOUND, "projection_dim": 32}
GEMMA = {**WIDE, "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 16}
GLOBAL = {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}

LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [2, 2, 2],
    "depths": [1, 1, 1],
    "key_dim": [8, 8, 8],
}
STATES = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}

IMAGE_TOKEN = 119

IN_ONE_GO: dict[str, dict[str, Any]] = {
    "AlbertForMaskedLM": {**TEXT, "embedding_size": 16},
    "MPNetModel": TEXT,
    "VitsModel": VITS,
    "VitMatteForImageMatting": {  # of an image and what is surely on it
        "backbone_config": {
            "model_type": "vitdet",
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2},
            **{"image_size": 64, "patch_size": 16, "num_channels": 4, "out_features": ["stage2"]},
            **{"use_relative_position_embeddings": True, "window_block_indices": [], "residual_block_indices": []},
        },
        "hidden_size": 32,
        "convstream_hidden_sizes": [8, 16, 24],
        "fusion_hidden_sizes": [32, 24, 16, 8],
    },
    "PromptDepthAnythingForDepthEstimation": {
        "backbone_config": {
            **VISION,
            **{"model_type": "dinov2", "out_features": ["stage1", "stage2"], "reshape_hidden_states": False},
        },
        "reassemble_hidden_size": 32,
        "patch_size": 8,
        "neck_hidden_sizes": [16, 16],
        "reassemble_factors": [1, 0.5],
        "fusion_hidden_size": 16,
    },
    "SpeechT5HifiGan": {**HIFIGAN, "model_in_dim": 8},
    "OneFormerForUniversalSegmentation": TINY["oneformer"][1],
    "VideoMAEForVideoClassification": VIDEO,
    "TimesformerForVideoClassification": VIDEO,
    "VivitForVideoClassification": {**VIDEO, "tubelet_size": [2, 8, 8]},
    "VJEPA2ForVideoClassification": VJEPA2,
    "RobertaForSequenceClassification": ROBERTA,
    "XLMRobertaModel": ROBERTA,
    "DistilBertForTokenClassification": {**TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "LongformerForSequenceClassification": {**ROBERTA, "attention_window": [4, 4]},
    "CanineForSequenceClassification": {**TEXT, "local_transformer_stride": 16, "num_hash_buckets": 64},
    "ElectraForSequenceClassification": {**TEXT, "embedding_size": 16},
    "DebertaV2ForSequenceClassification": {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "ModernBertForTokenClassification": {**TEXT, **GLOBAL},
    "BertForQuestionAnswering": TEXT,
    "BertForMultipleChoice": TEXT,
    "XLNetForSequenceClassification": {"vocab_size": 120, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "LayoutLMForQuestionAnswering": TEXT,
    "CLIPTextModelWithProjection": TEXT,
    "LevitForImageClassificationWithTeacher": LEVIT,
    "ViTForImageClassification": VISION,
    "Dinov2Model": VISION,
    "ViTForMaskedImageModeling": {**VISION, "encoder_stride": 8},
    "ViTMAEModel": {**VISION, "mask_ratio": 0.5},
    "DecisionTransformerModel": {
        **{"state_dim": 5, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
        "n_positions": 64,
    },
    "VitPoseForPoseEstimation": {
        "backbone_config": transformers.VitPoseBackboneConfig(
            image_size=[32, 24],
            patch_size=[8, 8],
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            out_features=["stage2"],
            num_experts=1,
        ),
        "scale_factor": 4,
    },
    "ResNetForImageClassification": {**RESNET.to_dict()},
    "EomtForUniversalSegmentation": {  # a buffer decides what its layers run
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "num_blocks": 2,
        "num_queries": 6,
        "num_labels": 5,
        "num_upscale_blocks": 1,
    },
    "SegformerForSemanticSegmentation": {
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "YolosForObjectDetection": {**VISION, "image_size": [32, 32], "num_detection_tokens": 5},
    "DetrForObjectDetection": DETR,
    "DeformableDetrForObjectDetection": {
        **DETR,
        "decoder_layers": 2,
        "backbone_config": transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16], depths=[1, 1, 1], out_features=["stage2", "stage3"]
        ),
        "num_feature_levels": 2,
        "encoder_n_points": 2,
        "decoder_n_points": 2,
    },
    "RTDetrForObjectDetection": RTDETR,
    "OwlViTForObjectDetection": {
        "text_config": {**TEXT, "max_position_embeddings": 16},
        "vision_config": VISION,
        "projection_dim": 32,
    },
    "Siglip2Model": {  # images as patches, some of them padding
        "text_config": {**TEXT, "projection_size": 32},
        "vision_config": {**{name: VISION[name] for name in VISION if name != "image_size"}, "num_patches": 16},
    },
    "ViltForQuestionAnswering": {**TEXT, "image_size": 32, "patch_size": 8},
    "DPTForDepthEstimation": {
        **VISION,
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 16,
    },
    "CLIPSegForImageSegmentation": {
        "text_config": {**TEXT, "max_position_embeddings": 16},
        "vision_config": VISION,
        "projection_dim": 32,
        "extract_layers": [0, 1],
        "reduce_dim": 16,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    },
    "ClapTextModelWithProjection": ROBERTA,
    "ClapAudioModelWithProjection": CLAP_SOUND,
    "Wav2Vec2ForCTC": SOUND,
    "HubertForCTC": SOUND,
    "HubertForSequenceClassification": SOUND,
    "ASTForAudioClassification": {
        **{name: VISION[name] for name in VISION if not name.endswith("size")},
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_length": 64,
        "num_mel_bins": 16,
    },
}

SPOKEN = {
    **SOUND,
    "tdnn_dim": [16, 16, 24],
    "tdnn_kernel": [3, 3, 1],
    "tdnn_dilation": [1, 2, 1],
    "xvector_output_dim": 16,
    "classifier_proj_size": 16,
}
IN_ONE_GO |= {
    "Wav2Vec2ForXVector": {**SPOKEN, "conv_dim": [8] * 3, "conv_stride": [5, 4, 4], "conv_kernel": [10, 5, 5]},
    "Data2VecAudioForXVector": {  # a short sound has fewer frames than these look at
        **SPOKEN,
        "tdnn_dim": [16, 16, 16, 16, 24],
        "tdnn_kernel": [5, 3, 3, 1, 1],
        "tdnn_dilation": [1, 2, 3, 1, 1],
    },
    "ZoeDepthForDepthEstimation": {  # it splits its stages by the size of the batch
        "backbone_config": transformers.BeitConfig(
            **{**VISION, "num_hidden_layers": 4},
            out_features=["stage1", "stage2", "stage3", "stage4"],
            reshape_hidden_states=False,
        ),
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
        "bottleneck_features": 16,
        "num_relative_features": 8,
        "bin_embedding_dim": 16,
        "num_attractors": [4, 3, 2, 1],
        "bin_configurations": [{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    },
    "MBartModel": {
        "vocab_size": 120,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
    },
    "WavLMForAudioFrameClassification": SPOKEN,
    "Swin2SRForImageSuperResolution": {
        "image_size": 32,
        "embed_dim": 12,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 4,
    },
}

ONE_SIZE = {
    "EomtForUniversalSegmentation": {"pixel_values": {"height": 32, "width": 32}},
    "CLIPSegForImageSegmentation": {"pixel_values": {"height": 32, "width": 32}},
    "OwlViTForObjectDetection": {"pixel_values": {"height": 32, "width": 32}},
    "ViTForImageClassification": {"pixel_values": {"height": 32, "width": 32}},
    "ViTForMaskedImageModeling": {"pixel_values": {"height": 32, "width": 32}},
    "ViTMAEModel": {"pixel_values": {"height": 32, "width": 32}, "noise": {"num_patches": 16}},
    "VitPoseForPoseEstimation": {"pixel_values": {"height": 32, "width": 24}},
    "LevitForImageClassificationWithTeacher": {"pixel_values": {"height": 64, "width": 64}},
    "DPTForDepthEstimation": {"pixel_values": {"height": 32, "width": 32}},
    "Swin2SRForImageSuperResolution": {"pixel_values": {"height": 32, "width": 32}},
    "ASTForAudioClassification": {"input_values": {"num_frames": 64}},
    "VideoMAEForVideoClassification": {"pixel_values": {"num_frames": 4, "height": 32, "width": 32}},
    "VivitForVideoClassification": {"pixel_values": {"num_frames": 4, "height": 32, "width": 32}},
}
"""What only takes inputs of its own size; all others take any."""

APART = ("OwlViTForObjectDetection", "Siglip2Model")
"""What takes more texts than images."""

TOWERS: dict[str, tuple[list[str], list[str]]] = {
    "CLIPModel": (["text_embeds"], ["image_embeds"]),
    "SiglipModel": (["pooler_output", "last_hidden_state"], ["pooler_output", "last_hidden_state"]),
}
"""What the text's and the image's graph give."""

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2LMHeadModel": ("right", {**TEXT, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "GPTNeoXForCausalLM": ("right", {**TEXT, "rotary_pct": 0.5}),
    "OPTForCausalLM": ("right", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "BloomForCausalLM": ("left", {**TEXT, "n_layer": 2, "n_head": 4}),
    "LlamaForCausalLM": ("right", WIDE),
    "MistralForCausalLM": ("right", {**WIDE, "sliding_window": 6}),
    "Qwen2ForCausalLM": ("right", WIDE),
    "Qwen3ForCausalLM": ("right", {**WIDE, "head_dim": 32}),
    "Gemma2ForCausalLM": ("right", GEMMA),
    "Gemma3ForCausalLM": ("right", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "Gemma4ForCausalLM": (  # the last layers attend to what others keep, and tokens add to each layer
        "right",
        {
            **{**GEMMA, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "global_head_dim": 24},
            **{"layer_types": ["sliding_attention", "full_attention"] * 2, "tie_word_embeddings": False},
            **{"vocab_size_per_layer_input": 120, "hidden_size_per_layer_input": 8},
        },
    ),
    "Phi3ForCausalLM": ("right", WIDE),
    "BartForCausalLM": ("right", {**BART, "is_decoder": True}),
    "BertLMHeadModel": ("right", {**TEXT, "is_decoder": True}),
    "GPTNeoForCausalLM": (
        "left",
        {**TEXT, "attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    ),
    "Llama4ForCausalLM": ("right", {**WIDE, "head_dim": 16, "num_local_experts": 2, "intermediate_size_mlp": 48}),
    "Lfm2ForCausalLM": ("left", {**WIDE, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "MambaForCausalLM": ("left", STATES),
    "OpenAIGPTLMHeadModel": ("left", {**TEXT, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "DbrxForCausalLM": (  # experts one after another
        "right",
        {
            "vocab_size": 120,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 1,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
            "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "JambaForCausalLM": (
        "left",
        {**WIDE, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4},
    ),
    "SmolLM3ForCausalLM": ("right", {**WIDE, "no_rope_layers": [1, 0], "no_rope_layer_interval": 2}),
}

TROCR = {
    "encoder": {**VISION, "model_type": "vit"},
    "decoder": {**BART, "model_type": "trocr", "is_decoder": True, "add_cross_attention": True},
    "decoder_start_token_id": 2,
}

PROPHET = {
    "vocab_size": 120,
    "hidden_size": 32,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "max_position_embeddings": 64,
}

PIX2STRUCT = {
    "text_config": {**T5, "hidden_size": 32, "num_layers": 2, "d_kv": 8},
    "vision_config": {
        "hidden_size": 32,
        "patch_embed_hidden_size": 48,
        "d_ff": 48,
        "d_kv": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "seq_len": 64,
    },
}

STEPWISE = {"FSMTForConditionalGeneration", "ProphetNetForConditionalGeneration"}
CACHES_COPIED = {
    *STEPWISE,
    *("VisionEncoderDecoderModel", "LEDForConditionalGeneration", "GitForCausalLM", "T5Gemma2ForConditionalGeneration"),
}
"""Those of TrOCR's and LED's decoders too, which flatten batch and heads, and GIT's and T5Gemma 2's, which put others
beside them."""

LONG = {**WIDE, "model_type": "llama", "max_position_embeddings": 128}
GEMMA_PAIR = {
    **{name: value for name, value in LONG.items() if name != "model_type"},
    **{"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("sliding_attention", "full_attention")
    },
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "T5Gemma2ForConditionalGeneration": {  # an encoder that takes images beside words, or words alone
        "encoder": {
            "text_config": GEMMA_PAIR,
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
            **{"mm_tokens_per_image": 4, "boi_token_index": 117, "eoi_token_index": 116},
        },
        "decoder": GEMMA_PAIR,
        "image_token_index": 119,
    },
    "T5ForConditionalGeneration": T5,
    "MT5ForConditionalGeneration": {**T5, "num_layers": 1, "feed_forward_proj": "gated-gelu"},
    "MarianMTModel": BART,
    "M2M100ForConditionalGeneration": BART,
    "BartForConditionalGeneration": BART,
    "MBartForConditionalGeneration": {**BART, **ONE_LAYER},
    "PegasusForConditionalGeneration": {**BART, **ONE_LAYER},
    "LEDForConditionalGeneration": {
        **BART,
        **ONE_LAYER,
        "attention_window": [4],
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
    },
    "VisionEncoderDecoderModel": TROCR,
    "BlipForConditionalGeneration": {
        "text_config": {**TEXT, "encoder_hidden_size": 32, "sep_token_id": None},
        "vision_config": VISION,
    },
    "Pix2StructForConditionalGeneration": PIX2STRUCT,
    "GitForCausalLM": {**TEXT, "vision_config": VISION},  # words behind an image, whose patches do not see them
    "NllbMoeForConditionalGeneration": {**BART, **ONE_LAYER, "num_experts": 2},
    "SwitchTransformersForConditionalGeneration": {
        **T5,
        "num_decoder_layers": T5["num_layers"],
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "FSMTForConditionalGeneration": {  # its decoder takes one token at a time
        **BART,
        **ONE_LAYER,
        "src_vocab_size": 120,
        "tgt_vocab_size": 120,
        "langs": ["en", "de"],
    },
    "ProphetNetForConditionalGeneration": PROPHET,
    "Speech2TextForConditionalGeneration": {
        **BART,
        **ONE_LAYER,
        "input_feat_per_channel": 8,
        "conv_channels": 16,
        "max_source_positions": 30,
        "max_target_positions": 64,
    },
    "WhisperForConditionalGeneration": {
        **BART,
        "num_mel_bins": 8,
        "max_source_positions": 30,
        "max_target_positions": 64,
    },
}


UNTIED = {**LONG, "tie_word_embeddings": False}
PIXELS = ["pixel_values"]
PACKED = ["pixel_values", "image_grid_thw"]
IN_3D = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
MERGED = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 64,
    "num_heads": 4,
    "intermediate_size": 48,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
BLIP2 = {
    "vision_config": VISION,
    "qformer_config": {**TEXT, "encoder_hidden_size": 32},
    "num_query_tokens": 4,
    "image_token_index": IMAGE_TOKEN,
}
LFM2_VL: dict[str, Any] = {
    "vision_config": {**VISION, "model_type": "siglip2_vision_model", "patch_size": 4, "num_patches": 16},
    "text_config": {
        **WIDE,
        "model_type": "lfm2",
        "full_attn_idxs": [1],
        "max_position_embeddings": 256,
    },
    "projector_hidden_size": 40,
    "downsample_factor": 2,
}

VISION_LANGUAGE: dict[str, tuple[list[str], list[str], dict[str, Any]]] = {
    "LlavaForConditionalGeneration": (
        PIXELS,
        [],
        {"text_config": LONG, "vision_config": {**VISION, "model_type": "clip_vision_model"}},
    ),
    "LlavaNextForConditionalGeneration": (  # as a whole and in tiles
        PIXELS,
        [],
        {
            "text_config": {**LONG, "max_position_embeddings": 256},
            "vision_config": {**VISION, "model_type": "clip_vision_model"},
            "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]],
        },
    ),
    "SmolVLMForConditionalGeneration": (
        ["pixel_values", "pixel_attention_mask"],
        [],
        {"text_config": LONG, "vision_config": VISION, "scale_factor": 2},
    ),
    "Gemma3ForConditionalGeneration": (  # an image's tokens attend to all of it
        PIXELS,
        ["token_type_ids"],
        {
            "text_config": {**GEMMA, **UNTIED, "layer_types": ["sliding_attention", "full_attention"]},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
        },
    ),
    "PaliGemmaForConditionalGeneration": (  # a prompt's tokens attend to all of it, and positions start at one
        PIXELS,
        [],
        {
            "text_config": {**UNTIED, "model_type": "gemma", "head_dim": 16},
            "vision_config": {**VISION, "model_type": "siglip_vision_model", "projection_dim": 64},
            "projection_dim": 64,
        },
    ),
    "Blip2ForConditionalGeneration": (  # images in every forward pass
        PIXELS,
        [],
        {
            "text_config": {**TEXT, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32},
            "vision_config": VISION,
            "qformer_config": {**TEXT, "encoder_hidden_size": 32},
            "num_query_tokens": 4,
        },
    ),
    "InstructBlipForConditionalGeneration": (  # features made with a question in view
        [*PIXELS, "qformer_input_ids", "qformer_attention_mask"],
        [],
        {**BLIP2, "text_config": LONG},
    ),
    "Mistral3ForConditionalGeneration": (  # one image at a time, of any size
        PIXELS,
        [],
        {
            "text_config": {**UNTIED, "model_type": "mistral", "head_dim": 16},
            "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 8},
            "spatial_merge_size": 2,
        },
    ),
    "LlavaOnevisionForConditionalGeneration": (  # something is added to what the last layer gives
        PIXELS,
        [],
        {
            "text_config": {**UNTIED, "model_type": "qwen2"},
            "vision_config": {**VISION, "model_type": "siglip_vision_model"},
            "vision_feature_select_strategy": "full",
            "image_grid_pinpoints": [[32, 64], [64, 32]],
        },
    ),
    "Qwen2VLForConditionalGeneration": (  # positions in three dimensions
        ["pixel_values", "grid_thw"],
        ["position_ids"],
        {
            "text_config": {**UNTIED, "model_type": "qwen2_vl_text", **IN_3D},
            "vision_config": {**MERGED, "hidden_size": 64, "embed_dim": 32, "mlp_ratio": 2},
        },
    ),
    "Qwen2_5_VLForConditionalGeneration": (  # windows
        PACKED,
        ["position_ids"],
        {
            "text_config": {**UNTIED, "model_type": "qwen2_5_vl_text", **IN_3D},
            "vision_config": {**MERGED, "window_size": 32, "fullatt_block_indexes": [1]},
        },
    ),
    "Qwen3VLForConditionalGeneration": (  # features for later layers, and interpolated positions
        PACKED,
        ["position_ids"],
        {
            "text_config": {**UNTIED, "model_type": "qwen3_vl_text", "head_dim": 16, **IN_3D},
            "vision_config": {**MERGED, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        },
    ),
    "AriaForConditionalGeneration": (  # as many features as an image of so many patches has queries
        PIXELS,
        [],
        {
            "text_config": {
                **UNTIED,
                **{"model_type": "aria_text", "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
            },
            "vision_config": {**VISION, "model_type": "idefics3_vision"},
            "projector_patch_to_query_dict": {16: 4},
        },
    ),
    "ChameleonForConditionalGeneration": (  # images as codes, which are never written
        PIXELS,
        [],
        {
            **{name: value for name, value in WIDE.items() if name != "model_type"},
            "max_position_embeddings": 2048,
            "vq_config": {
                **{"resolution": 32, "base_channels": 32, "channel_multiplier": [1, 1, 2], "num_res_blocks": 1},
                **{"embed_dim": 16, "latent_channels": 16, "num_embeddings": 10},
            },
            "vocabulary_map": {"<image>": IMAGE_TOKEN, **{f"IMGIMG{chr(65 + code)}Z": 98 + code for code in range(10)}},
        },
    ),
    "Exaone4_5_ForConditionalGeneration": (  # images' attention in groups
        PACKED,
        [],
        {
            "text_config": {**UNTIED, "model_type": "exaone4", "layer_types": ["full_attention"] * 2},
            "vision_config": {**MERGED, "window_size": 32, "fullatt_block_indexes": [1], "num_key_value_heads": 2},
        },
    ),
    "HyperCLOVAXVisionV2ForConditionalGeneration": (  # features projected behind the tower
        PACKED,
        [],
        {
            "text_config": {**UNTIED, "model_type": "hyperclovax"},
            "vision_config": {
                **MERGED,
                "model_type": "qwen2_5_vl_vision",
                "window_size": 32,
                "fullatt_block_indexes": [1],
            },
        },
    ),
    "Glm4vMoeForConditionalGeneration": (  # experts
        PACKED,
        ["position_ids"],
        {
            "text_config": {
                **UNTIED,
                **{"model_type": "glm4v_moe_text", "moe_intermediate_size": 24, "n_routed_experts": 4},
                **{"num_experts_per_tok": 2, "first_k_dense_replace": 1},
                "rope_parameters": IN_3D["rope_parameters"]
                | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]},
            },
            "vision_config": {**MERGED, "image_size": 32},
        },
    ),
    "Glm4vForConditionalGeneration": (  # positions interpolated by the lengths of images
        PACKED,
        ["position_ids"],
        {
            "text_config": {**UNTIED, "model_type": "glm4v_text", "head_dim": 16, **IN_3D},
            "vision_config": {**MERGED, "image_size": 32},
        },
    ),
}
"""What the graph for images takes, what the decoder takes beside the usual, and the configuration."""


SWEPT = """
BertForMultipleChoice Blip2ForConditionalGeneration BlipForConditionalGeneration CLIPModel CLIPSegForImageSegmentation
ClapAudioModelWithProjection ClapTextModelWithProjection DPTForDepthEstimation Data2VecAudioForXVector DbrxForCausalLM
DeformableDetrForObjectDetection DetrForObjectDetection EomtForUniversalSegmentation FSMTForConditionalGeneration
GPTNeoForCausalLM Gemma3ForConditionalGeneration GitForCausalLM Glm4vForConditionalGeneration
HubertForSequenceClassification InstructBlipForConditionalGeneration LEDForConditionalGeneration
LevitForImageClassificationWithTeacher Llama4ForCausalLM LlavaNextForConditionalGeneration
LlavaOnevisionForConditionalGeneration M2M100ForConditionalGeneration MBartForConditionalGeneration
MT5ForConditionalGeneration MarianMTModel Mistral3ForConditionalGeneration NllbMoeForConditionalGeneration
OneFormerForUniversalSegmentation OpenAIGPTLMHeadModel OwlViTForObjectDetection PegasusForConditionalGeneration
Pix2StructForConditionalGeneration ProphetNetForConditionalGeneration Qwen2VLForConditionalGeneration
Qwen2_5_VLForConditionalGeneration Qwen3VLForConditionalGeneration RTDetrForObjectDetection
SegformerForSemanticSegmentation Siglip2Model SiglipModel SmolVLMForConditionalGeneration
Speech2TextForConditionalGeneration Swin2SRForImageSuperResolution SwitchTransformersForConditionalGeneration
TimesformerForVideoClassification VJEPA2ForVideoClassification ViTMAEModel ViltForQuestionAnswering
VisionEncoderDecoderModel VitsModel VivitForVideoClassification Wav2Vec2ForCTC Wav2Vec2ForXVector
WavLMForAudioFrameClassification WhisperForConditionalGeneration XLNetForSequenceClassification
YolosForObjectDetection ZoeDepthForDepthEstimation Exaone4_5_ForConditionalGeneration VitMatteForImageMatting
AriaForConditionalGeneration ChameleonForConditionalGeneration PromptDepthAnythingForDepthEstimation
HyperCLOVAXVisionV2ForConditionalGeneration Glm4vMoeForConditionalGeneration T5Gemma2ForConditionalGeneration
"""
"""What takes long and shows little that others, or the pipelines that export them, do not: left to `make sweep`."""


def rows(table: dict[str, Any]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.sweep) if name in SWEPT.split() else name for name in table]


@pytest.fixture
def folder(letters, tmp_path):
    for path in letters.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "onnx").mkdir()
    return tmp_path


def checkpoint(name: str, settings: dict[str, Any]) -> Checkpoint:
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    with without_losses():
        model = model_class(model_class.config_class(**settings)).eval()
    for parameter in model.parameters():  # random biases and norms too, so that none can go missing unseen
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    return Checkpoint(model, task_of(model_class), {}, name, None, None)


def crossed(name: str, settings: dict[str, Any], folder: Path) -> Any:
    model = checkpoint(name, settings)
    proven = trace_verified(model, folder)
    traced, parity = proven.traced, proven.parity
    assert parity.max_abs_diff < 1e-3
    assert parity.cosine_min > 0.99999
    return model.model, traced


@pytest.mark.parametrize("name", rows(IN_ONE_GO))
def test_in_one_go(name, folder):
    _, traced = crossed(name, IN_ONE_GO[name], folder)
    shapes = {value.name: value.shape for value in traced.graphs["model"].graph.inputs}
    assert all(str(shape[0]) in ("batch_size", "text_batch_size") for shape in shapes.values())
    assert (str(next(iter(shapes.values()))[0]) == "text_batch_size") == (name in APART)
    assert fixed_sizes(traced.graphs.values()) == ONE_SIZE.get(name, {})
    draws = [node for node in traced.graphs["model"].graph if node.op_type == "RandomNormalLike"]
    assert bool(draws) == (name == "VitsModel")  # it is measured without noise, and goes on making it


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["SamModel", "SamHQModel"])
def test_what_is_at_points_of_an_image(folder, name):
    """An image is embedded once, and asked about any number of things, each with any number of points on it."""
    model, traced = crossed(name, TINY["sam_hq" if "HQ" in name else "sam"][1], folder)
    sessions = {role: InferenceSession(folder / f"onnx/{role}.onnx") for role in traced.graphs}
    names = ["image_embeddings", "image_positional_embeddings", *["intermediate_embeddings"] * ("HQ" in name)]
    assert {role: names_of(session) for role, session in sessions.items()} == {
        "vision_encoder": (["pixel_values"], names),
        "prompt_encoder_mask_decoder": (["input_points", "input_labels", *names], ["iou_scores", "pred_masks"]),
    }
    random = np.random.default_rng(3)
    pixels = random.normal(size=(2, 3, 64, 64)).astype(np.float32)
    seen = dict(zip(names, sessions["vision_encoder"].run(None, {"pixel_values": pixels}), strict=True))
    for things, points in ((1, 1), (4, 1), (1, 3)):
        asked = {
            "input_points": random.uniform(0, 64, (2, things, points, 2)).astype(np.float32),
            "input_labels": random.choice([-10, -1, 0, 1], (2, things, points)),
        }
        expected = model(torch.from_numpy(pixels), **{name: torch.from_numpy(each) for name, each in asked.items()})
        scores, masks = sessions["prompt_encoder_mask_decoder"].run(None, asked | seen)
        assert masks.shape == (2, things, 3, 32, 32)
        np.testing.assert_allclose(scores, expected.iou_scores.detach(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(masks, expected.pred_masks.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.sweep
def test_what_is_at_points_of_an_image_at_several_resolutions(folder):
    """As transformers.js names them."""
    _, settings, *_ = TINY["sam2"]
    model, traced = crossed("Sam2Model", settings, folder)
    sessions = {role: InferenceSession(folder / f"onnx/{role}.onnx") for role in traced.graphs}
    names = [f"image_embeddings.{level}" for level in range(3)]
    outputs = ["iou_scores", "pred_masks", "object_score_logits"]
    assert {role: names_of(session) for role, session in sessions.items()} == {
        "vision_encoder": (["pixel_values"], names),
        "prompt_encoder_mask_decoder": (["input_points", "input_labels", *names], outputs),
    }
    assert fixed_sizes(traced.graphs.values()) == {"pixel_values": {"height": 64, "width": 64}}
    random = np.random.default_rng(3)
    pixels = random.normal(size=(3, 3, 64, 64)).astype(np.float32)
    seen = dict(zip(names, sessions["vision_encoder"].run(None, {"pixel_values": pixels}), strict=True))
    for things, points in ((1, 1), (4, 1), (1, 3)):
        asked = {
            "input_points": random.uniform(0, 64, (3, things, points, 2)).astype(np.float32),
            "input_labels": random.choice([-10, -1, 0, 1], (3, things, points)),
        }
        expected = model(torch.from_numpy(pixels), **{name: torch.from_numpy(each) for name, each in asked.items()})
        found = sessions["prompt_encoder_mask_decoder"].run(None, asked | seen)
        for name, each in zip(outputs, found, strict=True):
            np.testing.assert_allclose(each, expected[name].detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.sweep
def test_a_model_that_keeps_to_the_size_of_its_anchors(folder):
    name, size = "RTDetrForObjectDetection", [64, 64]
    _, traced = crossed(name, {**RTDETR, "anchor_image_size": size}, folder)
    sizes = fixed_sizes(traced.graphs.values())
    assert sizes == {"pixel_values": {"height": 64, "width": 64}}
    assert in_words(sizes) == "pixel_values of one size alone, height 64, width 64"


@pytest.mark.parametrize("name", rows(TOWERS))
def test_towers(name, folder):
    model = checkpoint(name, {"text_config": TEXT, "vision_config": VISION})
    proven = trace_verified(model, folder)
    traced, verifier, parity = proven.traced, proven.verifier, proven.parity
    assert parity.max_abs_diff < 1e-3
    kinds = [node.op_type for node in traced.graphs["model"].graph]
    assert kinds.count("Attention") == 4  # of two layers each, the text's with a mask and the image's without
    ports = {
        role: ([value.name for value in model.graph.inputs], [value.name for value in model.graph.outputs])
        for role, model in traced.graphs.items()
    }
    texts, images = TOWERS[name]
    assert ports == {
        "model": (
            ["input_ids", "attention_mask", "pixel_values"],
            ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
        ),
        "text_model": (["input_ids", "attention_mask"], texts),
        "vision_model": (["pixel_values"], images),
    }
    session = InferenceSession(folder / "onnx/model.onnx")
    random = np.random.default_rng(3)
    feed = {  # three labels for one image
        "input_ids": random.integers(5, 119, (3, 9)),
        "attention_mask": np.ones((3, 9), np.int64),
        "pixel_values": random.normal(size=(1, 3, 32, 32)).astype(np.float32),
    }
    expected = model.model(**{key: torch.from_numpy(value) for key, value in feed.items()}).logits_per_image
    np.testing.assert_allclose(session.run(["logits_per_image"], feed)[0], expected.detach(), rtol=1e-3, atol=1e-4)
    paths = {role: folder / f"onnx/{role}_quantized.onnx" for role in traced.graphs}
    plan = Plan(["int8"], Settings(), None, None, None, None)
    feeds = Entries(model, folder, plan).feeds(traced)
    quantizer = Quantizer(traced.graphs, feeds, plan.settings, real=False)
    quantized, _ = write_variant(quantizer, "int8", paths, verifier.measure)
    judge("int8", quantized)


def test_encoder_before_a_decoder_computes_in_8_bits(folder):
    """So does what a decoder makes of its states, once; steps do not. More of the encoder may be kept."""
    model = checkpoint("T5ForConditionalGeneration", T5)
    proven = trace_verified(model, folder)
    traced, verifier = proven.traced, proven.verifier
    plan = Plan(["int8"], Settings(), None, None, None, None)
    feeds = Entries(model, folder, plan).feeds(traced)
    quantizer = Quantizer(traced.graphs, feeds, plan.settings, real=False)
    encoder, decoder = (
        [node.op_type for node in quantizer.make(role, "int8").graph.all_nodes()]
        for role in ("encoder_model", "decoder_model_merged")
    )
    assert "MatMulIntegerToFloat" in encoder
    assert "MatMulNBits" not in encoder
    assert decoder.count("MatMulIntegerToFloat") == 2 * T5["num_layers"]
    assert decoder.count("QuantizeLinear") == 1
    assert decoder.count("MatMulNBits") > decoder.count("MatMulIntegerToFloat")
    none, *some = quantizer.rounds("int8")
    assert not none
    assert [set(kept) for kept in some] == [{"encoder_model"}] * len(some)
    counts = [len(kept["encoder_model"]) for kept in some]
    assert counts == sorted(set(counts))
    assert counts[0] > 0
    paths = {role: folder / f"onnx/{role}_int8.onnx" for role in traced.graphs}
    parity, recipe = write_variant(quantizer, "int8", paths, verifier.measure)
    judge("int8", parity)
    assert recipe.startswith("weights in 8 bits, blocks of 64, symmetric; encoder_model: dynamic")


@pytest.mark.sweep
@pytest.mark.parametrize("fusion", [False, True])
def test_towers_of_sounds(folder, fusion):
    """Where crops are fused, only those of sounds that are longer count."""
    sound = {**CLAP_SOUND, "enable_fusion": fusion, "fusion_type": "aff_2d" if fusion else None}
    model = checkpoint("ClapModel", {**CLAP, "audio_config": sound})
    proven = trace_verified(model, folder)
    traced, parity = proven.traced, proven.parity
    assert parity.max_abs_diff < 1e-3
    heard = ["input_features", "is_longer"] if fusion else ["input_features"]
    sessions = {role: InferenceSession(folder / f"onnx/{role}.onnx") for role in traced.graphs}
    assert {role: names_of(session) for role, session in sessions.items()} == {
        "model": (
            ["input_ids", "attention_mask", *heard],
            ["logits_per_audio", "logits_per_text", "text_embeds", "audio_embeds"],
        ),
        "text_model": (["input_ids", "attention_mask"], ["text_embeds"]),
        "audio_model": (heard, ["audio_embeds"]),
    }
    assert fixed_sizes(traced.graphs.values()) == {}
    random = np.random.default_rng(3)
    texts = {"input_ids": random.integers(5, 119, (3, 9)), "attention_mask": np.ones((3, 9), np.int64)}
    shape = (2, 4 if fusion else 1, 201, 16)
    for longer in ([False, False], [True, False], [True, True]):
        sounds = {"input_features": random.normal(size=shape).astype(np.float32)}
        sounds |= {"is_longer": np.array(longer)[:, None]} if fusion else {}
        given = {key: torch.from_numpy(value) for key, value in (texts | sounds).items()}
        expected = model.model(**given).logits_per_audio.detach()
        found = sessions["model"].run(["logits_per_audio"], texts | sounds)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        output = model.model.audio_model(given["input_features"], given.get("is_longer"))
        expected = model.model.audio_projection(output.pooler_output).detach()
        np.testing.assert_allclose(sessions["audio_model"].run(None, sounds)[0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", rows(DECODERS))
def test_decoder(name, folder):
    side, settings = DECODERS[name]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        model, traced = crossed(name, settings, folder)
    slow = [f"{each.message}" for each in told if f"{each.message}".startswith(f"{name} reads ")]
    kinds = [node.op_type for node in traced.graphs["model"].graph]
    assert len(slow) == kinds.count("Loop") + (name == "OpenAIGPTLMHeadModel")
    assert traced.padding_side == side
    writes_as_generate_does(model, folder, side)


def writes_as_generate_does(model: Any, folder: Path, side: Any) -> None:
    rows = [np.random.default_rng(seed).integers(5, 90, length).tolist() for seed, length in enumerate((3, 9, 5))]
    decoder = Decoder(Session(folder / "onnx/model.onnx", device="cpu"), side)
    for row, tokens in zip(rows, generate(decoder, rows, GenerationConfig(max_new_tokens=32)), strict=True):
        ids = torch.tensor([row])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, eos_token_id=None
        )
        assert tokens == expected[0, len(row) :].tolist()


WORDS_ALONE = (
    "LlavaForConditionalGeneration",
    "Gemma3ForConditionalGeneration",
    *(
        pytest.param(name, marks=pytest.mark.sweep)
        for name in (
            "LlavaNextForConditionalGeneration",
            "LlavaOnevisionForConditionalGeneration",
            "SmolVLMForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
            "Qwen2VLForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
            "Glm4vForConditionalGeneration",
        )
    ),
)


@pytest.mark.parametrize("name", WORDS_ALONE)
def test_what_sees_writes_about_words_alone(folder, letters, name):
    writes_about_words_alone(checkpoint(name, VISION_LANGUAGE[name][2]).model, folder, letters)


@pytest.mark.parametrize(
    "name", ["Voxtral", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("GlmAsr", "Qwen3ASR"))]
)
def test_what_hears_writes_about_words_alone(folder, letters, name):
    writes_about_words_alone(hearing(name), folder, letters)


def writes_about_words_alone(model: Any, folder: Path, letters: Path) -> None:
    model.save_pretrained(folder / "checkpoint")
    for file in letters.iterdir():
        shutil.copy(file, folder / "checkpoint")
    (folder / "checkpoint/preprocessor_config.json").write_text("{}")
    bundle = export(folder / "checkpoint", folder / "bundle", task="text-generation", precision=["fp32"])
    assert bundle.task == "text-generation"
    assert bundle.variants["fp32"].parity["max_abs_diff"] < 1e-3
    whole = transformers.AutoConfig.from_pretrained(folder / "checkpoint")
    assert bundle.config["model_type"] == whole.get_text_config().model_type
    assert not (bundle.folder / "preprocessor_config.json").exists()
    writes_as_generate_does(model, bundle.folder, bundle.padding_side)


@pytest.mark.parametrize(
    "name", ["Roberta", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("XLMRoberta", "Camembert"))]
)
def test_positions_count_from_behind_that_of_the_padding_token(folder, name):
    """As RoBERTa's forward has them, by which it is trained; `generate` hands it positions from zero on."""
    model, traced = crossed(f"{name}ForCausalLM", {**ROBERTA, "is_decoder": True}, folder)
    decoder = Decoder(Session(folder / "onnx/model.onnx", device="cpu"), traced.padding_side)
    rows = [[7, 8, 9], [20, 5, 33, 14, 60, 71]]
    for row, tokens in zip(rows, generate(decoder, rows, GenerationConfig(max_new_tokens=32)), strict=True):
        ids = torch.tensor([row])
        for _ in range(32):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert tokens == ids[0, len(row) :].tolist()
    names = {"BertModel": 64, "RobertaModel": 64, "XLMRobertaModel": 64, "GPT2Model": 64}
    for name, limit in names.items():
        settings = {**(ROBERTA if "Roberta" in name else TEXT), "n_positions": 64}
        model = getattr(transformers, name)(getattr(transformers, name).config_class(**settings))
        assert position_limit(model) == limit, name


@pytest.mark.parametrize("name", rows(ENCODER_DECODERS))
def test_encoder_decoder(name, folder):
    model, traced = crossed(name, ENCODER_DECODERS[name], folder)
    encoder, decoder = (
        InferenceSession(folder / f"onnx/{role}.onnx", providers=["CPUExecutionProvider"])
        for role in ("encoder_model", "decoder_model_merged")
    )
    feed = inputs_of(model)
    states = encoder.run(None, feed)[0]
    expected = model.generate(
        **{key: torch.from_numpy(value) for key, value in feed.items()},
        max_new_tokens=32,
        min_new_tokens=32,
        do_sample=False,
        num_beams=1,
        **({} if is_captioner(model) else {"eos_token_id": None}),
    )
    tokens = greedy(decoder, states, feed.get("attention_mask"), start_token(model), 32)
    assert tokens.tolist() == expected[:, -32:].tolist()
    kinds = [node.op_type for node in traced.graphs["decoder_model_merged"].graph]
    assert kinds.count("If") == 1  # and it holds nothing but the projections of the encoder's states
    branch = next(node for node in traced.graphs["decoder_model_merged"].graph if node.op_type == "If")
    computed = [node.op_type for node in branch.attributes["else_branch"].as_graph()]
    layers = sum(port.name.endswith("encoder.key") for port in decoder.get_outputs())
    assert computed.count("MatMul") == 2 * layers
    kept = [node.op_type for node in branch.attributes["then_branch"].as_graph()]
    assert ("Identity" in kept) == (name in CACHES_COPIED)  # otherwise no later step copies the encoder's caches
    assert ("Loop" in kinds) == (name in STEPWISE)
    if name == "MarianMTModel":
        assert_known_names(folder)


@pytest.mark.parametrize("name", rows(VISION_LANGUAGE))
def test_vision_language(name, folder):
    takes, more, settings = VISION_LANGUAGE[name]
    ids = {"image_token_id": IMAGE_TOKEN, "video_token_id": 118, "vision_start_token_id": 117}
    model, traced = crossed(name, {**settings, **ids, "tie_word_embeddings": False}, folder)
    kinds = [node.op_type for node in traced.graphs["decoder_model_merged"].graph]
    assert kinds.count("GroupQueryAttention") == (2 if traced.padding_side == "right" else 0)
    assert (traced.padding_side == "left") == ("Gemma" in name)
    graphs = {role: folder / f"onnx/{role}.onnx" for role in traced.graphs}
    assert set(graphs) == {"vision_encoder", "embed_tokens", "decoder_model_merged"}
    caches = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    sessions = {role: InferenceSession(path, providers=["CPUExecutionProvider"]) for role, path in graphs.items()}
    assert names_of(sessions["vision_encoder"]) == (takes, ["image_features"])
    assert names_of(sessions["embed_tokens"]) == (["input_ids"], ["inputs_embeds"])
    assert names_of(sessions["decoder_model_merged"]) == (
        ["inputs_embeds", "attention_mask", *more, *(f"past_key_values.{name}" for name in caches)],
        ["logits", *(f"present.{name}" for name in caches)],
    )
    several = {"pixel_attention_mask", "batch_num_images"} & set(image_parameters(model))
    for scale, images in ((1, 1 if several else 2), *([(1.5, 1)] if takes_other_sizes(model) else [])):
        prompt = prompt_with(model, image_inputs(model, rows=images, seed=3, scale=scale))
        expected = model.generate(**prompt, max_new_tokens=32, do_sample=False, eos_token_id=None)
        length = prompt["input_ids"].shape[1]
        assert tokens_of(model, graphs, traced.padding_side, prompt, 32) == expected[0, length:].tolist()


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["Qwen3_5", "Qwen3_5Moe"])
def test_images_among_words_of_a_recurrence(folder, kind):
    """Qwen3.5's decoder is traced for a token, its place in time, height and width with it, and repeated for others."""
    places = {"mrope_section": [2, 3, 3], "mrope_interleaved": True, "partial_rotary_factor": 0.25}
    recurrent = {f"linear_{name}": size for name, size in (("num_key_heads", 2), ("num_value_heads", 4))}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 24}
    settings = {
        "text_config": {
            **UNTIED,
            "model_type": "qwen3_5_moe_text" if kind == "Qwen3_5Moe" else "qwen3_5_text",
            **(experts | {"moe_intermediate_size": 24} if kind == "Qwen3_5Moe" else {}),
            "head_dim": 64,
            "rope_parameters": IN_3D["rope_parameters"] | places,
            "layer_types": ["linear_attention", "full_attention"],
            **recurrent,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "vision_config": {**MERGED, "num_position_embeddings": 16},
        **{"image_token_id": IMAGE_TOKEN, "video_token_id": 118, "vision_start_token_id": 117},
        "tie_word_embeddings": False,
    }
    with pytest.warns(UserWarning, match="reads prompts a token at a time"):
        model, traced = crossed(f"{kind}ForConditionalGeneration", settings, folder)
    graphs = {role: folder / f"onnx/{role}.onnx" for role in traced.graphs}
    kept = ("conv.0", "recurrent.0", "key_values.1.key", "key_values.1.value")
    inputs, _ = names_of(InferenceSession(graphs["decoder_model_merged"]))
    assert inputs == ["inputs_embeds", "attention_mask", "position_ids", *(f"past_{name}" for name in kept)]
    for scale, images in ((1, 2), (1.5, 1)):
        prompt = prompt_with(model, image_inputs(model, rows=images, seed=3, scale=scale))
        expected = model.generate(**prompt, max_new_tokens=32, do_sample=False, eos_token_id=None)
        length = prompt["input_ids"].shape[1]
        assert tokens_of(model, graphs, traced.padding_side, prompt, 32) == expected[0, length:].tolist()


@pytest.mark.sweep
def test_images_among_words_that_come_as_patches_of_unlike_numbers(folder):
    name = "Lfm2VlForConditionalGeneration"
    model, traced = crossed(name, {**LFM2_VL, "image_token_id": IMAGE_TOKEN}, folder)
    graphs = {role: folder / f"onnx/{role}.onnx" for role in traced.graphs}
    vision = InferenceSession(graphs["vision_encoder"], providers=["CPUExecutionProvider"])
    assert names_of(vision) == (["pixel_values", "pixel_attention_mask", "spatial_shapes"], ["image_features"])
    for scale, images in ((1, 2), (1.5, 1)):
        prompt = prompt_with(model, image_inputs(model, rows=images, seed=3, scale=scale))
        expected = model.generate(**prompt, max_new_tokens=32, do_sample=False, eos_token_id=None)
        length = prompt["input_ids"].shape[1]
        assert tokens_of(model, graphs, traced.padding_side, prompt, 32) == expected[0, length:].tolist()


@pytest.mark.parametrize(
    "kind", ["Florence2", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("Blip2", "InstructBlip"))]
)
def test_encoder_decoder_that_sees_images(folder, kind):
    stages = {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [8, 4],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, 8],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "window_size": 2,
        "projection_dim": 32,
        "drop_path_rate": 0.0,
    }
    settings = {**BLIP2, "text_config": {**T5, "model_type": "t5"}}
    if kind == "Florence2":
        text = {**BART, **ONE_LAYER, "model_type": "bart"}
        settings = {"text_config": text, "vision_config": stages, "image_token_id": IMAGE_TOKEN}
    model, traced = crossed(f"{kind}ForConditionalGeneration", settings, folder)
    sessions = {
        role: InferenceSession(folder / f"onnx/{role}.onnx", providers=["CPUExecutionProvider"])
        for role in traced.graphs
    }
    assert names_of(sessions["encoder_model"]) == (["inputs_embeds", "attention_mask"], ["last_hidden_state"])
    images = joined(image_inputs(model, rows=2, seed=9))
    seen = len(features_of(model, images)) // 2
    ids = np.concatenate([np.full((2, seen), IMAGE_TOKEN), np.random.default_rng(2).integers(5, 100, (2, 6))], 1)
    mask = np.ones_like(ids)
    mask[1, -2:] = 0
    expected = model.generate(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        **images,
        max_new_tokens=32,
        min_new_tokens=32,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
    )
    embeddings = sessions["embed_tokens"].run(None, {"input_ids": ids})[0]
    given = {name: value.numpy() for name, value in graph_images(images).items()}
    assert ("qformer_input_ids" in given) == (kind == "InstructBlip")
    features = sessions["vision_encoder"].run(None, given)[0]
    embeddings[ids == IMAGE_TOKEN] = features.reshape(-1, features.shape[-1])
    states = sessions["encoder_model"].run(None, {"inputs_embeds": embeddings, "attention_mask": mask})[0]
    text = {
        role: Session(folder / f"onnx/{role}.onnx", device="cpu") for role in ("embed_tokens", "decoder_model_merged")
    }
    engine = Engine(Decoder(text["decoder_model_merged"], "left", embed=text["embed_tokens"]))
    requests = [
        engine.submit(
            [start_token(model)],
            GenerationConfig(max_new_tokens=32),
            {"encoder_hidden_states": states[row : row + 1], "encoder_attention_mask": mask[row : row + 1]},
        )
        for row in (0, 1)
    ]
    list(engine.run())
    assert [request.choosers[0].ids[1:].tolist() for request in requests] == expected[:, -32:].tolist()


def prompt_with(model: Any, images: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A row of text with those images in it."""
    tokens = []
    for number, image in enumerate(images):
        tokens += [9 + number, *[IMAGE_TOKEN] * len(features_of(model, image)), 10, 11, 12]
    ids = torch.tensor([tokens])
    kinds = (ids == IMAGE_TOKEN).to(torch.int64) * (looks_ahead(model) != "prompts")
    names = {"token_type_ids", "mm_token_type_ids"} & set(parameters_of(model))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **joined(images), **dict.fromkeys(names, kinds)}


def tokens_of(
    model: Any, graphs: dict[str, Path], side: str | None, prompt: dict[str, torch.Tensor], steps: int
) -> list[int]:
    """By the runtime's engine, beside a request of words alone."""
    sessions = {role: Session(path, device="cpu", threads=1) for role, path in graphs.items()}
    decoder = Decoder(sessions["decoder_model_merged"], side, embed=sessions["embed_tokens"])
    ids = prompt["input_ids"].numpy()
    names = set(image_parameters(model))
    images = graph_images({name: value.numpy() for name, value in prompt.items() if name in names})
    given = {
        "inputs_embeds": sessions["embed_tokens"].run({"input_ids": ids})["inputs_embeds"],
        "token_type_ids": (ids == IMAGE_TOKEN).astype(np.int64),
        "position_ids": token_positions(model, prompt)[:, None],
    }
    read = features_read(model, prompt)
    features = features_by(sessions["vision_encoder"], images)
    given["inputs_embeds"][ids == IMAGE_TOKEN] = features if read is None else features[read]
    engine = Engine(decoder)
    config = GenerationConfig(max_new_tokens=steps)
    words = engine.submit([9, 10, 11], config)
    request = engine.submit(ids[0].tolist(), config, given)
    list(engine.run())
    assert words.choosers[0].ids[3:].tolist() == generate(decoder, [[9, 10, 11]], config)[0]
    found: list[int] = request.choosers[0].ids[ids.shape[1] :].tolist()
    return found


def features_by(vision: Session, images: dict[str, Any]) -> Any:
    """A vector for each image token; a graph whose batch is one takes image after image."""
    given = {name if name in vision.inputs else "grid_thw": value for name, value in images.items()}
    one_by_one = vision.inputs["pixel_values"].shape[0] == 1
    batches = [{"pixel_values": image[None]} for image in given["pixel_values"]] if one_by_one else [given]
    found = [vision.run(batch)["image_features"] for batch in batches]
    return np.concatenate([features.reshape(-1, features.shape[-1]) for features in found])


def test_a_model_fed_with_images_first_is_refused_in_one_line(folder):
    text = {"vocab_size": 120, "embed_dim": 32, "layers": 1, "ffn_dim": 48, "attention_heads": 4}
    settings = {"text_config": text, "vision_config": VISION, "latent_query_num": 4}
    with pytest.raises(ExportError, match="fed with images first") as told:
        trace_verified(checkpoint("Kosmos2ForConditionalGeneration", settings), folder)
    assert "\n" not in str(told.value)


def test_a_model_that_takes_images_into_its_decoder_is_refused_in_one_line(folder):
    settings = {**T5, "image_size": 32, "patch_size": 8, "max_2d_position_embeddings": 32}
    with pytest.raises(TaskError, match=r"^UdopForConditionalGeneration cannot be .*: it tells no features") as told:
        trace_verified(checkpoint("UdopForConditionalGeneration", settings), folder)
    assert "\n" not in str(told.value)


def test_a_trace_that_fails_is_one_line_on_the_terminal(folder, capfd):
    """A loop over tokens, which is unrolled for as many as there happened to be."""
    settings = {"vocab_size": 120, "context_length": 64, "hidden_size": 32, "num_hidden_layers": 2}
    with pytest.raises(ExportError, match=r"^RwkvForCausalLM cannot be exported") as caught:
        trace_verified(checkpoint("RwkvForCausalLM", settings), folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_leaves_out_parts_of_images_by_chance_is_refused_in_one_line(folder):
    settings = {**TEXT, "image_size": 32, "patch_size": 8, "max_image_length": 9}
    with pytest.raises(ExportError, match="it draws 9 patches of a larger image by chance") as caught:
        trace_verified(checkpoint("ViltForQuestionAnswering", settings), folder)
    assert "\n" not in str(caught.value)


def test_speech(folder):
    model, traced = crossed("SpeechT5ForTextToSpeech", SPEECHT5, folder)
    kinds = [node.op_type for node in traced.graphs["decoder_model_merged"].graph]
    assert kinds.count("RandomUniformLike") == 2  # each layer of the prenet drops some of what it gives, as in torch
    with ExitStack() as stack:
        encoder, decoder, postnet = (
            InferenceSession(stack.enter_context(stilled(folder / f"onnx/{role}.onnx")))
            for role in ("encoder_model", "decoder_model_merged", "decoder_postnet")
        )
    caches = [
        f"{layer}.{kind}.{part}" for layer in (0, 1) for kind in ("decoder", "encoder") for part in ("key", "value")
    ]
    assert names_of(encoder) == (["input_ids"], ["encoder_outputs", "encoder_attention_mask"])
    assert names_of(decoder) == (
        [
            *("output_sequence", "speaker_embeddings", "encoder_attention_mask", "encoder_hidden_states"),
            *("use_cache_branch", *(f"past_key_values.{name}" for name in caches)),
        ],
        ["output_sequence_out", "spectrum", "prob", *(f"present.{name}" for name in caches)],
    )
    random, steps = np.random.default_rng(4), 32
    ids = random.integers(5, 120, (2, 11))
    ids[1, 7:] = model.config.pad_token_id
    speakers = random.normal(size=(2, 12)).astype(np.float32)
    with still():
        expected = speak(model, torch.from_numpy(ids), torch.from_numpy(speakers), steps).numpy()
    states, mask = encoder.run(None, {"input_ids": ids})
    given = {"speaker_embeddings": speakers, "encoder_hidden_states": states, "encoder_attention_mask": mask}
    given |= {f"past_key_values.{name}": np.zeros((2, 4, 0, 8), np.float32) for name in caches}
    given["output_sequence"], spectrums = np.zeros((2, 1, 8), np.float32), []
    for step in range(steps):
        found = decoder.run(None, given | {"use_cache_branch": np.array([step > 0])})
        given["output_sequence"], spectrum, prob, *present = found
        given |= {
            f"past_key_values.{name}": value
            for name, value in zip(caches, present, strict=True)
            if step == 0 or "encoder" not in name
        }
        spectrums.append(spectrum.reshape(2, -1, 8))
        assert prob.shape == (2 * model.config.reduction_factor,)
    spectrogram = postnet.run(None, {"spectrogram": np.concatenate(spectrums, 1)})[0]
    assert spectrogram.shape == expected.shape == (2, steps * model.config.reduction_factor, 8)
    np.testing.assert_allclose(spectrogram, expected, rtol=1e-3, atol=1e-4)


def test_a_model_that_sees_images_is_no_decoder_of_text_alone():
    for name in ("Gemma3ForConditionalGeneration", "GotOcr2ForConditionalGeneration", *VISION_LANGUAGE):
        assert task_of(getattr(transformers, name)) == "image-text-to-text"


def test_what_optimum_does_not_know_is_told_by_its_kind():
    tasks = {
        "Llama4ForConditionalGeneration": "image-text-to-text",
        "BlipForConditionalGeneration": "image-to-text",
        "GitForCausalLM": "image-to-text",
        "BlipForQuestionAnswering": "visual-question-answering",
        "Blip2ForConditionalGeneration": "image-text-to-text",
        "LayoutLMForQuestionAnswering": "question-answering",
        "DecisionTransformerModel": "reinforcement-learning",
        "BertForNextSentencePrediction": "text-classification",
        "PatchTSTForClassification": "time-series-classification",
        "PatchTSMixerForRegression": "time-series-regression",
    }
    assert {name: task_of(getattr(transformers, name)) for name in tasks} == tasks


def names_of(session: InferenceSession) -> tuple[list[str], list[str]]:
    return [port.name for port in session.get_inputs()], [port.name for port in session.get_outputs()]


def assert_known_names(folder):
    """Those of optimum and transformers.js."""
    ports = {}
    for role in ("encoder_model", "decoder_model_merged"):
        graph = ir.load(folder / f"onnx/{role}.onnx").graph
        ports[role] = ({value.name for value in graph.inputs}, {value.name for value in graph.outputs})
    caches = [
        f"{layer}.{kind}.{part}" for layer in (0, 1) for kind in ("decoder", "encoder") for part in ("key", "value")
    ]
    assert [value.name for value in graph.inputs][-8:] == [f"past_key_values.{name}" for name in caches]
    assert [value.name for value in graph.outputs] == ["logits", *(f"present.{name}" for name in caches)]
    assert ports["encoder_model"] == ({"input_ids", "attention_mask"}, {"last_hidden_state"})
    assert ports["decoder_model_merged"] == (
        {
            "input_ids",
            "encoder_attention_mask",
            "encoder_hidden_states",
            "use_cache_branch",
            *(f"past_key_values.{name}" for name in caches),
        },
        {"logits", *(f"present.{name}" for name in caches)},
    )


def inputs_of(model: Any) -> dict[str, Any]:
    random = np.random.default_rng(2)
    if model.main_input_name == "input_features":
        shape = [2, *(8 if axis == "feature_size" else 60 for axis in axes_of(model, "input_features")[1:])]
        return {"input_features": random.normal(size=shape).astype(np.float32)}
    if model.main_input_name == "flattened_patches":
        patches = random.normal(size=(2, 12, 50)).astype(np.float32)
        patches[:, :, :2] = 1 + np.stack(np.divmod(np.arange(12), 4), 1)
        patches[1, 8:] = 0
        return {"flattened_patches": patches, "attention_mask": patches.any(2).astype(np.int64)}
    if model.main_input_name == "pixel_values" or is_captioner(model):
        return {"pixel_values": random.normal(size=(2, 3, 32, 32)).astype(np.float32)}
    mask = np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    ids = random.integers(5, 120, (2, 9))
    return {"input_ids": np.where(mask, ids, model.config.pad_token_id), "attention_mask": mask}


def greedy(decoder: InferenceSession, states: Any, mask: Any, start: int, steps: int) -> Any:
    ports = {port.name: port.shape for port in decoder.get_inputs()}
    past = {name: np.zeros((2, shape[1], 0, shape[3]), np.float32) for name, shape in ports.items() if "past" in name}
    ids, tokens = np.full((2, 1), start), []
    for step in range(steps):
        feed = {
            "input_ids": ids,
            "encoder_hidden_states": states,
            "encoder_attention_mask": mask,
            "use_cache_branch": np.array([step > 0]),
        }
        names = [port.name for port in decoder.get_outputs()]
        given = {name: value for name, value in (feed | past).items() if name in ports}
        values = dict(zip(names, decoder.run(names, given), strict=True))
        past |= {
            name.replace("present", "past_key_values"): values[name]
            for name in names
            if name != "logits" and (step == 0 or "encoder" not in name)
        }
        ids = values["logits"][:, -1:].argmax(-1)
        tokens.append(ids[:, 0])
    return np.stack(tokens, 1)


def test_what_cannot_be_traced_is_refused_with_what_every_way_says_once(folder):
    name, settings = "RecurrentGemmaForCausalLM", {**WIDE, "lru_width": 64, "num_hidden_layers": 3}
    same = f"fused, plain, stepwise: {name} keeps no cache between steps that its forward gives and takes"
    with pytest.raises(ExportError, match=f"^{name} cannot be exported for text-generation: {same}; reread") as caught:
        trace_verified(checkpoint(name, settings), folder)
    assert "\n" not in str(caught.value)
    assert not list((folder / "onnx").iterdir())


def test_a_decoder_without_a_cache_reads_all_tokens_again(folder):
    """What is kept are their digits, of which float16 loses none."""
    settings = {**TEXT, "vocab_size": 70000, "n_embd": 8, "n_layer": 1, "n_head": 2}
    given = checkpoint("OpenAIGPTLMHeadModel", settings)
    model, traced = given.model, trace_verified(given, folder).traced
    ports = {value.name: value.shape for value in traced.graphs["model"].graph.inputs}
    assert [str(axis) for axis in ports["past_tokens"]] == ["batch_size", "1", "past_sequence_length", "3"]
    feeds = Entries(given, folder, Plan(["fp16"], Settings(), None, None, None, None)).feeds(traced)
    quantizer = Quantizer(traced.graphs, feeds, Settings(), real=False)
    save([quantizer.make("model", "fp16")], [folder / "onnx/model_fp16.onnx"])
    session = InferenceSession(folder / "onnx/model_fp16.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[2].type == "tensor(float16)"
    ids = np.array([[69999, 2049, 65537, 4097]])
    past = np.zeros((1, 1, 0, 3), np.float16)
    mask = np.ones((1, 5), np.int64)
    _, past = session.run(None, {"input_ids": ids, "attention_mask": mask[:, :4], "past_tokens": past})
    assert past.tolist() == [[[[1, 17, 111], [0, 8, 1], [1, 0, 1], [0, 16, 1]]]]
    logits, _ = session.run(None, {"input_ids": ids[:, :1], "attention_mask": mask, "past_tokens": past})
    expected = model(torch.from_numpy(np.concatenate([ids, ids[:, :1]], 1))).logits[:, -1:]
    np.testing.assert_allclose(logits, expected.detach(), rtol=2e-2, atol=2e-3)


CODECS = {
    "DacModel": {
        **{"encoder_hidden_size": 8, "downsampling_ratios": [2, 4], "decoder_hidden_size": 32},
        **{"upsampling_ratios": [4, 2], "n_codebooks": 3, "codebook_size": 16, "codebook_dim": 4},
    },
    "EncodecModel": {  # recurrences
        **{"num_filters": 4, "hidden_size": 16, "codebook_size": 16, "codebook_dim": 16},
        **{"upsampling_ratios": [4, 2], "num_lstm_layers": 1, "target_bandwidths": [6.0], "sampling_rate": 4000},
    },
    "MimiModel": {  # layers of attention within a window
        **{"hidden_size": 32, "num_filters": 4, "upsampling_ratios": [4, 2], "upsample_groups": 32},
        **{"num_quantizers": 4, "codebook_size": 16, "codebook_dim": 16, "vector_quantization_hidden_dimension": 16},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8},
        **{"intermediate_size": 48, "sliding_window": 6, "frame_rate": 12.5, "sampling_rate": 200},
    },
}


@pytest.mark.parametrize(
    "name", ["DacModel", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("EncodecModel", "MimiModel"))]
)
def test_codecs(folder, name):
    """Sounds to codes and codes to sounds, as transformers.js has the two graphs."""
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**CODECS[name])).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.8 if name == "EncodecModel" else 0.15)
    for inner, buffer in model.named_buffers():
        if "embed" in inner:  # codes, which training fills
            torch.nn.init.normal_(buffer)
    assert task_of(model_class) == "audio-to-audio"
    proven = trace_verified(Checkpoint(model, "audio-to-audio", {}, name, None, None), folder)
    assert list(proven.traced.graphs) == ["encoder_model", "decoder_model"]
    coder, sounder = (InferenceSession(folder / f"onnx/{role}.onnx") for role in proven.traced.graphs)
    assert names_of(coder) == (["input_values"], ["audio_codes"])
    assert names_of(sounder) == (["audio_codes"], ["audio_values"])
    for batch, samples in ((1, 1600), (3, 2805)):
        sounds = torch.randn(batch, 1, samples)
        with torch.no_grad():
            codes = model.encode(sounds).audio_codes
            expected = model.decode(codes, [None]) if name == "EncodecModel" else model.decode(audio_codes=codes)
        found = coder.run(None, {"input_values": sounds.numpy()})[0]
        assert np.array_equal(found, codes.reshape(found.shape).numpy())
        assert len(np.unique(found)) > 3
        made = sounder.run(None, {"audio_codes": found})[0]
        np.testing.assert_allclose(made, expected.audio_values.reshape(made.shape).numpy(), rtol=1e-3, atol=1e-5)
        assert 0.01 < np.abs(made).mean() < 0.99


def test_pages_and_what_is_asked_for(folder, letters, tmp_path, capsys):
    """ColPali, in the two ways that it is used: a padded row gives what transformers makes of it alone."""
    torch.manual_seed(0)
    words = {"model_type": "gemma", **TEXT, "num_key_value_heads": 1, "head_dim": 8}
    seen = {"model_type": "siglip_vision_model", **VISION}
    parts = {"text_config": words, "vision_config": seen, "projection_dim": 32, "image_token_id": 100}
    vlm = transformers.PaliGemmaConfig(**parts)
    model = transformers.ColPaliForRetrieval(
        transformers.ColPaliConfig(vlm_config=vlm, text_config=words, embedding_dim=16)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    assert task_of(type(model)) == "feature-extraction"
    proven = trace_verified(Checkpoint(model, "feature-extraction", {}, "ColPali", None, None), folder)
    assert list(proven.traced.graphs) == ["text_model", "vision_model"]
    asked, pages = (InferenceSession(folder / f"onnx/{role}.onnx") for role in proven.traced.graphs)
    assert names_of(asked) == (["input_ids", "attention_mask"], ["embeddings"])
    assert sorted(names_of(pages)[0]) == ["attention_mask", "input_ids", "pixel_values"]
    mask = (torch.arange(9) < torch.tensor([[9], [4], [7]])).long()
    ids = torch.randint(5, 90, (3, 9)) * mask
    pixels = torch.rand(3, 3, 32, 32) * 2 - 1
    shown = torch.nn.functional.pad(ids, (16, 0), value=100), torch.nn.functional.pad(mask, (16, 0), value=1)
    for session, (tokens, real), more in (
        (asked, (ids, mask), {}),
        (pages, shown, {"pixel_values": pixels}),
    ):
        feed = {"input_ids": tokens, "attention_mask": real, **more}
        found = session.run(None, {name: value.numpy() for name, value in feed.items()})[0]
        assert not found[real.numpy() == 0].any()
        for row, length in enumerate(real.sum(1)):
            alone = {name: value[row : row + 1, :length] for name, value in feed.items() if name != "pixel_values"}
            alone |= {name: value[row : row + 1] for name, value in more.items()}
            with torch.no_grad():
                expected = model(**alone).embeddings[0].numpy()
            np.testing.assert_allclose(found[row, :length], expected, rtol=1e-3, atol=1e-5)
    model.save_pretrained(tmp_path / "colpali")
    for path in letters.iterdir():
        shutil.copy(path, tmp_path / "colpali")
    (tmp_path / "rows.jsonl").write_text('{"text": "hello"}\n')
    capsys.readouterr()  # what transformers told while it saved
    command = ["export", str(tmp_path / "colpali"), "-o", str(tmp_path / "out"), "--verify-data"]
    assert main([*command, str(tmp_path / "rows.jsonl")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("wherry: rows do not tell how words stand behind an image")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["TimesFmModelForPrediction", pytest.param("TimesFm2_5ModelForPrediction", marks=pytest.mark.sweep)]
)
def test_series_of_any_length(folder, name):
    """Rows of one length give what the model makes of a list of them, shorter and longer ones than its context too."""
    sizes = {"patch_length": 8, "context_length": 64, "horizon_length": 16, "head_dim": 8, "num_key_value_heads": 4}
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    output = {"output_quantile_len": 32} if "2_5" in name else {}
    model, traced = crossed(name, {**sizes, **small, **output}, folder)
    assert list(traced.graphs) == ["model"]
    session = InferenceSession(folder / "onnx/model.onnx")
    for batch, length in ((1, 5), (2, 64), (3, 101), (4, 33)):
        series = torch.randn(batch, length).cumsum(1)
        often = {} if output else {"freq": torch.arange(batch) % 3}
        with torch.no_grad():
            expected = model(past_values=list(series), **often)
        feed = {"past_values": series.numpy(), **{key: value.numpy() for key, value in often.items()}}
        inputs, names = names_of(session)
        assert sorted(inputs) == sorted(feed)
        assert names == ["mean_predictions", "full_predictions"]
        for key, found in zip(names, session.run(None, feed), strict=True):
            np.testing.assert_allclose(found, expected[key].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.sweep
def test_what_rows_do_not_tell_is_refused_in_one_line(folder, letters, tmp_path, capsys):
    """Places in tables, codes of sounds, frames of videos; TAPAS' scattered sums stay float32 beside float16."""
    tapas = {**TEXT, "type_vocab_sizes": [3, 256, 256, 2, 256, 256, 10]}
    git = {**TEXT, "vision_config": VISION, "num_image_with_embedding": 3}
    made = {"TapasForQuestionAnswering": tapas, "DacModel": CODECS["DacModel"], "GitForCausalLM": git}
    made["VitMatteForImageMatting"] = IN_ONE_GO["VitMatteForImageMatting"]
    for name, settings in made.items():
        model_class = getattr(transformers, name)
        model_class(model_class.config_class(**settings)).save_pretrained(tmp_path / name)
        for file in letters.iterdir():
            shutil.copy(file, tmp_path / name)
    rows = tmp_path / "rows.txt"
    rows.write_text("a\nb\n")
    capsys.readouterr()  # what transformers told while it saved
    for name, option, told in (
        ("TapasForQuestionAnswering", "--verify-data", "rows do not tell places in a table"),
        ("TapasForQuestionAnswering", "--calibration", "rows do not tell places in a table"),
        ("DacModel", "--verify-data", "audio-to-audio cannot be examined on rows yet"),
        ("DacModel", "--calibration", "audio-to-audio cannot be examined on rows yet"),
        ("VitMatteForImageMatting", "--calibration", "image-matting cannot be examined on rows yet"),
        ("GitForCausalLM", "--calibration", "GitForCausalLM cannot be exported: it takes several frames"),
    ):
        assert main(["export", str(tmp_path / name), "-o", str(tmp_path / "out"), option, str(rows)]) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith(f"wherry: {told}")
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    table = export(tmp_path / "TapasForQuestionAnswering", tmp_path / "table", precision=["fp32", "fp16", "int8"])
    assert table.variants["fp16"].parity["top1"] == 1
    codec = export(tmp_path / "DacModel", tmp_path / "codec", precision=["fp32", "fp16"])
    assert list(codec.variants["fp16"].graphs) == ["encoder_model", "decoder_model"]
    with (
        pytest.warns(UserWarning, match="which real ones may exceed$"),  # and no advice that would be refused
        suppress(ParityError),  # of random weights so coarse the codes may be others
    ):
        export(tmp_path / "DacModel", tmp_path / "codec", precision=["int8"], overwrite=True)
