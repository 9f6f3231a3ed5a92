"""What a model takes: the names of its inputs, which of their axes vary, and random values for them; what it gives.

Read off the model's own signature and configuration, so no architecture has a line here.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES,
)

BATCH, SEQUENCE, PAST, TOTAL = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
IMAGE_AXES = (BATCH, "num_channels", "height", "width")
VIDEO_AXES = (BATCH, "num_frames", *IMAGE_AXES[1:])
FRAMES = (BATCH, "num_frames", "feature_size")
"""The axes of sounds' features where frames come first."""
CHANNELS = (BATCH, "num_channels", "num_samples")
"""The axes of sounds whose channels are told apart."""
SPECTROGRAMS = (BATCH, "num_channels", "num_frames", "feature_size")
"""The axes of sounds' features where each comes as an image: a whole one, or a shrunken one and crops of it."""
PATCHES = (BATCH, "num_patches", "patch_size")
"""The axes of images where each comes as patches, as many as its own size has, filled up to the most of a batch."""

CHOICES = (BATCH, "num_choices", SEQUENCE)
"""The axes of texts of which one is to be chosen."""
POINTS = (BATCH, "point_batch_size", "nb_points_per_image")
"""The axes of points in images, several of which may be on one thing."""
EMBEDDED_IMAGE = (BATCH, "embedding_size", "embedding_height", "embedding_width")
SERIES = (BATCH, "context_length", "num_input_channels")
"""The axes of what was measured over time."""

TEXT = ("input_ids", "attention_mask", "token_type_ids")
TRAJECTORY = ("states", "actions", "timesteps", "returns_to_go")
"""What was seen and done in an environment, step by step, with `attention_mask` as texts have it."""
AXES: Mapping[str, tuple[str, ...]] = {
    "input_ids": (BATCH, SEQUENCE),
    "attention_mask": (BATCH, SEQUENCE),
    "token_type_ids": (BATCH, SEQUENCE),
    "bbox": (BATCH, SEQUENCE, "box"),
    "pixel_values": IMAGE_AXES,
    "pixel_values_videos": VIDEO_AXES,
    "task_inputs": (BATCH, "task_seq_len"),
    "pixel_mask": (BATCH, *IMAGE_AXES[2:]),
    "noise": (BATCH, "num_patches"),
    "pixel_attention_mask": (BATCH, "num_patches"),
    "spatial_shapes": (BATCH, "height_width"),
    "flattened_patches": PATCHES,
    "input_values": (BATCH, "num_samples"),
    "input_features": (BATCH, "feature_size", "num_frames"),
    "is_longer": (BATCH, "longer"),
    "audio_codes": (BATCH, "num_codebooks", "num_frames"),
    "spectrogram": FRAMES,
    "past_values": SERIES,
    "freq": (BATCH,),
    "states": (BATCH, SEQUENCE, "state_dim"),
    "actions": (BATCH, SEQUENCE, "act_dim"),
    "timesteps": (BATCH, SEQUENCE),
    "returns_to_go": (BATCH, SEQUENCE, "return"),
    "input_points": (*POINTS, "point"),
    "input_labels": POINTS,
    "image_embeddings": EMBEDDED_IMAGE,
    "image_positional_embeddings": EMBEDDED_IMAGE,
}
"""The names that optimum and transformers.js know, and the names of their axes."""

BINS = ("num_mel_bins", "feature_size", "input_feat_per_channel", "feature_projection_input_dim", "model_in_dim")
"""What configurations call the size of a frame's features."""

FIXED = (
    *("num_channels", "feature_size", "box", "patch_size", "height_width", "longer", "point", "task_seq_len"),
    *("state_dim", "act_dim", "return", "token_types", "num_codebooks"),
    *(EMBEDDED_IMAGE[1:] + SERIES[1:]),
)
"""Axes that are part of the architecture."""

ASKED = ("input_points", "input_labels", "image_embeddings", "image_positional_embeddings")
"""What is asked about an image once it is embedded."""


def parameters_of(module: Any) -> list[str]:
    """The names of what a module's forward takes."""
    return list(inspect.signature(module.forward).parameters)


def tensors_of(outputs: Any) -> dict[str, Tensor]:
    """The tensors that a model gives, by name; of one that gives but tuples of them, those, numbered.

    Vocoders alone give one without a name.
    """
    if isinstance(outputs, Tensor):
        return {"waveform": outputs}
    found = {name: value for name, value in outputs.items() if isinstance(value, Tensor)}
    return found or {
        f"{name}.{number}": value
        for name, values in outputs.items()
        if isinstance(values, tuple)
        for number, value in enumerate(values)
    }


