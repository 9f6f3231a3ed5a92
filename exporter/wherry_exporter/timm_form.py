"""Checkpoints as timm keeps them, whose config.json speaks of `pretrained_cfg`: what they say, in transformers' words.

transformers loads them where timm is installed. Knows no architecture.
"""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wherry.files import read_json
from wherry_exporter.errors import ExportError

INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""In the order of Pillow's numbers."""
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""What timm takes where a checkpoint does not say."""


def is_timm(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is timm's."""
    return "model_type" not in raw and isinstance(raw.get("pretrained_cfg"), Mapping)


def in_transformers_words(config: Any, raw: Mapping[str, Any], path: Path) -> dict[str, bytes]:
    """Let a configuration name an architecture and the size of its images; the files that timm's lacks.

    Raises:
        ExportError: what the config.json at `path` says of images makes no sense.
    """
    config.architectures = ["TimmWrapperForImageClassification" if raw.get("num_classes") else "TimmWrapperModel"]
    try:
        if size := raw["pretrained_cfg"].get("input_size"):
            config.image_size = [int(edge) for edge in size[1:]]
        return preprocessor(raw)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ExportError(f"the pretrained_cfg of {path} makes no sense: {error}") from error


def preprocessor(raw: Mapping[str, Any]) -> dict[str, bytes]:
    """The preprocessor_config.json that prepares images as timm does to evaluate, or none and a warning."""
    told = raw["pretrained_cfg"]
    channels, height, width = told.get("input_size", (3, 224, 224))
    mode, method = told.get("crop_mode", "center"), told.get("interpolation", "bicubic")
    larger = [math.floor(edge / told.get("crop_pct", 0.875)) for edge in (height, width)]
    squash = mode == "squash"
    if channels != 3 or method not in INTERPOLATIONS or not (squash or (mode == "center" and height == width)):
        warnings.warn(
            f"no image processor prepares as this model's do ({mode}, {method}): none is written", stacklevel=3
        )
        return {}
    settings = {
        "image_processor_type": "TimmWrapperImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": dict(zip(("height", "width"), larger, strict=True)) if squash else {"shortest_edge": larger[0]},
        "resample": INTERPOLATIONS.index(method),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(told.get("mean", IMAGENET["mean"])),
        "image_std": list(told.get("std", IMAGENET["std"])),
    }
    return {"preprocessor_config.json": json.dumps(settings, indent=2).encode()}


def name_labels(folder: Path, config: Any) -> None:
    """Write the labels into a saved config.json where everybody looks; timm's has a list of names alone."""
    path = folder / "config.json"
    told = read_json(path)
    if "label_names" in told and config.id2label:
        told |= {"id2label": config.id2label, "label2id": {name: at for at, name in config.id2label.items()}}
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
