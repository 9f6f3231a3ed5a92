"""What is written is there whole or not at all, and what is read is named when it is broken."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys

import pytest

from wherry.errors import BundleError
from wherry.files import read_json, read_json_list, sha256, written_aside

KILLED = """
import os, signal, sys
from pathlib import Path
from wherry.files import written_aside
with written_aside(Path(sys.argv[1]), overwrite=True) as scratch:
    (scratch / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(target, name, *, overwrite, error=None):
    with written_aside(target, overwrite=overwrite) as scratch:
        (scratch / name).write_text(name)
        if error:
            raise error


def test_a_block_that_ends_well_leaves_the_target_alone_in_its_place(tmp_path):
    with written_aside(tmp_path / "deep" / "target", overwrite=False) as scratch:
        (scratch / "onnx").mkdir()
        (scratch / "onnx" / "model.onnx").write_bytes(b"graph")
        assert not (tmp_path / "deep" / "target").exists()
    assert names(tmp_path / "deep") == ["target"]
    assert (tmp_path / "deep" / "target" / "onnx" / "model.onnx").read_bytes() == b"graph"


def test_the_target_has_the_permissions_of_any_new_folder(tmp_path):
    (tmp_path / "usual").mkdir()
    with written_aside(tmp_path / "target", overwrite=False):
        pass
    assert (tmp_path / "target").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write(tmp_path / "target", "half", overwrite=False, error=error)
    assert names(tmp_path) == []


def test_overwriting_replaces_all_of_the_old(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with written_aside(tmp_path / "target", overwrite=True) as scratch:
        (scratch / "new").write_text("new")
        assert names(tmp_path / "target") == ["old"]
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["new"]


def test_overwriting_that_fails_keeps_the_old(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with pytest.raises(ValueError):
        write(tmp_path / "target", "new", overwrite=True, error=ValueError)
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["old"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_between_the_two_renames_puts_the_old_back(tmp_path, monkeypatch, error):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    rename = type(tmp_path).rename

    def failing(path, target):
        if ".writing-" in path.name:
            raise error
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", failing)
    with pytest.raises(error):
        write(tmp_path / "target", "new", overwrite=True)
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["old"]


def test_without_overwriting_a_folder_that_is_there_stays(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    with pytest.raises(OSError):
        write(tmp_path / "target", "new", overwrite=False)
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["old"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old").write_text("old")
    (tmp_path / "target").symlink_to(tmp_path / "disk")
    with written_aside(tmp_path / "target", overwrite=True) as scratch:
        (scratch / "new").write_text("new")
    assert names(tmp_path) == ["disk", "target"]
    assert (tmp_path / "target").is_symlink()
    assert names(tmp_path / "disk") == ["new"]


@pytest.mark.parametrize("target", ["target", "tar[g]et", "t*"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, target):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / target], check=False)
    assert done.returncode == -signal.SIGKILL
    (stale,) = tmp_path.iterdir()
    assert names(stale) == ["half"]
    assert not (tmp_path / target).exists()
    with written_aside(tmp_path / target, overwrite=False) as scratch:
        (scratch / "whole").write_text("whole")
    assert names(tmp_path) == [target]
    assert names(tmp_path / target) == ["whole"]


def test_a_killed_process_leaves_the_old_target(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "target"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path / "target") == ["old"]


def test_what_another_process_is_writing_stays(tmp_path):
    (tmp_path / ".target.writing-1").mkdir()
    handle = os.open(tmp_path / ".target.writing-1", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with written_aside(tmp_path / "target", overwrite=False):
        pass
    os.close(handle)
    assert names(tmp_path) == [".target.writing-1", "target"]


def test_two_writers_of_one_target_do_not_mix(tmp_path):
    slow = written_aside(tmp_path / "target", overwrite=False)
    (slow.__enter__() / "slow").write_text("slow")
    write(tmp_path / "target", "fast", overwrite=False)
    with pytest.raises(OSError):
        slow.__exit__(None, None, None)
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["fast"]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_sha256_is_that_of_the_content(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_json_is_read_as_utf8(tmp_path):
    (tmp_path / "file.json").write_bytes('{"名": [1, 2.5, null]}'.encode())
    assert read_json(tmp_path / "file.json") == {"名": [1, 2.5, None]}
    (tmp_path / "list.json").write_text('[{"a": 1}, {}]')
    assert read_json_list(tmp_path / "list.json") == [{"a": 1}, {}]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,\n "b": }', "line 2, column 7"),
        (b'{"a": "\xff"}', "byte 7"),
        (b"[1, 2]", "list"),
        (b'"text"', "str"),
        (b"null", "NoneType"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
    ],
    ids=["empty", "broken", "not-utf8", "list", "text", "null", "deep", "long-number"],
)
def test_json_that_is_no_object_is_refused_by_name(tmp_path, content, reason):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_json(tmp_path / "file.json")
    assert str(tmp_path / "file.json") in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"a": 1}, null]'])
def test_json_that_is_no_list_of_objects_is_refused(tmp_path, content):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(BundleError, match=r"file\.json must hold a JSON array of objects"):
        read_json_list(tmp_path / "file.json")


def test_json_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read .*/none\.json: No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(BundleError, match=r"cannot read .*: Is a directory"):
        read_json(tmp_path)
