"""Folders that cost nothing to make and that a test may damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wherry.bundle import Bundle


@pytest.fixture
def linked(bundle: Callable[[str], Bundle], tmp_path: Path) -> Callable[[str], Path]:
    """A sample's bundle as links to its files, as the hub's cache has it; damage it with `replace`."""

    def link(name: str) -> Path:
        source, folder = bundle(name).folder, tmp_path / name
        for path in source.rglob("*"):
            if path.is_file():
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        return folder

    return link


@pytest.fixture(scope="session")
def replace() -> Callable[[Path, bytes], None]:
    """Puts a file in the place of a link, and leaves what the link led to alone."""

    def put(path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)

    return put