def input_names(model: Any) -> list[str]:
    """The graph inputs of a model that runs in one go, in the order of its signature's main input, then the rest."""
    config = model.config
    parameters = parameters_of(model)
    names = [name for name in AXES if name in parameters and name not in TEXT[1:]] + list(_embeddings(model))
    main = model.main_input_name
    if main in ("input_values", "input_features"):  # some take several kinds
        names = [name for name in (main, "is_longer") if name in names]
    if "input_ids" in names:
        types = max(kinds_of_places(config), default=getattr(config, "type_vocab_size", 0) or 0)
        if "attention_mask" in parameters:
            names.insert(1, "attention_mask")
        if "token_type_ids" in parameters and types > 1:
            names.insert(2, "token_type_ids")
    if "input_ids" not in names and "pixel_mask" in names:  # images alone are of one size, texts are padded anyway
        names.remove("pixel_mask")
    if main == "input_ids" and "decoder_input_ids" in parameters and hasattr(model, "get_image_features"):
        names = [name for name in names if name != "pixel_values"]  # T5Gemma 2's encoder takes words alone too
    if "flattened_patches" in names or "states" in names:
        names.append("attention_mask")
    if "pixel_values" in names:  # what else may be asked about an image comes after it, to a graph of its own
        names = [name for name in names if name not in ASKED]
    if "is_longer" in names and not setting(config, "enable_fusion"):
        names.remove("is_longer")
    if "pixel_attention_mask" in names and "spatial_shapes" not in names:  # of several images a row
        names.remove("pixel_attention_mask")
    return names


SAMPLES = (4000, 16_000)
"""Of a sound: few, and as many as models need that look at frames far apart."""
_SOUNDS: WeakKeyDictionary[nn.Module, tuple[tuple[str, ...], int]] = WeakKeyDictionary()


def axes_of(model: Any, name: str) -> tuple[str, ...]:
    """The names of an input's axes; those of sounds and of their features are the ones that the model runs on."""
    if name == "token_type_ids" and kinds_of_places(model.config):
        return (*AXES[name], "token_types")
    if name == "past_values" and not setting(model.config, SERIES[2]):
        return (BATCH, "past_length")
    if name in TEXT and apart(model):
        return ("text_batch_size", SEQUENCE)
    if name in TEXT and chooses(model):
        return CHOICES
    if name == "attention_mask" and "flattened_patches" in parameters_of(model):
        return PATCHES[:2]
    if name == "pixel_values" and "spatial_shapes" in parameters_of(model):
        return PATCHES
    if name == "pixel_values" and sees_videos(model):
        return VIDEO_AXES
    if name == "input_features" and "is_longer" in parameters_of(model):
        return SPECTROGRAMS
    if name in _embeddings(model):
        return EMBEDDED_IMAGE
    if name not in ("input_values", "input_features"):
        return AXES[name]
    if model not in _SOUNDS:
        part = model.get_encoder() if "decoder_input_ids" in parameters_of(model) else model
        whole = (*((AXES[name], count) for count in SAMPLES), (FRAMES, SAMPLES[0]), (CHANNELS, SAMPLES[0]))
        for axes, samples in whole:
            _SOUNDS[model] = axes, samples
            if runs(part, {name: _sounds(model, axes, 1, 1, torch.Generator().manual_seed(0))}):
                break
    return _SOUNDS[model][0]


def kinds_of_places(config: Any) -> list[int]:
    """How many there are of each kind of place that a token has in a table, its row and column among them: TAPAS'."""
    return list(getattr(config, "type_vocab_sizes", None) or ())


def reads_text(model: Any, names: Sequence[str]) -> bool:
    """Whether a text alone is what these inputs are made of."""
    return set(names) <= set(TEXT) and not kinds_of_places(model.config)


def sees_videos(model: Any) -> bool:
    """Whether what is looked at are several frames at once."""
    return model.config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES or _embeds_videos(model)


def _embeds_videos(model: Any) -> bool:
    """Whether videos are embedded, frame by frame, as X-CLIP does it."""
    embed = getattr(model, "get_video_features", None)
    takes = () if embed is None else inspect.signature(embed).parameters
    return "pixel_values" in takes and bool(setting(model.config, "num_frames"))


