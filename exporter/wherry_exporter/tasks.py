"""Which tasks can be exported, what each needs, and which one a checkpoint is for.

The table grows by a row per task. Nothing here loads weights.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wherry.errors import TaskError


@dataclass(frozen=True)
class ExportTask:
    """One exportable task.

    Attributes:
        auto: the task by which optimum's TasksManager finds the model class.
        outputs: the model outputs that become outputs of the graph, as far as the model has them.
        generates: whether tokens are made one after another, over a cache, by models that have one.
        text: whether the probe text is what the model takes; others are measured on random inputs.
        precisions: what it is exported to where nothing else is asked for.
    """

    auto: str
    outputs: tuple[str, ...]
    generates: bool = False
    text: bool = False
    precisions: tuple[str, ...] = ("fp32", "int8")


MASK_OUTPUTS = (
    *("image_embeddings", "image_positional_embeddings", "intermediate_embeddings"),
    *("iou_scores", "pred_masks", "object_score_logits"),
)

TASKS: Mapping[str, ExportTask] = {
    "feature-extraction": ExportTask(
        "feature-extraction",
        ("last_hidden_state", "text_embeds", "video_embeds", "logits_per_video", "itm_score"),
        text=True,
    ),
    "sentence-embeddings": ExportTask("feature-extraction", ("last_hidden_state",), text=True),
    "fill-mask": ExportTask("fill-mask", ("logits",), text=True),
    "text-classification": ExportTask("text-classification", ("logits",), text=True),
    "token-classification": ExportTask("token-classification", ("logits",), text=True),
    "question-answering": ExportTask("question-answering", ("start_logits", "end_logits"), text=True),
    "table-question-answering": ExportTask("table-question-answering", ("logits", "logits_aggregation")),
    "multiple-choice": ExportTask("multiple-choice", ("logits",), text=True),
    "text-generation": ExportTask(
        "text-generation", ("logits",), generates=True, text=True, precisions=("fp32", "int4")
    ),
    "text2text-generation": ExportTask("text2text-generation", ("logits",), generates=True, text=True),
    "image-classification": ExportTask("image-classification", ("logits",)),
    "image-feature-extraction": ExportTask(
        "feature-extraction", ("last_hidden_state", "pooler_output", "image_embeds")
    ),
    "video-classification": ExportTask("video-classification", ("logits",)),
    "object-detection": ExportTask("object-detection", ("logits", "pred_boxes")),
    "image-segmentation": ExportTask(
        "image-segmentation", ("logits", "pred_masks", "class_queries_logits", "masks_queries_logits")
    ),
    "mask-generation": ExportTask("mask-generation", MASK_OUTPUTS, precisions=("fp32",)),
    "depth-estimation": ExportTask("depth-estimation", ("predicted_depth",)),
    "image-to-image": ExportTask("image-to-image", ("reconstruction",)),
    "image-matting": ExportTask("image-matting", ("alphas",)),
    "masked-im": ExportTask("masked-im", ("reconstruction",)),
    "keypoint-detection": ExportTask("keypoint-detection", ("heatmaps",)),
    "zero-shot-image-classification": ExportTask(
        "zero-shot-image-classification", ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    ),
    "zero-shot-object-detection": ExportTask(
        "zero-shot-object-detection", ("logits", "pred_boxes", "text_embeds", "image_embeds")
    ),
    "zero-shot-audio-classification": ExportTask(
        "feature-extraction", ("logits_per_audio", "logits_per_text", "text_embeds", "audio_embeds")
    ),
    "visual-question-answering": ExportTask("visual-question-answering", ("logits",)),
    "automatic-speech-recognition": ExportTask("automatic-speech-recognition", ("logits",), generates=True),
    "image-to-text": ExportTask("image-text-to-text", ("logits",), generates=True),
    "image-text-to-text": ExportTask("image-text-to-text", ("logits",), generates=True),
    "audio-text-to-text": ExportTask("audio-text-to-text", ("logits",), generates=True),
    "audio-feature-extraction": ExportTask("feature-extraction", ("last_hidden_state", "audio_embeds")),
    "audio-classification": ExportTask("audio-classification", ("logits",)),
    "audio-frame-classification": ExportTask("audio-frame-classification", ("logits",)),
    "audio-xvector": ExportTask("audio-xvector", ("logits", "embeddings")),
    "text-to-audio": ExportTask("text-to-audio", ("waveform",), precisions=("fp32",)),
    "audio-to-audio": ExportTask("feature-extraction", ("audio_codes", "audio_values"), precisions=("fp32",)),
    "time-series-forecasting": ExportTask(
        "time-series-forecasting", ("prediction_outputs", "mean_predictions", "full_predictions")
    ),
    "time-series-classification": ExportTask("time-series-classification", ("prediction_logits",)),
    "time-series-regression": ExportTask("time-series-regression", ("regression_outputs",)),
    "reinforcement-learning": ExportTask("reinforcement-learning", ("state_preds", "action_preds", "return_preds")),
}

SYNONYMS: Mapping[str, str] = {
    "default": "feature-extraction",
    "embeddings": "sentence-embeddings",
    "sentence-similarity": "sentence-embeddings",
    "sentiment-analysis": "text-classification",
    "sequence-classification": "text-classification",
    "text-ranking": "text-classification",
    "zero-shot-classification": "text-classification",
    "ner": "token-classification",
    "document-question-answering": "question-answering",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
    "text-generation-with-past": "text-generation",
    "dialogue": "text-generation",
    "summarization": "text2text-generation",
    "translation": "text2text-generation",
    "text2text-generation-with-past": "text2text-generation",
    "semantic-segmentation": "image-segmentation",
    "text-to-speech": "text-to-audio",
}


def find_task(asked: str | None, config: Any, folder: Path | None) -> str:
    """The task to export for: the one asked for, or the one that the checkpoint tells.

    Args:
        asked: a task name or a synonym of one; None to infer.
        config: the checkpoint's transformers configuration.
        folder: the checkpoint's folder, if it has one; sentence-transformers' modules.json is looked for in it.

    Raises:
        TaskError: an unknown task, one that does not fit the model, or one that cannot be inferred or exported.
    """
    architectures = list(getattr(config, "architectures", None) or [])
    able = _tasks_of(architectures)
    if folder is not None and (folder / "modules.json").exists():
        able = "sentence-embeddings"
    if asked is None:
        if able is None:
            raise TaskError(
                f"cannot tell what {config.model_type} with architectures {architectures} is for: "
                f"give --task, one of {', '.join(TASKS)}"
            )
        if able not in TASKS:
            raise TaskError(f"this is a model for {able}, which cannot be exported: {', '.join(TASKS)} can")
        return able
    task = SYNONYMS.get(asked, asked)
    if task not in TASKS:
        raise TaskError(f"unknown task '{asked}': choose one of {', '.join(TASKS)}")
    if able is not None and not task.endswith("feature-extraction") and task != "sentence-embeddings":
        same = able in TASKS and TASKS[able].auto == TASKS[task].auto
        if not same and not writes_words_alone(task, able):
            raise TaskError(
                f"task {task} does not fit: {', '.join(architectures)} is a model for {able}, "
                f"its weights have no head for {task}"
            )
    return task


def writes_words_alone(task: str, able: str | None) -> bool:
    """Whether a model that writes about images or sounds among words is asked to write about words alone."""
    return task == "text-generation" and able in ("image-text-to-text", "audio-text-to-text")


def _tasks_of(architectures: list[str]) -> str | None:
    import transformers

    for name in architectures:
        model_class = getattr(transformers, name, None)
        if model_class is not None:
            return task_of(model_class)
    return None


Shape = Literal[
    "model", "decoder", "encoder-decoder", "vision-language", "audio-language", "speech", "music", "transducer"
]


def shape_of(task: str, model: Any) -> Shape:
    """How a checkpoint runs for a task: in one go, as a decoder over a cache, or such a decoder behind an encoder.

    A decoder behind an encoder attends to what that gives; in a vision-language and in an audio-language model it takes
    it among its tokens, in one for speech it gives frames of a spectrogram, and in one for music the codes of a codec.
    A transducer goes through what its encoder gives, a token or none at a time.

    Raises:
        TaskError: images or sounds are not to be told from what is written about them.
    """
    if hasattr(model, "generate_speech"):
        return "speech"
    if composes(model):
        return "music"
    if task == "automatic-speech-recognition" and transduces(type(model)):
        return "transducer"
    if is_captioner(model):
        return "encoder-decoder"
    if not TASKS[task].generates:
        return "model"
    if TASKS[task].auto == "image-text-to-text" and (model.main_input_name == "input_ids" or fed_first(model)):
        if not hasattr(model, "get_image_features"):
            reason = "it tells no features of images from its decoder"
            raise TaskError(f"{type(model).__name__} cannot be exported for {task}: {reason}")
        return "vision-language"
    if task == "audio-text-to-text" and hears(model) and not getattr(model.config, "has_lora_adapter", False):
        return "audio-language"
    if TASKS[task].auto in ("text2text-generation", "audio-text-to-text") and not model.config.is_encoder_decoder:
        reason = "it takes sounds among its words, and tells no features of them"
        if hears(model):
            reason = "an adapter changes its weights where it hears: merge that first"
        raise TaskError(f"{type(model).__name__} cannot be exported for {task}: {reason}")
    if model.config.is_encoder_decoder and (task == "text2text-generation" or not hasattr(model, "get_image_features")):
        return "encoder-decoder"
    return "decoder" if model.main_input_name == "input_ids" else "model"


def fed_first(model: Any) -> bool:
    """Whether what writes about images among its words takes them in every forward pass, such as BLIP-2."""
    features = getattr(model, "get_image_features", None)
    if model.main_input_name != "pixel_values" or features is None or not hasattr(model, "language_model"):
        return False
    return "input_ids" not in inspect.signature(features).parameters


def has_encoder(model: Any) -> bool:
    """Whether what writes attends to what an encoder gives; InstructBLIP says so of its text model alone."""
    return bool(model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder)


def hears(model: Any) -> bool:
    """Whether a model makes features of sounds that stand in the places of tokens, or tells what does."""
    tower = getattr(getattr(model, "model", None), "audio_tower", model)
    told = hasattr(model, "get_audio_features") or hasattr(tower, "_get_feat_extract_output_lengths")
    return told and tower is not None and hasattr(model.config, "audio_token_id")


def transduces(model_class: Any) -> bool:
    """Whether a model writes frame by frame, over a cache of what it has written, such as Parakeet's TDT and RNN-T."""
    return "decoder_cache" in inspect.signature(model_class.forward).parameters


