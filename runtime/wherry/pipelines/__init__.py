"""One task, one file, one row in this table; `pipeline` opens the one that fits. Imports a task only when used."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from wherry.errors import TaskError

if TYPE_CHECKING:
    from wherry.devices import ProviderOptions
    from wherry.pipelines.base import Pipeline


@dataclass(frozen=True)
class Task:
    """One row: where the pipeline is, and which bundles it runs.

    Attributes:
        module: of `wherry.pipelines`.
        serves: tasks of bundles that this pipeline can run; the first is its own.
        aliases: other names for it.
        about: what it does, for people.
    """

    module: str
    serves: tuple[str, ...]
    about: str
    aliases: tuple[str, ...] = ()


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
    "text-generation": Task("text_generation", ("text-generation",), "text that goes on, and chat"),
    "text2text-generation": Task(
        "text2text_generation", ("text2text-generation",), "another text for a text, as the model was taught"
    ),
    "summarization": Task("summarization", ("text2text-generation",), "a short text for a long one"),
    "translation": Task("translation", ("text2text-generation",), "a text in another language"),
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
) -> "Pipeline":
    """Open a model for a task.

    Args:
        task: what to do; by default what the model is for.
        model: a bundle, another folder with ONNX graphs and their configuration, or a hub repository id.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `tensorrt`, `openvino` or another of `wherry.devices.KINDS`.
        precision: which variant; by default the bundle's first.
        revision: of a hub repository.
        threads: by default every core this process may use.
        provider_options: for onnxruntime's execution provider; they go before those that the bundle recommends.
        allow_fallback: run on the CPU, with a warning, where the device cannot.

    Returns:
        a callable; see the module of the task for what it takes and gives.

    Raises:
        TaskError: an unknown task, or one that does not fit the model.
        HubError, BundleError, DamagedBundleError, DeviceError, SessionError, TokenizerError: the model does not open.
    """
    from wherry.bundle import Bundle
    from wherry.hub import resolve

    wanted = ALIASES.get(task, task) if task is not None else None
    if wanted is not None and wanted not in TASKS:
        raise TaskError(f"unknown task '{task}': choose one of {', '.join(TASKS)}")
    if model is None:
        raise TaskError("no model given: pass model=, a bundle's folder or a hub repository id")
    bundle = Bundle.load(resolve(model, revision=revision))
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
    return opened
