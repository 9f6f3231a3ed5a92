"""What the README and the docs show works as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.pipelines import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def harbour(bundle, tmp_path):
    """A working directory that has the bundles which the README speaks of."""
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "minilm").symlink_to(bundle("minilm").folder)
    (tmp_path / "bundles" / "smollm2").symlink_to(bundle("smollm2-gguf").folder)
    return tmp_path


def test_python(harbour):
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=harbour, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    scores, answer = done.stdout.split("]", 1)
    first, second = map(float, scores.strip("[").split())
    assert first > second
    assert "Paris" in answer


def test_commands(harbour):
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines() if line[:2] == "$ "]
    shown = [shlex.split(line) for line in lines if line.startswith("wherry ")]
    ran = [words for words in shown if words[1] in ("run", "inspect", "verify", "chat")]
    assert len(ran) >= 5
    for words in ran:
        program = Path(sys.executable).with_name("wherry")
        done = subprocess.run([program, *words[1:]], cwd=harbour, capture_output=True, text=True, input="Hello!\n")
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout.strip(), words
    targets = [line.removeprefix("make ") for line in lines if line.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_table_of_tasks_is_complete():
    table = README[README.index("## What works") :]
    assert all(f"`{task}`" in table for task in TASKS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
