"""Raw synthetic data sets drawn once for all tests, and the command run inside this process."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from data_prep.__main__ import main
from data_prep.raw_scenes import write_raw


@functools.cache
def raw_root() -> Path:
    """RAW/NAME of every data set; copy before changing anything."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    write_raw(folder)
    return folder


def raw_copy(name: str, target: Path) -> Path:
    return Path(shutil.copytree(raw_root() / name, target / "raw" / name))


def build(name: str, source: Path, out: Path, *options: str) -> Path:
    """Builds in this process and returns the prepared folder, the only one of its name."""
    arguments = ["build", name, f"--source={source}", f"--data_dir={out}", "--workers=1"]
    assert main([*arguments, *options]) == 0
    (folder,) = (path.parent for path in (out / name).rglob("manifest.json"))
    return folder


def read(folder: Path, split: str) -> list[dict]:
    """All examples as TFDS gives them, pictures and masks decoded by TFDS."""
    return list(tfds.builder_from_directory(folder).as_data_source(split))
