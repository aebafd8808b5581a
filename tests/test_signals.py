"""Signals to real processes, and runs killed at bad moments."""

import signal
import subprocess
import sys

from tests.conftest import ROOT, run_python
from tests.test_main import explicit, free_port, losses, wait_for_lines
from tests.torture import torture
from tests.toy_main import write_images

TWICE = """
import os, signal, sys, time
from rsfm_jax.training.preemption import Interrupted, StopSignal
with StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    try:
        stop.check(1)
    except Interrupted:
        print("asked", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_the_second_signal_ends_the_process_at_once():
    run = run_python("-c", TWICE)
    assert (run.returncode, run.stdout) == (-signal.SIGTERM, "asked\n"), run.stderr


def test_ctrl_c_to_one_of_two_processes_saves_on_both(tmp_path):
    images, workdir, port = write_images(tmp_path / "images"), tmp_path / "run", free_port()
    workdir.mkdir()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.toy_main", "--config=tests/toy_main.py"),
                *(f"--workdir={workdir}", f"--config.data.source={images}"),
                *("--config.total_steps=5000", "--config.step_seconds=0.05"),
                *explicit(number, port)[0],
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    wait_for_lines(workdir, 3, *processes)
    processes[1].send_signal(signal.SIGINT)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], errors
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert newest == max(losses(workdir)) < 5000


def test_killed_runs_end_as_untouched_ones(tmp_path):
    """The long form is `python -m tests.torture`."""
    assert torture(tmp_path, kills=3, processes=1, seed=1).total() == 3
