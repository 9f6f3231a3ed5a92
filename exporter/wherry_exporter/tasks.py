"""Which tasks can be exported, what each needs, and which one a checkpoint is for.

The table grows by a row per task. Nothing here loads weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wherry.errors import TaskError


@dataclass(frozen=True)
class ExportTask:
    """One exportable task.

    Attributes:
        auto: the task by which optimum's TasksManager finds the model class.
        output: the model output that becomes the graph's main output.
        decoder: whether the graph carries past_key_values.
        precisions: what it can be exported to; the first is what parity is measured from.
    """

    auto: str
    output: str
    decoder: bool = False
    precisions: tuple[str, ...] = ("fp32", "int8")


TASKS: Mapping[str, ExportTask] = {
    "feature-extraction": ExportTask("feature-extraction", "last_hidden_state"),
    "sentence-embeddings": ExportTask("feature-extraction", "last_hidden_state"),
    "text-classification": ExportTask("text-classification", "logits"),
    "token-classification": ExportTask("token-classification", "logits"),
    "text-generation": ExportTask("text-generation", "logits", decoder=True, precisions=("fp32", "int8", "int4")),
}

SYNONYMS: Mapping[str, str] = {
    "default": "feature-extraction",
    "embeddings": "sentence-embeddings",
    "sentence-similarity": "sentence-embeddings",
    "sentiment-analysis": "text-classification",
    "sequence-classification": "text-classification",
    "ner": "token-classification",
    "causal-lm": "text-generation",
    "text-generation-with-past": "text-generation",
    "dialogue": "text-generation",
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
    from optimum.exporters.tasks import TasksManager

    architectures = list(getattr(config, "architectures", None) or [])
    able = _tasks_of(architectures, TasksManager)
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
    if able is not None and TASKS[task].auto != "feature-extraction":
        same = able in TASKS and TASKS[able].auto == TASKS[task].auto
        if not same:
            raise TaskError(
                f"task {task} does not fit: {', '.join(architectures)} is a model for {able}, "
                f"its weights have no head for {task}"
            )
    return task


def _tasks_of(architectures: list[str], manager: Any) -> str | None:
    import transformers

    for name in architectures:
        model_class = getattr(transformers, name, None)
        if model_class is not None:
            return str(manager.infer_task_from_model(model_class))
    return None
