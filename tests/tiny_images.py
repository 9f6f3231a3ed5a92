"""Tiny random models of images, as folders with their processors' files and, where they read text, a tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from wherry_exporter.load import without_losses

TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
RESNET = transformers.ResNetConfig(
    embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage4"]
)
STAGES = transformers.ResNetConfig(
    embedding_size=8,
    hidden_sizes=[8, 8, 16, 16],
    depths=[1, 1, 1, 1],
    out_features=["stage1", "stage2", "stage3", "stage4"],
)
QUERIES = {
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
    "num_queries": 6,
}
SMALL = {"size": {"height": 32, "width": 32}}
LIMITED = {"size": {"shortest_edge": 64, "longest_edge": 100}}
FIVE = {"id2label": dict(enumerate(["boat", "cat", "dog", "house", "tree"]))}
RESNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
MANY = {"id2label": {number: f"thing {number}" for number in range(70)}}
"""So many that torch's `topk` ranks them, as it does for real models; of a few it gives the best in any order."""

TINY: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "dinov2": ("Dinov2Model", VISION, "Bit", {"size": {"shortest_edge": 32}, "crop_size": SMALL["size"]}),
    "detr": ("DetrForObjectDetection", {**QUERIES, **FIVE}, "Detr", LIMITED),
    "detr-panoptic": (
        "DetrForSegmentation",
        {
            **QUERIES,
            **FIVE,
            "backbone_config": STAGES,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
        },
        "Detr",
        LIMITED,
    ),
    "deformable-detr": (
        "DeformableDetrForObjectDetection",
        {
            **QUERIES,
            **FIVE,
            "backbone_config": transformers.ResNetConfig(
                embedding_size=8, hidden_sizes=[8, 8, 16], depths=[1, 1, 1], out_features=["stage2", "stage3"]
            ),
            "decoder_layers": 2,
            "num_queries": 30,
            "num_feature_levels": 2,
            "encoder_n_points": 2,
            "decoder_n_points": 2,
        },
        "DeformableDetr",
        LIMITED,
    ),
    "rt-detr": (
        "RTDetrForObjectDetection",
        {
            **FIVE,
            "backbone_config": transformers.RTDetrResNetConfig(
                **RESNET,
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
        },
        "RTDetr",
        {"size": {"height": 64, "width": 64}},
    ),
    "yolos": (
        "YolosForObjectDetection",
        {**VISION, **FIVE, "image_size": [64, 64], "num_detection_tokens": 6},
        "Yolos",
        LIMITED,
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {
            **FIVE,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
        },
        "Segformer",
        {"size": {"height": 64, "width": 64}},
    ),
    "maskformer": (
        "MaskFormerForInstanceSegmentation",
        {
            **MANY,
            "backbone_config": transformers.ResNetConfig(
                embedding_size=8,
                hidden_sizes=[8, 8, 16, 16],
                depths=[1, 1, 1, 1],
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            "decoder_config": transformers.DetrConfig(
                d_model=32,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                num_queries=6,
            ),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
        "MaskFormer",
        LIMITED,
    ),
    "mask2former": (
        "Mask2FormerForUniversalSegmentation",
        {
            **MANY,
            "backbone_config": transformers.SwinConfig(
                image_size=64,
                embed_dim=8,
                depths=[1, 1, 1, 1],
                num_heads=[1, 1, 2, 2],
                window_size=2,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            ),
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 16,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "dim_feedforward": 16,
            "num_queries": 6,
        },
        "Mask2Former",
        LIMITED,
    ),
    "oneformer": (
        "OneFormerForUniversalSegmentation",
        {
            **MANY,
            "backbone_config": transformers.ResNetConfig(
                **RESNET, out_features=["stage1", "stage2", "stage3", "stage4"]
            ),
            "conv_dim": 32,
            "mask_dim": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 16,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "query_dec_layers": 1,
            "num_attention_heads": 2,
            "dim_feedforward": 16,
            "num_queries": 6,
            "task_seq_len": 24,
            "text_encoder_vocab_size": 60,
            "text_encoder_width": 32,
            "text_encoder_num_layers": 1,
        },
        "OneFormer",
        LIMITED,
    ),
    "dpt": (
        "DPTForDepthEstimation",
        {
            **VISION,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [8, 8, 8, 8],
            "fusion_hidden_size": 16,
        },
        "DPT",
        SMALL,
    ),
    "clip": (
        "CLIPModel",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16},
        "CLIP",
        {"size": {"shortest_edge": 32}, "crop_size": SMALL["size"]},
    ),
    "siglip": (
        "SiglipModel",
        {"text_config": {**TEXT, "max_position_embeddings": 64}, "vision_config": VISION},
        "Siglip",
        SMALL,
    ),
    "owlvit": (
        "OwlViTForObjectDetection",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 32},
        "OwlViT",
        SMALL,
    ),
    "trocr": (
        "VisionEncoderDecoderModel",
        {
            "encoder": {**VISION, "model_type": "vit"},
            "decoder": {
                "model_type": "trocr",
                "vocab_size": 60,
                "d_model": 32,
                "decoder_layers": 1,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 48,
                "max_position_embeddings": 40,
                "cross_attention_hidden_size": 32,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            "decoder_start_token_id": 2,
            "pad_token_id": 0,
            "eos_token_id": 2,
        },
        "ViT",
        SMALL,
    ),
    "vilt": (
        "ViltForQuestionAnswering",
        {**TEXT, **FIVE, "image_size": 32, "patch_size": 8},
        "Vilt",
        {"size": {"shortest_edge": 64}},
    ),
    "blip": (
        "BlipForConditionalGeneration",
        {"text_config": {**TEXT, "encoder_hidden_size": 32, "sep_token_id": 3}, "vision_config": VISION},
        "Blip",
        SMALL,
    ),
    "git": (
        "GitForCausalLM",
        {**TEXT, "vision_config": VISION},
        "CLIP",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
    "blip-vqa": (
        "BlipForQuestionAnswering",
        {
            "text_config": {**TEXT, "encoder_hidden_size": 32, "bos_token_id": 1, "sep_token_id": 3},
            "vision_config": VISION,
        },
        "Blip",
        SMALL,
    ),
    "pix2struct": (
        "Pix2StructForConditionalGeneration",
        {
            "text_config": {
                "vocab_size": 60,
                "hidden_size": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 1,
                "num_heads": 4,
                "pad_token_id": 0,
                "eos_token_id": 2,
            },
            "vision_config": {
                "hidden_size": 32,
                "patch_embed_hidden_size": 192,
                "d_ff": 48,
                "d_kv": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "seq_len": 64,
            },
        },
        "Pix2Struct",
        {"max_patches": 30, "patch_size": {"height": 8, "width": 8}},
    ),
}
TINY["sam"] = (
    "SamModel",
    {
        "vision_config": {
            **VISION,
            "image_size": 64,
            "mlp_dim": 48,
            "window_size": 4,
            "global_attn_indexes": [0],
            "output_channels": 32,
            "num_pos_feats": 16,
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 8, "image_embedding_size": 8},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    },
    "Sam",
    {
        "size": {"longest_edge": 64},
        "pad_size": {"height": 64, "width": 64},
        "mask_size": {"longest_edge": 32},
        "mask_pad_size": {"height": 32, "width": 32},
    },
)
TINY["sam_hq"] = (
    "SamHQModel",
    {
        **TINY["sam"][1],
        "mask_decoder_config": {**TINY["sam"][1]["mask_decoder_config"], "vit_dim": 32},
    },
    *TINY["sam"][2:],
)
TINY["sam2"] = (
    "Sam2Model",
    {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [64, 64],
                "hidden_size": 8,
                "embed_dim_per_stage": [8, 16, 24, 32],
                "num_attention_heads_per_stage": [1, 2, 2, 2],
                "blocks_per_stage": [1, 1, 2, 1],
                "window_size_per_stage": [4, 2, 4, 2],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 16},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    },
    "Sam2",
    {"size": {"height": 64, "width": 64}},
)
READS = ("clip", "siglip", "owlvit", "trocr", "blip", "blip-vqa", "git", "pix2struct", "vilt", "oneformer")


def make(name: str, folder: Path) -> Path:
    """Save a model, its processor's settings, and a tokenizer of single characters where it reads or writes text."""
    model_class, settings, kind, processing = TINY[name]
    torch.manual_seed(1)
    own: Any = getattr(transformers, model_class)
    with without_losses():
        model = own(own.config_class(**settings)).eval()
    for parameter in model.parameters():  # so that classes, boxes and words differ from image to image
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.15)
    if name == "segformer":  # so that no class outweighs the others everywhere
        with torch.no_grad():
            model.decode_head.classifier.bias -= model(torch.rand(1, 3, 64, 64)).logits.mean((0, 2, 3))
    if name in ("sam", "sam_hq", "sam2"):
        look_at_points(model)
    if name == "blip-vqa":  # so that answers depend on what is asked and seen
        for inner, parameter in model.named_parameters():
            if "norm" in inner.lower() or (parameter.ndim == 1 and "cls.predictions" in inner):
                torch.nn.init.constant_(parameter, float(inner.endswith("weight")))
    model.save_pretrained(folder)
    if name == "sam2":  # transformers has its processor on torchvision alone
        settings = {"image_processor_type": "Sam2ImageProcessorFast", **processing}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        if name == "oneformer":  # whose processor reads which classes are things
            things = {number: {"isthing": 1, "name": label} for number, label in MANY["id2label"].items()}
            (folder / "classes.json").write_text(json.dumps(things))
            processing = {**processing, "repo_path": str(folder), "class_info_file": "classes.json"}
        getattr(transformers, f"{kind}ImageProcessorPil")(**processing).save_pretrained(folder)
    if name in READS:
        save_tokenizer(folder)
    return folder


@torch.no_grad()
def look_at_points(model: Any) -> None:
    """Make a SAM's masks and scores depend on its points and differ over an image, which constants outweigh else."""
    decoder = model.mask_decoder
    for name, parameter in decoder.named_parameters():
        if parameter.ndim > 1 and name.startswith(("transformer", "upscale", "output_hyper", "iou_prediction")):
            parameter *= 4
        if name.endswith("bias"):
            parameter.zero_()
    model.shared_image_embedding.positional_embedding.mul_(8)
    decoder.iou_prediction_head.proj_out.bias.fill_(0.9)
    decoder.iou_prediction_head.proj_out.weight *= 0.02


def save_tokenizer(folder: Path) -> None:
    """Of single characters."""
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .?"
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<sep>": 3, "<unk>": 4}
    vocabulary |= {letter: number + 5 for number, letter in enumerate(characters)}
    rust = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    rust.add_special_tokens(["<pad>", "<s>", "</s>", "<sep>", "<unk>"])
    rust.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    rust.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
