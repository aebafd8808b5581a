"""Builds a prepared data set: index the raw files, write shards, finish."""

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path

from data_prep.dataset import VERSION, Dataset, Item
from data_prep.finish import finish, nothing_usable, unnumbered
from data_prep.shards import build_shard, sha256
from data_prep.units import PARTIAL, Runner, Unit, run_units, write_json
from rsfm_jax.data.formats import stop
from rsfm_jax.errors import UserError

_FILES_PER_HASH_UNIT = 2000


def build(dataset: Dataset, data_dir: Path, runner: Runner, on_bad: str) -> Path:
    """Builds into DATA_DIR/NAME[/CONFIG]/VERSION and returns that folder.

    Work goes on in a neighbour folder ending in `.incomplete`, which is renamed at the end: a
    folder without that ending is whole. Building what is already there does nothing.

    Raises UserError for bad raw data (`on_bad="stop"`), for nothing usable at all, and for other
    options or raw files than those of the finished or unfinished build found.
    """
    final = data_dir / dataset.name / dataset.config / VERSION
    if final.exists():
        return _already_built(final, dataset)
    work = final.with_name(f"{VERSION}.incomplete")
    _make_folder(work / "progress")
    _make_folder(work / "manifest")
    with _only_build_of(work):
        _build_into(work, dataset, runner, on_bad)
        os.replace(work, final)
    return final


def _build_into(work: Path, dataset: Dataset, runner: Runner, on_bad: str) -> None:
    for stale in work.rglob(PARTIAL.format(name="*", process="*")):
        stale.unlink()
    bad: list[str] = []
    index = dataset.index(
        lambda files: _hashes(dataset, files, work, runner),
        bad.append if on_bad == "skip" else stop,
    )
    splits = {name: _shuffled(items) for name, items in index.splits.items() if items}
    if not splits:
        raise nothing_usable(dataset, bad)
    _check_same_plan(work, dataset, splits)
    features = dataset.features()
    units = {
        split: [
            Unit(
                work / "progress" / f"{split}-{number:05d}.json",
                build_shard,
                (dataset, features, items, unnumbered(work, split, number), on_bad),
                len(items),
            )
            for number, items in enumerate(_chunks(split_items, dataset.items_per_shard))
        ]
        for split, split_items in splits.items()
    }
    run_units([unit for split in units.values() for unit in split], runner, dataset.name)
    finish(dataset, work, units, bad, index.duplicates)


def _hashes(dataset: Dataset, files: list[str], work: Path, runner: Runner) -> list[str]:
    """sha256 of each raw file, kept by name, size and time so that a restart hashes no more."""
    units = []
    for chunk in _chunks(files, _FILES_PER_HASH_UNIT):
        paths = [dataset.path(name) for name in chunk]
        key = hashlib.sha256(repr([(p, *_stamp(p)) for p in paths]).encode()).hexdigest()
        done = work / "progress" / f"hashes-{key[:24]}.json"
        units.append(Unit(done, _hash_files, (paths,), len(paths)))
    run_units(units, runner, f"{dataset.name} hashes")
    return [value for unit in units for value in unit.result()]


def _hash_files(paths: list[Path]) -> list[str]:
    return [_hash_or_name(path) for path in paths]


def _hash_or_name(path: Path) -> str:
    try:
        return sha256(path)
    except UserError:  # equal to no other; whoever converts the file says what is wrong with it
        return str(path)


def _stamp(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_size, status.st_mtime_ns


def _shuffled(items: list[Item]) -> list[Item]:
    """A fixed order that depends on names only, so that any slice of a split is a fair sample."""
    return sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--data_dir: cannot make {path}: {error.strerror}") from error


@contextlib.contextmanager
def _only_build_of(work: Path):
    """Holds a lock that ends with the process, so that two builds never write the same shard."""
    lock = work / "lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{work}: another build is at work there") from error
        yield


def _check_same_plan(work: Path, dataset: Dataset, splits: dict[str, list[Item]]) -> None:
    items = hashlib.sha256()
    for split, split_items in splits.items():
        for item in split_items:
            items.update(repr((split, *item)).encode())
    plan = {"options": dataset.options(), "items": items.hexdigest()}
    path = work / "plan.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(plan)):
        raise UserError(
            f"{work} is an unfinished build of other raw files or options: delete it to start "
            "over, or call with the same ones to go on"
        )
    write_json(path, plan)


def _already_built(final: Path, dataset: Dataset) -> Path:
    built = json.loads((final / "manifest.json").read_text())["options"]
    wanted = json.loads(json.dumps(dataset.options()))
    if built != wanted:
        raise UserError(f"{final} was built with {built}, not {wanted}: delete it or keep it")
    return final
