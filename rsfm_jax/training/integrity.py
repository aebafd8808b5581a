"""Which checkpoints are whole: each carries checksums of its files, written before its commit.

Orbax notices a missing or truncated file, but not flipped bits of an array: they load as other
numbers. CRC-32 finds every burst of up to 32 flipped bits and misses one in 2**32 other changes,
at about 4 GB/s a thread.
"""

import json
import logging
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.sharding.distributed import everywhere

log = logging.getLogger(__name__)

SUMS = "checksums.json"
COMMITTED = "commit_success.txt"  # Orbax writes it last
METADATA = "_CHECKPOINT_METADATA"  # Orbax completes it when it commits
DAMAGED = ".damaged"  # ending of a folder that was set aside
READERS, CHUNK = 8, 1 << 24


def write_checksums(folder: Path, metadata: dict[str, Any]) -> None:
    """Describes the files and the run's metadata of one step's folder, before it is committed."""
    files = {str(path.relative_to(folder)): path for path in _data_files(folder)}
    with ThreadPoolExecutor(READERS) as pool:
        sums = dict(zip(files, pool.map(_checksum, files.values()), strict=True))
    write_text(folder / SUMS, json.dumps({"files": sums, "metadata": _sum(metadata)}))


def find_damage(folder: Path) -> str | None:
    """What is wrong with one step's folder, in a few words; None where nothing is.

    The processes of a run check the files of the same folder together and may find different
    things. A folder without checksums, of another writer, only has to be committed.
    """
    try:
        if not (folder / COMMITTED).is_file():
            return "half-written"
        if not (folder / SUMS).exists():
            log.warning("%s has no %s: it is taken without a check", folder, SUMS)
            return None
        sums = json.loads((folder / SUMS).read_text())
        written = ocp.checkpointables_metadata(folder)
        parts = {name.split("/")[0] for name in sums["files"] if "/" in name}
        if set(written.metadata) != parts or _sum(written.custom_metadata) != sums["metadata"]:
            return f"{METADATA} has changed"
        files = sorted(sums["files"].items())[jax.process_index() :: jax.process_count()]
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(_checksum, [folder / name for name, _ in files])
            for (name, expected), found in zip(files, read, strict=True):
                if found != expected:
                    return f"{name} has changed"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror or error}"
    except Exception as error:  # Orbax raises anything
        return f"{SUMS} or {METADATA} cannot be read: {type(error).__name__}"
    return None


def newest_whole(folders: list[Path]) -> tuple[Path, list[Path]]:
    """The newest whole one of some steps' folders, and the damaged ones that are newer.

    Every process of a run has to call it; all get the same answer.

    Raises:
      UserError: none is whole.
    """
    damaged: list[Path] = []
    for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
        damage = find_damage(folder)
        if damage:
            log.warning("%s is damaged (%s): looking for an older one", folder, damage)
        if everywhere(damage is None):
            return folder, damaged
        damaged.append(folder)
    raise UserError(
        f"{folders[0].parent} holds checkpoints but no whole one; put one back, or give another "
        "--workdir to start from step 0"
    )


def step_folders(folder: Path) -> list[Path]:
    """The folders of single steps in `folder`, in no order."""
    return [path for path in folder.glob("*") if path.name.isdigit() and path.is_dir()]


def set_aside(folder: Path) -> None:
    """Renames one step's damaged folder, so that nothing takes it for a checkpoint."""
    name = folder.with_name(folder.name + DAMAGED)
    number = 1
    while name.exists():
        number += 1
        name = folder.with_name(f"{folder.name}{DAMAGED}{number}")
    folder.rename(name)


def _data_files(folder: Path) -> Iterator[Path]:
    others = {folder / name for name in (SUMS, COMMITTED, METADATA)}
    return (path for path in folder.rglob("*") if path.is_file() and path not in others)


def _checksum(file: Path) -> list[int]:
    """[bytes, CRC-32]."""
    total, size = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            total, size = zlib.crc32(chunk, total), size + len(chunk)
    return [size, total]


def _sum(metadata: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