def image_places(model: Any) -> tuple[int, int] | None:
    """The token that stands for a piece of an image, and how many an image has, of what retrieves pages (ColPali)."""
    whole: Any = getattr(model.config, "vlm_config", None)
    vision: Any = getattr(whole, "vision_config", None)
    if not hasattr(vision, "image_size"):  # images of any size, ColQwen2's, come as patches
        return None
    return int(whole.image_token_id), int((vision.image_size // vision.patch_size) ** 2)


def _embeddings(model: Any) -> Mapping[str, tuple[int, ...]]:
    """The sizes of what an image is embedded as at several resolutions, by name."""
    found: Mapping[str, tuple[int, ...]] = getattr(model, "embedding_sizes", {})
    return found


def runs(model: Any, inputs: Mapping[str, Tensor]) -> bool:
    """Whether a model takes these inputs."""
    try:
        with torch.no_grad():
            model(**inputs)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError, AssertionError):
        return False
    return True


def _sounds(model: Any, axes: tuple[str, ...], batch: int, scale: float, random: torch.Generator) -> Tensor:
    config = model.config
    bins = next((int(found) for name in BINS if (found := setting(config, name))), 80)
    positions = setting(config, "max_source_positions") if axes != FRAMES else None
    frames = 2 * int(positions) if positions else int(setting(config, "max_length") or 100)
    channels = 4 if setting(config, "enable_fusion") else int(setting(config, "audio_channels") or 1)
    sizes = {
        "num_samples": _SOUNDS[model][1] * scale if model in _SOUNDS else SAMPLES[0] * scale,
        "num_channels": channels,
        "num_frames": frames * scale,
        "feature_size": bins,
    }
    return torch.randn(batch, *(round(sizes[axis]) for axis in axes[1:]), generator=random)


def apart(model: Any) -> bool:
    """Whether texts and images or sounds are embedded apart, so that there may be more of these than of those."""
    if hasattr(model, "multimodal_model"):  # which looks at both together, FLAVA's
        return False
    detects = type(model).__name__ in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES.values()
    parts = model.children() if detects else [model]
    others = ("get_image_features", "get_audio_features")
    return any(
        hasattr(part, "get_text_features") and (any(hasattr(part, name) for name in others) or _embeds_videos(part))
        for part in parts
    )


def chooses(model: Any) -> bool:
    """Whether texts come as several to choose from."""
    return type(model).__name__ in MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES.values()


def as_choices(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of text as what one is to be chosen from: of an even number each half, else all."""
    return {
        name: value.reshape(2 - len(value) % 2, -1, value.shape[-1]) if name in TEXT else value
        for name, value in values.items()
    }


def random_inputs(model: Any, names: Sequence[str], *, batch: int, scale: float, seed: int) -> dict[str, Tensor]:
    """Inputs of that batch size; `scale` stretches sequences, images and sounds. Rows of text are padded unalike.

    A stretched image is wider than high. There are two or three texts for each image or sound where both are embedded
    apart.
    """
    random = torch.Generator().manual_seed(seed)
    config = model.config
    text = config.get_text_config()
    longest = int(getattr(text, "max_position_embeddings", 0) or 64)
    joined = setting(config, "downsampling_rate") or 1  # so many characters to one of what CANINE's layers see
    length = max(3, min(round(7 * scale) * joined, longest - 2))
    rows = batch * (2 + seed % 2) if apart(model) or chooses(model) else batch
    real = torch.randint(2, length + 1, (rows, 1), generator=random)
    real[0] = length
    mask = (torch.arange(length) < real).to(torch.int64)
    values = _patches(config, batch, scale, random) if "spatial_shapes" in names else {}
    if "flattened_patches" in names:
        values = _flattened(config, batch, scale, random)
    for name in [name for name in names if name not in values]:
        if name == "input_ids":
            vocabulary = int(getattr(text, "vocab_size", 0) or 100)
            ids = torch.randint(min(5, vocabulary - 1), vocabulary, (rows, length), generator=random)
            padding, end = (getattr(text, f"{kind}_token_id", None) for kind in ("pad", "eos"))
            if isinstance(end, int):  # some look for it, to know where a row ends
                ids.scatter_(1, real - 1, end)
            values[name] = torch.where(mask.bool(), ids, 0 if padding is None else padding)
        elif name == "attention_mask":
            values[name] = mask
        elif name == "token_type_ids" and (kinds := kinds_of_places(config)):
            few = [torch.randint(1, min(count, 4), (rows, length), generator=random) for count in kinds]
            values[name] = torch.stack(few, 2)  # all within the table, which has a cell then
        elif name == "token_type_ids":
            values[name] = (torch.arange(length) > length // 2).to(torch.int64).expand(rows, length).contiguous()
        elif name == "bbox":
            corners = torch.randint(0, 500, (batch, length, 2), generator=random)
            values[name] = torch.cat([corners, corners + 300], -1)
        elif name in ("pixel_values", "pixel_values_videos"):
            height, width = image_size(config)
            wider = scale if scale == 1 else 1.5 * scale
            shape: tuple[int, ...] = (batch, _channels(config), _stretched(height, scale), _stretched(width, wider))
            if sees_videos(model):
                frames = int(setting(config, "num_frames") or setting(config, "frames_per_clip"))
                shape = (batch, round(frames * scale), *shape[1:])
            values[name] = torch.rand(shape, generator=random) * 2 - 1
        elif name == "pixel_mask":
            values[name] = torch.ones(batch, *values["pixel_values"].shape[2:], dtype=torch.int64)
            height, width = image_size(config)
            values[name][1:, -height // 4 :] = values[name][1:, :, -width // 2 :] = 0
        elif name == "noise":
            patches = prod(side // int(setting(config, "patch_size")) for side in values["pixel_values"].shape[2:])
            values[name] = torch.rand((batch, patches), generator=random)
        elif name == "timesteps":
            values[name] = torch.arange(length).expand(batch, length).contiguous()
        elif name in TRAJECTORY:
            size = int(getattr(config, AXES[name][2], 1))
            values[name] = torch.randn((batch, length, size), generator=random)
        elif name == "task_inputs":
            tokens = (batch, int(setting(config, "task_seq_len")))
            values[name] = torch.randint(int(setting(config, "text_encoder_vocab_size")), tokens, generator=random)
        elif name == "past_values" and not setting(config, SERIES[2]):
            series = (batch, round(int(config.context_length) * scale / 4))
            values[name] = torch.randn(series, generator=random).cumsum(1)
        elif name == "freq":
            values[name] = (torch.arange(batch) + seed) % int(config.freq_size)
        elif name == "past_values":
            values[name] = torch.randn(batch, *(int(setting(config, size)) for size in SERIES[1:]), generator=random)
        elif name in ("input_points", "input_labels"):
            points = (batch, 2 + seed % 2, round(2 * scale))
            height, width = image_size(config)
            values["input_points"] = torch.rand((*points, 2), generator=random) * torch.tensor([width, height])
            values["input_labels"] = torch.randint(0, 2, points, generator=random)
        elif name in ("image_embeddings", "image_positional_embeddings"):
            prompts = config.prompt_encoder_config
            side = prompts.image_embedding_size
            values[name] = torch.randn((batch, prompts.hidden_size, side, side), generator=random)
        elif name in _embeddings(model):
            values[name] = torch.randn((batch, *_embeddings(model)[name]), generator=random)
        elif name == "audio_codes":
            books, count = model.codes
            values[name] = torch.randint(count, (batch, books, round(20 * scale)), generator=random)
        elif name == "is_longer":
            values[name] = (torch.arange(batch)[:, None] + seed) % 2 == 0
        else:
            values[name] = _sounds(model, axes_of(model, name), batch, scale, random)
    if "pixel_values" in names and (places := image_places(model)):
        token, count = places
        values["input_ids"] = values["input_ids"].where(values["input_ids"] != token, token - 1)
        values["input_ids"] = functional.pad(values["input_ids"], (count, 0), value=token)
        values["attention_mask"] = functional.pad(values["attention_mask"], (count, 0), value=1)
    found = {name: values[name] for name in names}
    if chooses(model):
        found = {name: value.reshape(batch, -1, value.shape[-1]) for name, value in found.items()}
    return found


def _patches(config: Any, batch: int, scale: float, random: torch.Generator) -> dict[str, Tensor]:
    """Images of unlike sizes as patches, near as many as there are positions; the first has the most."""
    side = max(2, round(scale * int(setting(config, "num_patches")) ** 0.5))
    shapes = _grids(batch, side)
    count, size = side * (side + 1), _channels(config) * int(setting(config, "patch_size")) ** 2
    return {
        "pixel_values": torch.rand((batch, count, size), generator=random) * 2 - 1,
        "pixel_attention_mask": (torch.arange(count) < shapes.prod(1, keepdim=True)).to(torch.int64),
        "spatial_shapes": shapes,
    }


def _flattened(config: Any, batch: int, scale: float, random: torch.Generator) -> dict[str, Tensor]:
    """Images of unlike sizes as patches, each behind its row and column, from one on; zeros where there is none."""
    side = max(2, round(6 * scale))
    shapes, places = _grids(batch, side), torch.arange(side * (side + 1)).expand(batch, -1)
    real = places < shapes.prod(1, keepdim=True)
    ids = torch.stack([places // shapes[:, 1:], places % shapes[:, 1:]], 2) + 1
    patches = torch.rand((*places.shape, int(setting(config, "patch_embed_hidden_size"))), generator=random) * 2 - 1
    return {
        "flattened_patches": torch.cat([ids, patches], 2) * real[:, :, None],
        "attention_mask": real.to(torch.int64),
    }


def _grids(batch: int, side: int) -> Tensor:
    """Rows and columns of patches of images of unlike sizes; the first has the most."""
    row = torch.arange(batch)
    return torch.stack([side - row % 2, side + 1 - row % 3], 1)


def free_axes(
    model: Any, names: Sequence[str], *, sizes: bool = True
) -> tuple[dict[str, dict[int, Any]], dict[str, Tensor]]:
    """Which axes of a graph's inputs vary, as torch.export takes them, and inputs to trace with.

    Batch and text always vary. Images and sounds do where the model itself runs on another size than its
    configuration's; then they are traced at another one, for a model may treat its own size apart. With `sizes` off
    they are fixed in any case.
    """
    batch = Dim(BATCH)
    long = ("bbox", *TEXT, *TRAJECTORY)
    sized = [name for name in names if name not in long or "flattened_patches" in names]
    own = random_inputs(model, names, batch=2, scale=1, seed=0)
    other = own | {
        name: value for name, value in random_inputs(model, names, batch=2, scale=2, seed=0).items() if name in sized
    }
    free = bool(sized) and sizes and runs(model, other)
    shapes: dict[str, dict[int, Any]] = {}
    for name in names:
        axes, vary = axes_of(model, name), name not in sized or free
        shapes[name] = {at: Dim.AUTO for at, axis in enumerate(axes) if vary and axis not in FIXED}
        shapes[name] |= {0: batch if axes[0] == BATCH else Dim.AUTO}
    return shapes, other if free else own


def fixed_sizes(graphs: Iterable[ir.Model]) -> dict[str, dict[str, int]]:
    """The axes of images and sounds that graphs fix, by input."""
    found: dict[str, dict[str, int]] = {}
    for value in (value for graph in graphs for value in graph.graph.inputs):
        name, shape = str(value.name), list(value.shape or ())
        if name in AXES and name not in TEXT:
            frames_first = len(shape) == 3 and (name == "input_values" or str(shape[1]) == FRAMES[1])
            seen = name == "input_features" and len(shape) == len(SPECTROGRAMS)
            video = name == "pixel_values" and len(shape) == len(VIDEO_AXES)
            axes = SPECTROGRAMS if seen else VIDEO_AXES if video else FRAMES if frames_first else AXES[name]
            if len(shape) < len(axes):  # patches, as many as each image has
                continue
            sizes = zip(axes[1:], shape[len(shape) - len(axes) + 1 :], strict=True)
            fixed = {axis: size for axis, size in sizes if isinstance(size, int) and axis not in FIXED}
            if fixed:
                found[name] = fixed
    return found


def image_size(config: Any) -> tuple[int, int]:
    """Height and width that the configuration names, else a small one that every stride divides."""
    size = next((found for name in ("image_size", "input_size", "crop_size") if (found := setting(config, name))), 64)
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return int(height), int(width)


def _stretched(size: int, scale: float) -> int:
    """A multiple of 32 where the size is one, so that strides and patches go on dividing it."""
    unit = 32 if size % 32 == 0 else size
    return max(unit, round(size * scale / unit) * unit)


def _channels(config: Any) -> int:
    found = setting(config, "num_channels")
    return int(found) if isinstance(found, int) else 3


def reserved_positions(model: Any) -> int:
    """How many positions no token has: RoBERTa and its like count from behind that of the padding token."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def setting(config: Any, name: str) -> Any:
    """A setting of the configuration or of one of the configurations in it."""
    if getattr(config, name, None):
        return getattr(config, name)
    for part in (
        "vision_config",
        "vlm_config",
        "image_config",
        "backbone_config",
        "audio_config",
        "encoder",
        "encoder_config",
        "text_config",
    ):
        inner = getattr(config, part, None)
        if inner is not None and not isinstance(inner, Mapping) and (found := setting(inner, name)):
            return found
    return None
