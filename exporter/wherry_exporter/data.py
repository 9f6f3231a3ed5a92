"""Reads the rows that a user gives to calibrate or verify with: texts, images or sounds, with labels and groups."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wherry_exporter.errors import UsageError

IMAGES = (".png", ".jpg", ".jpeg", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        place: where it stands, for messages.
        text: what a model of language reads.
        text_pair: what it reads beside it.
        image: an image file.
        audio: a sound file.
        label: the right answer: a class's name or index, the spans of entities, a transcript.
        group: the slice that it belongs to, e.g. a language or an accent.
    """

    place: str
    text: str | None = None
    text_pair: str | None = None
    image: Path | None = None
    audio: Path | None = None
    label: Any = None
    group: str | None = None


def read_rows(path: str | Path) -> list[Row]:
    """Read a file or a folder.

    Args:
        path: a `.txt` with a text on each line; a `.jsonl` with an object on each, of `text`, `text_pair`, `image`,
            `audio` (files relative to it), `label` and `group`, all optional; an image or a sound; or a folder of
            images or sounds, whose subfolders, if it has some, are the labels.

    Raises:
        UsageError: it is not there, is none of these, or a line of it is wrong.
    """
    path = Path(path)
    if path.is_dir():
        rows = list(_of_folder(path))
    elif not path.is_file():
        raise UsageError(f"no such file or folder: {path}")
    elif path.suffix.lower() in (".jsonl", ".txt"):
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}"
            ) from error
        named = [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
        read = _of_object if path.suffix.lower() == ".jsonl" else _of_line
        rows = [read(place, line, path.parent) for place, line in named]
    else:
        rows = list(_of_file(path, None))
    if not rows:
        raise UsageError(f"{path} holds no rows: give a .txt or .jsonl file, images ({_listed(IMAGES)}) or sounds")
    return rows


def _listed(endings: Sequence[str]) -> str:
    return ", ".join(ending[1:] for ending in endings)


def _of_folder(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in IMAGES + SOUNDS:
            yield from _of_file(path, path.parent.name if path.parent != folder else None)


def _of_file(path: Path, label: str | None) -> Iterator[Row]:
    if path.suffix.lower() in IMAGES:
        yield Row(str(path), image=path, label=label)
    elif path.suffix.lower() in SOUNDS:
        yield Row(str(path), audio=path, label=label)
    else:
        raise UsageError(f"{path} is neither text (.txt, .jsonl) nor an image nor a sound")


def _of_line(place: str, line: str, _folder: Path) -> Row:
    return Row(place, text=line.removesuffix("\r"))


def _of_object(place: str, line: str, folder: Path) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{place}: not a JSON object")
    known = ("text", "text_pair", "image", "audio", "label", "group")
    unknown = sorted(set(values) - set(known))
    if unknown or not {"text", "image", "audio"} & set(values):
        raise UsageError(
            f"{place}: "
            + (f"unknown {', '.join(unknown)}" if unknown else "no text, image or audio")
            + f"; a row has {', '.join(known)}"
        )
    for name in ("text", "text_pair", "image", "audio"):
        if not isinstance(values.get(name, ""), str):
            raise UsageError(f"{place}: {name} is no string")
    files = {name: folder / values[name] for name in ("image", "audio") if name in values}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise UsageError(f"{place}: no such file: {missing[0]}")
    group = values.get("group")
    return Row(
        place,
        text=values.get("text"),
        text_pair=values.get("text_pair"),
        label=values.get("label"),
        group=None if group is None else str(group),
        **files,
    )
