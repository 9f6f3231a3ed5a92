"""What each image processor of transformers does where its file does not say, and the sizes that it alone resizes to.

A file names its processor in `image_processor_type`; older ones hold but a few of its settings. One row a processor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wherry.vision import sizes
from wherry.vision.sizes import Rule

Settings = Mapping[str, Any]

CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
COMMON: Settings = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "default_to_square": True,
    "crop_size": {"height": 224, "width": 224},
}
BY_SHORTEST = {"default_to_square": False, "size": {"shortest_edge": 224}}
SQUARE = {"size": {"height": 224, "width": 224}}
DETECTION: Settings = {
    **IMAGENET,
    "resample": 2,
    "size": {"shortest_edge": 800, "longest_edge": 1333},
    "max_size": 1333,
    "default_to_square": False,
    "do_pad": True,
}

IDEFICS: Settings = {
    "resample": 1,
    "size": {"longest_edge": 4 * 364},
    "max_image_size": {"longest_edge": 364},
    "do_image_splitting": True,
}
FITTED: Settings = {**CLIP, "size": {"height": 384, "width": 384}, "min_size": 14, "do_pad": True}
PATCHED: Settings = {**CLIP, "default_to_square": False, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
GLM: Settings = {**PATCHED, "size": {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 15000}}


def _own(settings: Settings) -> Rule:
    return sizes.rule_of(settings["size"])


def _convnext(settings: Settings) -> Rule:
    edge = settings["size"]["shortest_edge"]
    return sizes.shortest(int(edge / settings["crop_pct"])) if edge < 384 else sizes.exact(edge, edge)


def _levit(settings: Settings) -> Rule:
    size = settings["size"]
    return sizes.shortest(int(256 / 224 * size["shortest_edge"])) if "shortest_edge" in size else sizes.rule_of(size)


def _poolformer(settings: Settings) -> Rule:
    return sizes.enlarged(settings["size"], settings["crop_pct"])


def _dpt(settings: Settings) -> Rule:
    target = settings["size"]["height"], settings["size"]["width"]
    return sizes.nearest(target, settings["ensure_multiple_of"], keep_ratio=settings["keep_aspect_ratio"])


def _yolos(settings: Settings) -> Rule:
    size = settings["size"]
    limited = set(size) == {"shortest_edge", "longest_edge"}
    return sizes.within(size["shortest_edge"], size["longest_edge"], 16) if limited else sizes.rule_of(size)


def _segments(settings: Settings) -> Rule:
    return sizes.rounded_up(_own(settings), settings["size_divisor"] or 1)


def _textnet(settings: Settings) -> Rule:
    return sizes.rounded_up(_own(settings), settings["size_divisor"])


def _glpn(settings: Settings) -> Rule:
    return sizes.rounded_down(settings["size_divisor"])


def _vilt(settings: Settings) -> Rule:
    return sizes.capped(settings["size"]["shortest_edge"], settings["size_divisor"])


def _qwen(settings: Settings, repeated: int = 1) -> Rule:
    least = settings.get("min_pixels") or settings["size"]["shortest_edge"]
    most = settings.get("max_pixels") or settings["size"]["longest_edge"]
    return sizes.between(least / repeated, most / repeated, settings["patch_size"] * settings["merge_size"])


def _glm(settings: Settings) -> Rule:
    """Pixels count as often as they are repeated in time."""
    rule = _qwen(settings, settings["temporal_patch_size"])
    return sizes.scaled_up(settings["patch_size"] * settings["merge_size"], rule)


def _paddle(settings: Settings) -> Rule:
    return sizes.grown(settings["patch_size"] * settings["merge_size"], _qwen(settings))


def _pixtral(settings: Settings) -> Rule:
    size, patch = settings["size"], settings["patch_size"]
    limits = [size["longest_edge"]] * 2 if "longest_edge" in size else [size["height"], size["width"]]
    edges = [patch["height"], patch["width"]] if isinstance(patch, Mapping) else [patch] * 2
    return sizes.patched(limits, edges)


def _gemma4(settings: Settings) -> Rule:
    patch, side = settings["patch_size"], settings["pooling_kernel_size"]
    return sizes.filling(settings["max_soft_tokens"] * (side * patch) ** 2, side * patch)


def _deepseek(settings: Settings) -> Rule:
    if settings["size"]["height"] != settings["size"]["width"]:
        raise ValueError(f"size is {settings['size']}, no square")
    return sizes.fitted(settings["size"]["height"], settings["min_size"])


def _sam(settings: Settings) -> Rule:
    return sizes.longer(settings["size"]["longest_edge"])


@dataclass(frozen=True)
class Kind:
    """One processor.

    Attributes:
        defaults: what holds where its file says nothing, on top of `COMMON`.
        rule: makes of its settings the rule by which it resizes.
    """

    defaults: Settings = field(default_factory=dict)
    rule: Callable[[Settings], Rule] = _own


KINDS: Mapping[str, Kind] = {
    "Beit": Kind(SQUARE),
    "Bit": Kind({**CLIP, **BY_SHORTEST, "do_center_crop": True}),
    "Blip": Kind({**CLIP, "size": {"height": 384, "width": 384}}),
    "ChineseCLIP": Kind({**CLIP, **BY_SHORTEST, "do_center_crop": True}),
    "CLIP": Kind({**CLIP, **BY_SHORTEST, "do_center_crop": True}),
    "ConditionalDetr": Kind(DETECTION),
    "ConvNext": Kind({**BY_SHORTEST, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256}, _convnext),
    "DeformableDetr": Kind(DETECTION),
    "DeepseekVL": Kind(FITTED, _deepseek),
    "DeiT": Kind({"size": {"height": 256, "width": 256}, "do_center_crop": True}),
    "Detr": Kind(DETECTION),
    "DPT": Kind(
        {"size": {"height": 384, "width": 384}, "ensure_multiple_of": 1, "keep_aspect_ratio": False, "do_pad": False},
        _dpt,
    ),
    "EfficientNet": Kind(
        {
            "size": {"height": 346, "width": 346},
            "crop_size": {"height": 289, "width": 289},
            "rescale_offset": False,
            "include_top": True,
        }
    ),
    "Gemma3": Kind({**SQUARE, "resample": 2}),
    "Gemma4": Kind(
        {"do_normalize": False, "patch_size": 16, "max_soft_tokens": 280, "pooling_kernel_size": 3}, _gemma4
    ),
    "Glm46V": Kind(GLM, _glm),
    "Glm4v": Kind(GLM, _glm),
    "GLPN": Kind({"resample": 2, "size_divisor": 32, "do_normalize": None}, _glpn),
    "Idefics3": Kind(IDEFICS),
    "Janus": Kind(FITTED, _deepseek),
    "Levit": Kind({**IMAGENET, **BY_SHORTEST, "do_center_crop": True}, _levit),
    "LlavaNext": Kind(
        {
            **CLIP,
            **BY_SHORTEST,
            "do_center_crop": True,
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        }
    ),
    "Mask2Former": Kind({**DETECTION, "size_divisor": 32}, _segments),
    "MaskFormer": Kind({**DETECTION, "size_divisor": 32}, _segments),
    "OneFormer": Kind(DETECTION),
    "MobileNetV1": Kind({"resample": 2, **BY_SHORTEST, "size": {"shortest_edge": 256}, "do_center_crop": True}),
    "MobileNetV2": Kind({"resample": 2, **BY_SHORTEST, "size": {"shortest_edge": 256}, "do_center_crop": True}),
    "MobileViT": Kind(
        {
            **BY_SHORTEST,
            "do_normalize": None,
            "do_center_crop": True,
            "crop_size": {"height": 256, "width": 256},
            "do_flip_channel_order": True,
        }
    ),
    "OwlViT": Kind(
        {**CLIP, "size": {"height": 768, "width": 768}, "crop_size": {"height": 768, "width": 768}},
    ),
    "PaddleOCRVL": Kind(
        {
            **PATCHED,
            "size": {"shortest_edge": 384 * 384, "longest_edge": 1536 * 1536},
            "temporal_patch_size": 1,
        },
        _paddle,
    ),
    "Pixtral": Kind({**CLIP, "size": {"longest_edge": 1024}, "patch_size": 16}, _pixtral),
    "PoolFormer": Kind({**IMAGENET, **BY_SHORTEST, "crop_pct": 0.9, "do_center_crop": True}, _poolformer),
    "Pvt": Kind({**IMAGENET, **SQUARE}),
    "Qwen2VL": Kind({**PATCHED, "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}}, _qwen),
    "RTDetr": Kind(
        {**DETECTION, "size": {"height": 640, "width": 640}, "do_normalize": False, "do_pad": False},
    ),
    "Sam": Kind(
        {
            **IMAGENET,
            "resample": 2,
            "size": {"longest_edge": 1024},
            "default_to_square": False,
            "do_pad": True,
            "pad_size": {"height": 1024, "width": 1024},
        },
        _sam,
    ),
    "Sam2": Kind({**IMAGENET, "resample": 2, "size": {"height": 1024, "width": 1024}}),
    "Sam3": Kind({"resample": 2, "size": {"height": 1008, "width": 1008}}),
    "Segformer": Kind({**IMAGENET, "resample": 2, "size": {"height": 512, "width": 512}}),
    "Siglip": Kind({**SQUARE, "default_to_square": False}),
    "SmolVLM": Kind(IDEFICS),
    "TextNet": Kind(
        {
            **IMAGENET,
            **BY_SHORTEST,
            "resample": 2,
            "size": {"shortest_edge": 640},
            "size_divisor": 32,
        },
        _textnet,
    ),
    "TimmWrapper": Kind({**IMAGENET, **BY_SHORTEST, "do_center_crop": True}),
    "Vilt": Kind({**BY_SHORTEST, "size": {"shortest_edge": 384}, "size_divisor": 32, "do_pad": True}, _vilt),
    "ViT": Kind({**SQUARE, "resample": 2}),
    "Yolos": Kind(DETECTION, _yolos),
}
