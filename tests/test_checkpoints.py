"""Checkpoints that are damaged, unwritable, not finite, or claimed by two runs."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import pytest

from rsfm_jax.errors import RunError, UserError
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.training import loop
from rsfm_jax.training.checkpoints import Checkpoints, find_checkpoint
from rsfm_jax.training.integrity import find_damage
from rsfm_jax.training.state import TrainState
from tests.conftest import ROOT, run_python
from tests.test_training import metrics_by_step, run
from tests.toy import ToyTask, toy_config
from tests.toy_main import write_images

COMMAND = ("-m", "tests.toy_main", "--config=tests/toy_main.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work folder with the checkpoints of steps 10 and 20."""
    workdir = tmp_path_factory.mktemp("run") / "finished"
    run(workdir)
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def files(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def array_file(step_folder):
    return max(step_folder.glob("params/ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)


def test_every_damaged_file_is_found(finished, tmp_path):
    """Without checksums Orbax restores other numbers from flipped bits of an array."""
    step = shutil.copytree(finished / "checkpoints" / "20", tmp_path / "20")
    assert find_damage(step) is None
    for file in files(step):
        content = file.read_bytes()
        harms = [truncate, flip] if content else []
        if file.name in ("commit_success.txt", "_CHECKPOINT_METADATA"):
            harms = []  # paths and times; what matters of the latter comes below
        for harm in (*harms, Path.unlink):
            harm(file)
            found = find_damage(step)
            # Checksums that are missing are those of a checkpoint of another writer.
            missing_sums = file == step / "checksums.json" and harm is Path.unlink
            assert missing_sums or found is not None, (file, harm)
            file.write_bytes(content)
    metadata = step / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace('"seed": 0', '"seed": 1'))
    assert "_CHECKPOINT_METADATA has changed" in find_damage(step)


def test_an_unreadable_file_is_found(finished):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        step = shutil.copytree(finished / "checkpoints" / "20", Path(folder, "20"))
        array_file(step).chmod(0)
        if os.geteuid() != 0:
            assert "Permission denied" in find_damage(step)
            return
        os.seteuid(65534)  # root may read everything
        try:
            found = find_damage(step)
        finally:
            os.seteuid(0)
        assert "Permission denied" in found


def test_the_newest_whole_checkpoint_is_resumed_with_one_warning(finished, copy, caplog):
    flip(array_file(copy / "checkpoints" / "20"))
    assert run(copy).seen[0] == 10
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "20 is damaged (params/ocdbt.process_0/d/" in warnings[0]
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == [
        *("10", "20", "20.damaged")
    ]
    assert metrics_by_step(copy) == metrics_by_step(finished)
    assert run(copy).seen == []


def test_other_commands_take_the_newest_whole_one_and_move_nothing(copy):
    (copy / "checkpoints" / "20" / "commit_success.txt").unlink()
    assert find_checkpoint(copy).name == "10"
    config = toy_config()
    task = ToyTask(config)
    loop.evaluate(task, config, make_mesh(config), copy)
    assert task.evaluated == [10] and (copy / "checkpoints" / "20").is_dir()


def test_no_restart_from_zero_where_all_are_damaged(copy):
    for step in ("10", "20"):
        truncate(array_file(copy / "checkpoints" / step))
    before = sorted(copy.rglob("*"))
    for _ in range(2):
        with pytest.raises(UserError, match="holds checkpoints but no whole one"):
            run(copy)
    assert {path for path in before if path.name != ".lock"} <= set(copy.rglob("*"))


def test_the_last_good_one_is_kept_until_there_is_another(copy):
    config = toy_config()
    config.checkpoint.keep_last = 1
    config.total_steps = 25
    config.checkpoint.every_steps = 5
    flip(array_file(copy / "checkpoints" / "20"))

    def look(step):
        if step == 14:  # before the save of step 15
            assert find_damage(copy / "checkpoints" / "10") is None

    run(copy, config, on_batch=look)
    assert find_damage(copy / "checkpoints" / "25") is None


@pytest.mark.parametrize("part", ["params", "batch_stats", "opt_state"])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, part):
    tree = {"a": jnp.ones(3), "b": jnp.ones(2)}
    parts = {name: tree for name in ("params", "batch_stats", "opt_state")}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(step=zero, average=None, skipped=zero, skipped_in_a_row=zero, **parts)
    with closing(Checkpoints(tmp_path, keep_last=1, keep_every=0)) as checkpoints:
        checkpoints.save(state, 1, {})
    bad = state.replace(**{part: tree | {"b": jnp.array([1.0, jnp.inf])}})
    with (
        closing(Checkpoints(tmp_path, keep_last=1, keep_every=0)) as checkpoints,
        pytest.raises(RunError, match=f"step 2: {part} is not finite.*newest one there is of st"),
    ):
        checkpoints.save(bad, 2, {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_full_disk_ends_the_run_and_spares_the_last_checkpoint(tmp_path):
    """The limit on a file's size raises as a full disk does, wherever the file lies."""
    images = write_images(tmp_path / "images")
    workdir = tmp_path / "run"
    command = [*COMMAND, f"--workdir={workdir}", f"--config.data.source={images}"]
    whole = run_python(*command, "--config.total_steps=10")
    assert whole.returncode == 0, whole.stderr
    limit = "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500)); "
    limit += "sys.argv.pop(0); runpy.run_module('tests.toy_main', run_name='__main__')"
    full = run_python(
        *("-c", limit, "-m", *command[2:], "--config.checkpoint.keep_last=1"),
        JAX_ENABLE_COMPILATION_CACHE="0",  # its files would be cut off
    )
    assert full.returncode == 1, full.stderr
    assert full.stderr.splitlines()[-1].startswith("error: "), full.stderr
    assert find_checkpoint(workdir).name == "10"
    again = run_python(*command)
    assert again.returncode == 0, again.stderr
    assert find_checkpoint(workdir).name == "40"


def test_two_runs_in_one_folder(tmp_path):
    images = write_images(tmp_path / "images")
    command = [*COMMAND, f"--workdir={tmp_path}/run", f"--config.data.source={images}"]
    first = subprocess.Popen(
        [sys.executable, *command, "--config.evaluation_seconds=60"], cwd=ROOT, env=os.environ
    )
    try:
        while not (tmp_path / "run" / "evaluating").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = run_python(*command)
        assert second.returncode == 2, second.stderr
        assert f"another run works in {tmp_path}/run (process {first.pid} on" in second.stderr
    finally:
        first.kill()
        first.wait()
    third = run_python(*command, "--config.total_steps=10")
    assert third.returncode == 0, third.stderr
