import functools
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from rsfm_jax.data.loader import Loader, load_all
from rsfm_jax.data.sources import open_source
from rsfm_jax.data.synthetic import draw_scene
from rsfm_jax.data.transforms import crop_example, resize_center_crop
from rsfm_jax.errors import UserError

EXAMPLES, BATCH, STEPS = 23, 40, 4  # an odd number of examples; a batch is three pieces
CROP = functools.partial(crop_example, size=24)
CENTER = functools.partial(resize_center_crop, size=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """23 JPEGs of two classes, 10 and 13."""
    import simplejpeg

    path = tmp_path_factory.mktemp("scenes")
    for number in range(EXAMPLES):
        file = path / ("field" if number < 10 else "town") / f"{number:02d}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(simplejpeg.encode_jpeg(draw_scene(number, size=64).image))
    return path


def read(folder: Path, steps: int = STEPS, **options) -> list[dict[str, np.ndarray]]:
    settings = {"batch_size": BATCH, "rows": np.arange(BATCH), "seed": 5} | options
    with Loader(open_source(str(folder)), transform=CROP, **settings) as loader:
        return [next(loader) for _ in range(steps)]


@pytest.fixture(scope="module")
def wanted(folder) -> list[dict[str, np.ndarray]]:
    return read(folder, threads=1)


def assert_same(batches, wanted):
    assert len(batches) == len(wanted)
    for got, want in zip(batches, wanted, strict=True):
        assert got.keys() == want.keys()
        for key in want:
            assert got[key].dtype == want[key].dtype
            np.testing.assert_array_equal(got[key], want[key])


def test_batch_contents(folder, wanted):
    source = open_source(str(folder))
    for batch in wanted:
        assert batch["image"].shape == (BATCH, 24, 24, 3) and batch["image"].dtype == np.uint8
        assert batch["example_id"].dtype == batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], source.labels[batch["example_id"]])