def composes(model: Any) -> bool:
    """Whether a decoder that attends to a text gives the codes of a codec, such as MusicGen's."""
    parts = hasattr(model, "text_encoder") and hasattr(model, "audio_encoder")
    return parts and "encoder_outputs" in inspect.signature(model.forward).parameters


def is_captioner(model: Any) -> bool:
    """Whether a text decoder of its own attends to what a model for images gives, or a question to one about them."""
    return (hasattr(model, "vision_model") and hasattr(model, "text_decoder")) or sees_first(model)


def sees_first(model: Any) -> bool:
    """Whether a decoder's text follows an image whose patches attend to each other alone, as GIT's."""
    base = getattr(model, "base_model", None)
    return hasattr(base, "image_encoder") and hasattr(base, "visual_projection")


def task_of(model_class: Any) -> str | None:
    """The task that a class of transformers is made for; None where neither optimum nor its signature tell."""
    from optimum.exporters.tasks import TasksManager
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASK_GENERATION_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES,
        MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )

    task: str | None
    try:
        task = str(TasksManager.infer_task_from_model(model_class))
    except (ValueError, KeyError):
        task = _task_by_name(model_class.__name__)
    if transduces(model_class):
        return "automatic-speech-recognition"
    features = {kind for kind in ("audio", "image", "text") if hasattr(model_class, f"get_{kind}_features")}
    takes = inspect.signature(model_class.forward).parameters
    if "feature_attention_mask" in takes:  # Qwen2-Audio makes them amid its forward
        features.add("audio")
    writes = model_class.main_input_name == "input_ids" and hasattr(model_class, "generate")
    if features == {"audio"} and writes:
        return "audio-text-to-text"
    if features == {"image"} and writes and task == "feature-extraction":
        return "image-text-to-text"
    if model_class.__name__ in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values():
        return "text2text-generation"  # BART's is good for filling masks too
    if model_class.__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and "pixel_values" in takes and not features:
        return "image-to-text"  # whose images come before all words
    if task == "image-to-text" and model_class.main_input_name == "input_ids":
        return "image-text-to-text"
    if task == "image-text-to-text" and model_class.main_input_name == "pixel_values" and not features:
        return "image-to-text"
    if model_class.main_input_name == "input_values" and {"encode", "decode"} <= set(dir(model_class)):
        return "audio-to-audio"  # a codec
    if model_class.main_input_name == "spectrogram":
        return "text-to-audio"  # a vocoder, the last part of what speaks
    if model_class.main_input_name == "states":
        return "reinforcement-learning"
    if task != "feature-extraction":
        return task
    if model_class.config_class.model_type in MODEL_FOR_MASK_GENERATION_MAPPING_NAMES:
        return "mask-generation"
    if model_class.__name__ in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        return "zero-shot-image-classification"
    if hasattr(model_class, "get_text_features") and hasattr(model_class, "get_audio_features"):
        return "zero-shot-audio-classification"
    if model_class.__name__ in MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES.values():
        return "text-to-audio"
    kinds = {
        "pixel_values": "image-",
        "pixel_values_videos": "image-",
        "input_values": "audio-",
        "input_features": "audio-",
    }
    return kinds.get(model_class.main_input_name, "") + task


