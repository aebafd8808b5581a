"""Writing files so that a killed process leaves the old one or the new one, never half."""

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path` (same ending), then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_zip(path: Path, members: Iterable[tuple[str, str | bytes]]) -> None:
    """Writes a zip of (name, content) atomically; equal members give equal files."""

    def write(temporary: Path):
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in members:
                entry = zipfile.ZipInfo(name)  # dated 1980, not now
                archive.writestr(entry, content, zipfile.ZIP_DEFLATED)

    write_atomically(path, write)