def test_every_epoch_is_another_permutation(wanted):
    ids = np.concatenate([batch["example_id"] for batch in wanted])
    epochs = ids[: len(ids) // EXAMPLES * EXAMPLES].reshape(-1, EXAMPLES)
    assert len(epochs) == 6
    assert (np.sort(epochs, axis=1) == np.arange(EXAMPLES)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_augmentation_differs_between_epochs_and_seeds(folder, wanted):
    ids = np.concatenate([batch["example_id"] for batch in wanted])
    images = np.concatenate([batch["image"] for batch in wanted])
    same_file = images[ids == 7]
    assert len(np.unique(same_file.reshape(len(same_file), -1), axis=0)) == len(same_file) >= 6
    other = read(folder, steps=1, seed=6)
    assert not np.array_equal(other[0]["example_id"], wanted[0]["example_id"])


@pytest.mark.parametrize("start", [1, 3])
def test_a_start_at_a_step_continues_the_run(folder, wanted, start):
    assert_same(read(folder, steps=STEPS - start, start_step=start), wanted[start:])


def test_threads_do_not_matter(folder, wanted):
    assert_same(read(folder, threads=3), wanted)
    assert_same(read(folder), wanted)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_matter(folder, wanted, workers):
    assert_same(read(folder, workers=workers, steps=2, start_step=2), wanted[2:])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("hosts", [2, 8])
def test_hosts_do_not_matter(folder, wanted, hosts):
    parts = [read(folder, rows=rows) for rows in np.split(np.arange(BATCH), hosts)]
    joined = [
        {key: np.concatenate([part[step][key] for part in parts]) for key in wanted[0]}
        for step in range(STEPS)
    ]
    assert_same(joined, wanted)


def test_rows_may_be_any(folder, wanted):
    rows = np.array([31, 2, 7])
    assert_same(read(folder, rows=rows), [{k: v[rows] for k, v in x.items()} for x in wanted])


def test_fractions_are_nested(folder):
    kept = {
        fraction: set(np.concatenate([x["example_id"] for x in read(folder, fraction=fraction)]))
        for fraction in (0.01, 0.3, 0.6, 1.0)
    }
    assert [len(ids) for ids in kept.values()] == [1, 7, 14, 23]
    assert kept[0.01] < kept[0.3] < kept[0.6] < kept[1.0]


def test_wrong_arguments(folder):
    for wrong, message in (
        ({"fraction": 0.0}, r"data.fraction is 0.0, it must be in \(0, 1\]"),
        ({"rows": np.array([BATCH])}, r"rows must be in \[0, 40\)"),
        ({"seed": -1}, "seed is -1, it must not be negative"),
        ({"max_bad_fraction": 1.0}, "max_bad_fraction is 1.0"),
    ):
        with pytest.raises(UserError, match=message):
            read(folder, **wrong)


@pytest.fixture
def damaged(folder, tmp_path) -> Path:
    """The same files, of which 5 and 6 are truncated and 22, the last, is text."""
    copy = tmp_path / "scenes"
    shutil.copytree(folder, copy)
    for number in (5, 6):
        file = copy / f"field/{number:02d}.jpg"
        file.write_bytes(file.read_bytes()[:-200])
    (copy / "town/22.jpg").write_text("<html>404 Not Found</html>")
    return copy


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_replaced_named_and_counted(damaged, wanted, workers, caplog):
    source = open_source(str(damaged))
    options = {"batch_size": BATCH, "rows": np.arange(BATCH), "seed": 5, "workers": workers}
    with (
        caplog.at_level(logging.WARNING),
        Loader(source, transform=CROP, max_bad_fraction=0.15, **options) as loader,
    ):
        batches = [next(loader) for _ in range(STEPS)]
        assert loader.bad_examples == 3
    lines = [record.getMessage() for record in caplog.records]
    for file, reason in (("05.jpg", "truncated"), ("06.jpg", "truncated"), ("22.jpg", "not an im")):
        assert len([line for line in lines if file in line and reason in line]) == 1
    replaced = {5: 7, 6: 7, 22: 0}
    for got, want in zip(batches, wanted, strict=True):
        ids = [replaced.get(example_id, example_id) for example_id in want["example_id"].tolist()]
        assert got["example_id"].tolist() == ids
        np.testing.assert_array_equal(got["label"], source.labels[ids])
        good = np.array([example_id not in replaced for example_id in want["example_id"]])
        np.testing.assert_array_equal(got["image"][good], want["image"][good])
        assert (got["image"].reshape(BATCH, -1).std(axis=1) > 0).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_files_stop_the_run_with_a_list(damaged, workers):
    with pytest.raises(UserError) as caught:
        read(damaged, max_bad_fraction=0.1, workers=workers)
    message = str(caught.value)
    assert "3 of 23 examples cannot be read, at most 2 may be" in message
    for file in ("field/05.jpg", "field/06.jpg", "town/22.jpg"):
        assert f"{damaged}/{file} (" in message
    assert "\n" not in message and not multiprocessing.active_children()


def test_a_folder_that_vanishes_stops_the_run_with_a_bounded_list(tmp_path):
    for number in range(60):
        shutil.copy(__file__, tmp_path / f"{number:02d}.png")
    source = open_source(str(tmp_path))
    shutil.rmtree(tmp_path)
    with (
        Loader(
            source, transform=CROP, batch_size=8, rows=[0, 1], seed=0, max_bad_fraction=0.5
        ) as loader,
        pytest.raises(UserError, match=r"31 of 60 .*No such file.*; and 11 more$") as caught,
    ):
        next(loader)
    assert str(caught.value).count(".png") == 2 * 20  # the reason repeats the name


def test_load_all_keeps_the_order_and_leaves_bad_files_out(damaged, folder):
    images, labels = load_all(open_source(str(folder)), CENTER)
    assert images.shape == (EXAMPLES, 24, 24, 3) and images.dtype == np.uint8
    assert labels.tolist() == [0] * 10 + [1] * 13 and labels.dtype == np.int32
    good = np.delete(np.arange(EXAMPLES), [5, 6, 22])
    kept, kept_labels = load_all(open_source(str(damaged)), CENTER, max_bad_fraction=0.2)
    np.testing.assert_array_equal(kept, images[good])
    np.testing.assert_array_equal(kept_labels, labels[good])
    with pytest.raises(UserError, match="3 of 23 examples cannot be read"):
        load_all(open_source(str(damaged)), CENTER)


def test_load_all_limit_is_balanced_and_seeded(folder):
    source = open_source(str(folder))
    images, labels = load_all(source, CENTER, limit=12)
    assert np.bincount(labels).tolist() == [6, 6]
    np.testing.assert_array_equal(load_all(source, CENTER, limit=12)[0], images)
    assert not np.array_equal(load_all(source, CENTER, limit=12, seed=1)[0], images)
    assert np.bincount(load_all(source, CENTER, limit=22)[1]).tolist() == [10, 12]
    unlabelled = open_source(str(folder / "town"))
    images, labels = load_all(unlabelled, CENTER, limit=4)
    assert len(images) == 4 and labels is None


SCRIPT = """
import functools, multiprocessing, os, sys, time
import numpy as np
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.sources import open_source
from rsfm_jax.data.transforms import crop_example

if __name__ == "__main__":
    loader = Loader(
        open_source(sys.argv[1]), transform=functools.partial(crop_example, size=24),
        batch_size=8, rows=np.arange(8), seed=0, workers=2,
    )
    while len(multiprocessing.active_children()) < 2:  # they start one after the other
        next(loader)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    {then}
"""


def start_script(folder: Path, tmp_path: Path, then: str) -> tuple[subprocess.Popen, list[int]]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("{then}", then))
    process = subprocess.Popen(
        [sys.executable, script, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return process, [int(pid) for pid in process.stdout.readline().split()]


def assert_gone(pids: list[int]):
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        alive = [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"workers {alive} outlive the run")


@pytest.mark.parametrize(("then", "status"), [("pass", 0), ("raise SystemExit(75)", 75)])
def test_a_script_that_forgets_to_close_still_exits(folder, tmp_path, then, status):
    process, workers = start_script(folder, tmp_path, then)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (status, "")
    assert_gone(workers)


def test_workers_end_with_a_killed_run(folder, tmp_path):
    process, workers = start_script(folder, tmp_path, "time.sleep(60)")
    process.kill()
    process.communicate()
    assert_gone(workers)


def test_workers_outlive_signals_meant_for_the_run(folder, wanted):
    """A scheduler signals every process of a job: the run has to save before it ends."""
    options = {"batch_size": BATCH, "rows": np.arange(BATCH), "seed": 5, "workers": 1}
    with Loader(open_source(str(folder)), transform=CROP, **options) as loader:
        got = [next(loader)]
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGTERM)
        got += [next(loader) for _ in range(STEPS - 1)]
    assert_same(got, wanted)
