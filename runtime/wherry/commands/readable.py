"""Results for people, one function for each kind of result, and for programs. Knows nothing of pipelines."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wherry.commands.common import table

BAR = 20
"""Characters of a bar for a score of one."""

SHOWN = 10
"""Labels that people are shown of one input."""


def plain(value: Any) -> Any:
    """A result as JSON has it: arrays become lists, masks and other images COCO's run lengths of what is not black."""
    if hasattr(value, "getbands"):
        return _run_lengths(np.asarray(value) > 0)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return value


def _run_lengths(mask: Any) -> dict[str, Any]:
    """Pixels off, on, off and so on, column by column from the top left."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [pixels.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}


def readable(task: str, given: str, result: Any) -> str:
    """What a task made of one input, for people."""
    return READERS[task](given, result)


def _vectors(given: str, result: Any) -> str:
    vector = result.reshape(-1, result.shape[-1])
    start = ", ".join(f"{value:.4f}" for value in vector[0, :6])
    return f"{given}\n  {' x '.join(map(str, result.shape))} floats: [{start}, ...]"


def _scores(given: str, result: Any) -> str:
    told = [result] if isinstance(result, dict) else result
    ranked = told[:SHOWN]
    width = max(20, *(len(each["label"]) for each in ranked))
    lines = [
        f"  {each['label']:<{width}} {each['score']:.4f} {'#' * round(each['score'] * BAR)}".rstrip() for each in ranked
    ]
    if len(told) > SHOWN:
        lines.append(f"  and {len(told) - SHOWN} more, which --json tells")
    return "\n".join([given, *lines])


def _answers(given: str, result: Any) -> str:
    ranked = [result] if isinstance(result, dict) else result
    scores = [f"  {each['score']:.4f}" if "score" in each else "" for each in ranked]  # what is written has none
    told = zip(ranked, scores, strict=True)
    return "\n".join([given, *(f"  {each['answer'] or '(no answer)'}{score}" for each, score in told)])


def _words(given: str, result: Any) -> str:
    masks = result if result and isinstance(result[0], list) else [result]
    lines = [f"  {each['token_str']:<20} {each['score']:.4f}  {each['sequence']}" for mask in masks for each in mask]
    return "\n".join([given, *lines])


def _labels(given: str, result: Any) -> str:
    pairs = zip(result["labels"], result["scores"], strict=True)
    return _scores(given, [{"label": label, "score": score} for label, score in pairs])


def _ranks(given: str, result: Any) -> str:
    return f"{result['score']:8.4f}  {given}"


def _texts(_given: str, result: Any) -> str:
    return "\n".join(str(next(iter(each.values()))) for each in result)


def _entities(given: str, result: Any) -> str:
    if not result:
        return f"{given}\n  nothing found"
    name = "entity" if "entity" in result[0] else "entity_group"
    rows = [["label", "text", "score", "from", "to"]]
    rows += [
        [each[name], given[each["start"] : each["end"]], f"{each['score']:.4f}", str(each["start"]), str(each["end"])]
        for each in result
    ]
    return f"{given}\n{table(rows)}"


def _boxes(given: str, result: Any) -> str:
    if not result:
        return f"{given}\n  nothing found: a lower --threshold shows what is less sure"
    rows = [["label", "score", "xmin", "ymin", "xmax", "ymax"]]
    rows += [[each["label"], f"{each['score']:.4f}", *map(str, each["box"].values())] for each in result]
    return f"{given}\n{table(rows)}"


def _masks(given: str, result: Any) -> str:
    if not result:
        return f"{given}\n  nothing found: a lower --threshold shows what is less sure"
    rows = [["label", "score", "of the image"]]
    for each in result:
        score = "-" if each["score"] is None else f"{each['score']:.4f}"
        rows.append([each["label"], score, f"{(np.asarray(each['mask']) > 0).mean():.1%}"])
    return f"{given}\n{table(rows)}"


def _numbered(given: str, result: Any) -> str:
    if not result:
        return f"{given}\n  nothing found: --points asks for what is there"
    return _masks(given, [{**each, "label": str(number)} for number, each in enumerate(result)])


def _depth(given: str, result: Any) -> str:
    depth = result["predicted_depth"]
    size = f"{depth.shape[1]}x{depth.shape[0]} pixels"
    figures = f"from {depth.min():.4g} to {depth.max():.4g}, mean {depth.mean():.4g}"
    return f"{given}\n  {size}, {figures}; --output shows them as a picture"


def _captions(given: str, result: Any) -> str:
    return "\n".join([given, *(f"  {each['generated_text']}" for each in result)])


def _transcript(_given: str, result: Any) -> str:
    if "chunks" not in result:
        return str(result["text"]).strip()
    times = [["from", "to"], *(list(map(_seconds, chunk["timestamp"])) for chunk in result["chunks"])]
    texts = ["text", "----", *(chunk["text"].strip() for chunk in result["chunks"])]
    return "\n".join(f"{row}  {text}" for row, text in zip(table(times).split("\n"), texts, strict=True))


def _stretches(given: str, result: Any) -> str:
    if not result:
        return f"{given}\n  no speech"
    rows = [["from", "to"], *([_seconds(each["start"]), _seconds(each["end"])] for each in result)]
    return f"{given}\n{table(rows)}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _speech(given: str, result: Any) -> str:
    return f"{given}\n  {result['output']}: {result['seconds']} seconds, {result['sampling_rate']} Hz"


READERS: Mapping[str, Callable[[str, Any], str]] = {
    "feature-extraction": _vectors,
    "sentence-embeddings": _vectors,
    "text-classification": _scores,
    "token-classification": _entities,
    "fill-mask": _words,
    "question-answering": _answers,
    "zero-shot-classification": _labels,
    "text-ranking": _ranks,
    "text-generation": _texts,
    "text2text-generation": _texts,
    "summarization": _texts,
    "translation": _texts,
    "image-classification": _scores,
    "image-feature-extraction": _vectors,
    "object-detection": _boxes,
    "image-segmentation": _masks,
    "mask-generation": _numbered,
    "depth-estimation": _depth,
    "zero-shot-image-classification": _scores,
    "zero-shot-object-detection": _boxes,
    "visual-question-answering": _answers,
    "image-to-text": _captions,
    "image-text-to-text": _captions,
    "audio-text-to-text": _captions,
    "automatic-speech-recognition": _transcript,
    "audio-classification": _scores,
    "zero-shot-audio-classification": _scores,
    "text-to-audio": _speech,
    "voice-activity-detection": _stretches,
}
