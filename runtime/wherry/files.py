"""Reading and writing files so that nothing is half-written and nothing damaged is read. Knows no model."""

import fcntl
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wherry.errors import BundleError


def sha256(path: Path) -> str:
    """The sha256 of a file, as lowercase hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: the file is missing, is not UTF-8 JSON, or holds something else than an object.
    """
    data = _parse(path)
    if not isinstance(data, dict):
        raise BundleError(f"{path} must hold a JSON object, not {type(data).__name__}")
    return data


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """A JSON array of objects from a file; raises as `read_json` does."""
    data = _parse(path)
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise BundleError(f"{path} must hold a JSON array of objects")
    return data


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not valid JSON: it is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise BundleError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise BundleError(f"{path} is not usable JSON: {error}") from error
    except RecursionError as error:
        raise BundleError(f"{path} is not usable JSON: it is nested too deeply") from error


def fsync_tree(folder: Path) -> None:
    """Ask the system to put every file and folder below `folder` on disk."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """A handle that holds the lock of a folder until it is closed or its process ends; None where it cannot be had."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def written_aside(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its place when the block ends well, and vanishes otherwise.

    A block that fails or is killed leaves `folder` as it was. With `overwrite`, an older `folder` is
    replaced only at the very end.
    """
    folder = folder.resolve()  # a link to a folder stays one
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{glob.escape(folder.name)}.writing-*"):
        if (handle := _locked(stale)) is not None:
            shutil.rmtree(stale, ignore_errors=True)
            os.close(handle)
    name = secrets.token_hex(4)
    scratch = folder.parent / f".{folder.name}.writing-{name}"
    scratch.mkdir()
    lock = _locked(scratch)
    try:
        yield scratch
        fsync_tree(scratch)
        if overwrite and folder.exists():
            old = folder.parent / f".{folder.name}.replaced-{name}"
            folder.rename(old)
            try:
                scratch.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            scratch.rename(folder)
        fsync_parent = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(fsync_parent)
        finally:
            os.close(fsync_parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)
