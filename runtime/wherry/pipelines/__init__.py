"""One task, one file, one row in this table; `pipeline` opens the one that fits. Imports a task only when used."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wherry.errors import InputError, TaskError

if TYPE_CHECKING:
    from wherry.devices import ProviderOptions
    from wherry.pipelines.base import Pipeline

TRANSLATION = re.compile(r"translation_(.+)_to_(.+)")
"""`translation_en_to_fr` names a task and its languages."""


@dataclass(frozen=True)
class Task:
    """One row: where the pipeline is, and which bundles it runs.

    Attributes:
        module: of `wherry.pipelines`.
        serves: tasks of bundles that this pipeline can run; a checkpoint is exported for the first.
        aliases: other names for it.
        about: what it does, for people.
        takes: what it runs on: `text`, or `image` or `sound`, whose inputs the command line names as files.
        call: how it is called, where that takes more than one input.
    """

    module: str
    serves: tuple[str, ...]
    about: str
    aliases: tuple[str, ...] = ()
    takes: Literal["text", "image", "sound"] = "text"
    call: str | None = None

    @property
    def example(self) -> str:
        """One call of the pipeline."""
        return (
            self.call
            or {
                "text": 'pipe("A wherry is a light boat.")',
                "image": 'pipe("boat.jpg")',
                "sound": 'pipe("speech.wav")',
            }[self.takes]
        )


TASKS: Mapping[str, Task] = {
    "feature-extraction": Task(
        "feature_extraction",
        ("feature-extraction", "sentence-embeddings"),
        "a vector for each token of a text",
    ),
    "sentence-embeddings": Task(
        "sentence_embeddings",
        ("sentence-embeddings", "feature-extraction"),
        "one vector for each text, for search and comparison",
        ("sentence-similarity", "embeddings"),
    ),
    "text-classification": Task(
        "text_classification",
        ("text-classification",),
        "labels and scores for a text",
        ("sentiment-analysis",),
    ),
    "token-classification": Task(
        "token_classification",
        ("token-classification",),
        "labelled words: names, places, personal data",
        ("ner",),
    ),
    "fill-mask": Task(
        "fill_mask", ("fill-mask",), "the words that are missing in a text", call='pipe("A [MASK] is a light boat.")'
    ),
    "question-answering": Task(
        "question_answering",
        ("question-answering",),
        "the part of a text that answers a question",
        call='pipe(question="What is a wherry?", context="A wherry is a light boat.")',
    ),
    "zero-shot-classification": Task(
        "zero_shot_classification",
        ("text-classification",),
        "which of your labels fits a text",
        call='pipe("A wherry is a light boat.", candidate_labels=["sea", "law"])',
    ),
    "text-ranking": Task(
        "text_ranking",
        ("text-classification",),
        "texts ordered by how well they answer a query",
        ("rerank", "reranking"),
        call='pipe("What is a wherry?", ["Knead the dough.", "A wherry is a light boat."])',
    ),
    "text-generation": Task("text_generation", ("text-generation",), "text that goes on, and chat"),
    "text2text-generation": Task(
        "text2text_generation", ("text2text-generation",), "another text for a text, as the model was taught"
    ),
    "summarization": Task("summarization", ("text2text-generation",), "a short text for a long one"),
    "translation": Task("translation", ("text2text-generation",), "a text in another language"),
    "image-classification": Task(
        "image_classification", ("image-classification",), "labels and scores for an image", takes="image"
    ),
    "image-feature-extraction": Task(
        "image_feature_extraction", ("image-feature-extraction",), "vectors of an image", takes="image"
    ),
    "object-detection": Task(
        "object_detection", ("object-detection",), "boxes around things in an image", takes="image"
    ),
    "image-segmentation": Task(
        "image_segmentation",
        ("image-segmentation",),
        "masks of things in an image",
        ("semantic-segmentation",),
        takes="image",
    ),
    "mask-generation": Task(
        "mask_generation",
        ("mask-generation",),
        "masks of the things that points in an image are on",
        takes="image",
        call='pipe("boat.jpg", points=[(450, 600)])',
    ),
    "depth-estimation": Task(
        "depth_estimation", ("depth-estimation",), "how far the parts of an image are", takes="image"
    ),
    "zero-shot-image-classification": Task(
        "zero_shot_image_classification",
        ("zero-shot-image-classification",),
        "which of your labels fits an image",
        takes="image",
        call='pipe("boat.jpg", candidate_labels=["boat", "house"])',
    ),
    "zero-shot-object-detection": Task(
        "zero_shot_object_detection",
        ("zero-shot-object-detection",),
        "boxes around what your labels name",
        takes="image",
        call='pipe("boat.jpg", candidate_labels=["boat", "house"])',
    ),
    "visual-question-answering": Task(
        "visual_question_answering",
        ("visual-question-answering",),
        "answers to a question about an image",
        ("vqa",),
        takes="image",
        call='pipe("boat.jpg", "What is on the water?")',
    ),
    "image-to-text": Task("image_to_text", ("image-to-text",), "what an image shows or says, in words", takes="image"),
    "image-text-to-text": Task(
        "image_text_to_text",
        ("image-text-to-text",),
        "text about images, and chat with them",
        takes="image",
        call='pipe("boat.jpg", "<image> What is this?")',
    ),
    "audio-text-to-text": Task(
        "audio_text_to_text",
        ("audio-text-to-text", "image-text-to-text"),
        "text about sounds, and chat with them",
        takes="sound",
        call='pipe("harbour.wav", "<|audio|> What is said?")',
    ),
    "automatic-speech-recognition": Task(
        "automatic_speech_recognition", ("automatic-speech-recognition",), "the text of speech", takes="sound"
    ),
    "audio-classification": Task(
        "audio_classification", ("audio-classification",), "labels and scores for a sound", takes="sound"
    ),
    "zero-shot-audio-classification": Task(
        "zero_shot_audio_classification",
        ("zero-shot-audio-classification",),
        "which of your labels fits a sound",
        takes="sound",
        call='pipe("harbour.wav", candidate_labels=["gulls", "rain"])',
    ),
    "text-to-audio": Task("text_to_audio", ("text-to-audio",), "speech or music for a text", ("text-to-speech",)),
    "voice-activity-detection": Task(
        "voice_activity_detection",
        ("voice-activity-detection",),
        "where somebody speaks in a sound",
        takes="sound",
    ),
}

ALIASES = {alias: name for name, task in TASKS.items() for alias in task.aliases}


def pipeline(
    task: str | None = None,
    model: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str | None = None,
    revision: str | None = None,
    threads: int | None = None,
    provider_options: "ProviderOptions | None" = None,
    allow_fallback: bool = False,
    **options: Any,
) -> "Pipeline":
    """Open a model for a task.

    Args:
        task: what to do; by default what the model is for.
        model: a bundle, another folder with ONNX graphs and their configuration, one of its ONNX files, a hub
            repository id, or a checkpoint, which is exported once where the extra `export` is installed.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `tensorrt`, `openvino` or another of `wherry.devices.KINDS`.
        precision: which variant; by default the bundle's first.
        revision: of a hub repository.
        threads: by default every core this process may use.
        provider_options: for onnxruntime's execution provider; they go before those that the bundle recommends.
        allow_fallback: run on the CPU, with a warning, where the device cannot.
        options: of every call, unless a call gives them itself.

    Returns:
        a callable; see the module of the task for what it takes and gives.

    Raises:
        TaskError: an unknown task, or one that does not fit the model.
        InputError: an option that the task does not have.
        HubError, BundleError, DamagedBundleError, DeviceError, SessionError, TokenizerError: the model does not open.
    """
    from wherry.models import open_model

    languages = TRANSLATION.fullmatch(task) if task is not None else None
    wanted = "translation" if languages else ALIASES.get(task, task) if task is not None else None
    if wanted is not None and wanted not in TASKS:
        raise TaskError(f"unknown task '{task}': choose one of {', '.join(TASKS)}")
    if model is None:
        raise TaskError("no model given: pass model=, a bundle's folder or a hub repository id")
    made_for = TASKS[wanted].serves[0] if wanted is not None else None
    bundle = open_model(model, task=made_for, precision=precision, revision=revision)
    wanted = wanted or bundle.task
    if wanted is None:
        raise TaskError(f"{bundle.folder} does not tell its task: pass task=, one of {', '.join(TASKS)}")
    if wanted not in TASKS:
        raise TaskError(f"{bundle.folder} is for {wanted}, which this version of wherry does not run")
    if bundle.task is not None and bundle.task not in TASKS[wanted].serves:
        raise TaskError(f"task {wanted} does not fit: {bundle.folder} is for {bundle.task}")
    module = import_module(f"wherry.pipelines.{TASKS[wanted].module}")
    opened: Pipeline = module.PIPELINE(
        bundle,
        device=device,
        precision=precision,
        threads=threads,
        provider_options=provider_options,
        allow_fallback=allow_fallback,
    )
    if languages:
        opened.options = module.between(opened, *languages.groups())
    taken = inspect.signature(opened.__call__).parameters
    for name in options:
        if name not in taken and "options" not in taken:
            raise InputError(f"{wanted} has no option '{name}': it has {', '.join(taken)}")
    opened.options = {**opened.options, **options}
    return opened
