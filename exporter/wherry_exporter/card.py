"""The model card of a bundle: what it is, how to run it, how close each variant is. Only formats what it is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wherry.files import sha256

USES = {
    "feature-extraction": 'pipe("A wherry is a light boat.")[0][0][:4]',
    "sentence-embeddings": 'pipe(["A light boat.", "A small ship."]).shape',
    "text-classification": 'pipe("What a pleasant trip!")',
    "token-classification": 'pipe("Maria Oliveira lives in Bristol.")',
    "text-generation": 'pipe("The river", max_new_tokens=20)',
}


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md from a bundle's manifest."""
    source = manifest["provenance"]
    front = {
        "license": source["licence"],
        "pipeline_tag": _hub_task(manifest["task"]),
        "library_name": "wherry",
    }
    lines = [
        "---",
        *(f"{key}: {value}" for key, value in front.items() if value),
        "tags:",
        "- onnx",
        "---",
        "",
    ]
    lines += [f"# {source['source']} in ONNX", ""]
    lines += [
        f"`{source['architecture']}` for {manifest['task']}, converted from `{source['source']}`"
        + (f" at `{source['revision']}`" if source["revision"] else "")
        + f" by wherry {source['tools']['wherry']} on {source['created'][:10]}.",
        "",
        *_use(manifest),
        "",
        *([f"The graphs take {in_words(manifest['sizes'])}.", ""] if manifest["sizes"] else []),
        "Each variant was run beside the original in float32, padded, at batch sizes and lengths other than traced:",
        "",
        *_table(manifest["variants"]),
        "",
        f"Licence: {source['licence'] or 'as the original model; its checkpoint states none'}.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def record(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def in_words(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """The sizes that graphs fix as people read them."""
    return "; ".join(
        f"{name} of one size alone, {', '.join(f'{axis} {size}' for axis, size in fixed.items())}"
        for name, fixed in sizes.items()
    )


def _use(manifest: Mapping[str, Any]) -> list[str]:
    if manifest["task"] not in USES:
        graphs = next(iter(manifest["variants"].values()))["graphs"].values()
        return [f"The graphs ({', '.join(f'`{name}`' for name in graphs)}) run in onnxruntime."]
    code = ["from wherry import pipeline", "", 'pipe = pipeline(model="THIS_FOLDER")', USES[manifest["task"]]]
    return ["```python", *code, "```"]


def _hub_task(task: str) -> str:
    names = {"sentence-embeddings": "sentence-similarity", "audio-feature-extraction": "feature-extraction"}
    return names.get(task, task)


def _table(variants: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for entry in variants.values() for name in entry["parity"]))
    lines = [f"| variant | MB | {' | '.join(names)} | speed |", "|---" * (len(names) + 3) + "|"]
    for precision, entry in variants.items():
        size = sum(record["bytes"] for record in entry["files"].values()) / 1e6
        figures = " | ".join(f"{entry['parity'][name]:g}" if name in entry["parity"] else "" for name in names)
        lines.append(f"| {precision} | {size:.1f} | {figures} | {entry['speed']}x |")
    return lines