def _task_by_name(name: str) -> str | None:
    """The task of a class that optimum does not know: it skips model types that have several classes for one task."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES,
        MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES,
        MODEL_FOR_TIME_SERIES_CLASSIFICATION_MAPPING_NAMES,
        MODEL_FOR_TIME_SERIES_REGRESSION_MAPPING_NAMES,
        MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
    )

    if name in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES.values():
        return "video-classification"
    if any(
        isinstance(names, tuple) and name in names for names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    ):
        return "image-classification"
    if name in MODEL_FOR_DOCUMENT_QUESTION_ANSWERING_MAPPING_NAMES.values():
        return "question-answering"  # of words and where they stand
    if name in MODEL_FOR_TABLE_QUESTION_ANSWERING_MAPPING_NAMES.values():
        return "table-question-answering"
    if name in MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES.values():
        return "text-classification"  # of pairs of texts
    if name in MODEL_FOR_TIME_SERIES_CLASSIFICATION_MAPPING_NAMES.values():
        return "time-series-classification"
    if name in MODEL_FOR_TIME_SERIES_REGRESSION_MAPPING_NAMES.values():
        return "time-series-regression"
    if name.endswith("ForPrediction"):
        return "time-series-forecasting"
    if name.endswith("ForImageMatting"):
        return "image-matting"
    if name.endswith("ForImageSegmentation"):
        return "image-segmentation"
    if name.endswith(("ForPoseEstimation", "ForKeypointDetection")):
        return "keypoint-detection"
    gives = ("Model", "ModelWithProjection", "Retrieval")
    return "feature-extraction" if name.endswith(gives) else None
