"""The command as users run it: real processes, exit statuses, files."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rsfm_jax.sharding.distributed import slurm_local_devices
from tests.conftest import ROOT, run_python

COMMAND = ("launch/main.py", "--config=tests/tiny.py")


def losses(workdir):
    """Last loss of every step."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A work folder of the tiny run with probes, trained in one go."""
    workdir = tmp_path_factory.mktemp("finished")
    probe = ("--config.eval.probe_source=synthetic:48", "--config.eval.probe_split=val")
    run = run_python(*COMMAND, f"--workdir={workdir}", *probe)
    assert run.returncode == 0, run.stderr
    return workdir


def test_a_run_leaves_what_it_promises(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 21))
    assert training[-1]["loss"] < training[0]["loss"]
    assert {"images_per_second", "data_wait", "learning_rate", "grad_norm"} <= training[0].keys()
    last = [line for line in lines if "eval/loss" in line][-1]
    assert last["step"] == 20
    for probe in ("knn", "linear"):
        for name in ("", "_image_statistics", "_random_init"):
            assert 0 <= last[f"eval/{probe}{name}"] <= 1
    assert list((finished / "tensorboard").glob("events*"))
    assert json.loads((finished / "config.json").read_text())["model"]["size"] == "vit_micro2x4"
    for figure in ("reconstruction", "probe"):
        picture = np.asarray(Image.open(finished / "figures" / f"{figure}.png").convert("RGB"))
        assert picture.std() > 10


def test_evaluate_repeats_the_final_evaluation(finished):
    before = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    run = run_python(*COMMAND, f"--workdir={finished}", "--mode=evaluate")
    assert run.returncode == 0, run.stderr
    after = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert after["step"] == 20
    assert after["eval/loss"] == pytest.approx(before["eval/loss"], abs=1e-6)


def start_run(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, *COMMAND, f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(workdir, count, *processes):
    """Waits until metrics.jsonl has `count` lines, while all processes run."""
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= count):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sigterm_saves_exits_75_and_resumes_to_the_same_losses(finished, tmp_path):
    process = start_run(tmp_path)
    wait_for_lines(tmp_path, 3, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    stopped_after = max(losses(tmp_path))
    assert 2 <= stopped_after < 20
    assert "checkpoint is saved" in error

    resumed = run_python(*COMMAND, f"--workdir={tmp_path}")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from step {stopped_after}" in resumed.stderr
    assert losses(tmp_path) == losses(finished)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def explicit(process_id, port):
    """Arguments and environment of one of two processes with a named coordinator."""
    coordinator = f"--coordinator=localhost:{port}"
    return [coordinator, "--num_processes=2", f"--process_id={process_id}"], {}


def slurm(process_id, port):
    """What `srun --ntasks=2` sets; JAX derives the coordinator's port from the job's number."""
    return [], {
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_PROCID": str(process_id),
        "SLURM_LOCALID": str(process_id),
    }


@pytest.mark.parametrize("launch", [explicit, slurm])
def test_two_processes_agree_with_one(launch, finished, tmp_path):
    port = free_port()
    mesh = ("--config.mesh.data=2", "--config.eval.batch_size=15")  # filled up to 16

    def start(process_id):
        arguments, environment = launch(process_id, port)
        return run_python(*COMMAND, f"--workdir={tmp_path}", *mesh, *arguments, **environment)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(start, (0, 1)))
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    assert "process 1 of 2: 1 of 2 devices" in runs[1].stderr
    together, alone = losses(tmp_path), losses(finished)
    assert together.keys() == alone.keys()
    np.testing.assert_allclose(list(together.values()), list(alone.values()), atol=1e-5)


def test_sigterm_to_one_of_two_processes_stops_both_at_one_step(tmp_path):
    port = free_port()
    processes = [
        start_run(
            tmp_path,
            "--config.mesh.data=2",
            "--config.total_steps=5000",
            *explicit(process_id, port)[0],
        )
        for process_id in (0, 1)
    ]
    wait_for_lines(tmp_path, 3, *processes)
    processes[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], errors
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert int(checkpoint.name) == max(losses(tmp_path)) < 5000


@pytest.mark.parametrize(
    ("tasks", "visible", "devices"),
    [("1(x2)", "0,1,2,3", [0, 1, 2, 3]), ("1", "", None), ("4(x2)", "0,1,2,3", None)],
)
def test_a_lone_slurm_task_on_a_node_takes_all_its_gpus(tasks, visible, devices):
    environment = {"SLURM_STEP_TASKS_PER_NODE": tasks, "CUDA_VISIBLE_DEVICES": visible}
    assert slurm_local_devices(environment) == devices


BAD_INPUT = {
    "missing folder": (["--config.data.source=/nowhere/at/all"], "/nowhere/at/all"),
    "empty folder": (["--config.data.source={empty}"], "empty"),
    "unknown size": (["--config.model.size=vit_z"], "config.model.size"),
    "unknown task": (["--config.task=juggle"], "config.task"),
    "batch": (["--config.batch_size=10", "--config.accumulate_steps=4"], "config.batch_size=10"),
    "mesh": (["--config.mesh.model=4"], "config.mesh.model=4"),
    "other model": (["--workdir={finished}", "--config.model.patch_size=16"], "patch_size=8"),
    "unknown key": (["--config.modle.size=vit_b12x1"], "modle"),
    "wrong type": (["--config.seed=soon"], "config.seed"),
    "no such config": (["--config=configs/nothing.py"], "configs/nothing.py"),
    "no such variant": (["--config=configs/quickstart.py:large"], "get_config() takes 0"),
    "stray word": (["batch_size=8"], "batch_size=8"),
    "image size": (["--config.data.image_size=30"], "config.data.image_size=30"),
    "unlabelled probe": (["--config.eval.probe_source={flat}"], "config.eval.probe_source"),
    "few probe images": (
        ["--config.eval.probe_source=synthetic:48", "--config.eval.probe_images=3"],
        "config.eval.probe_images=3",
    ),
    "bad images": (["--config.data.source={damaged}"], "damaged/07.png"),
    "no statistics": (["--config.data.statistics=/none.json"], "config.data.statistics=/none"),
    "half a coordinator": (["--process_id=1"], "--num_processes"),
    "value": (["--config.batch_size=0"], "config.batch_size=0 must be 1 or more"),
    "workdir": (["--workdir={flat}/a.png"], "a.png: cannot write there"),
    "nothing to evaluate": (["--mode=evaluate"], "no checkpoint"),
}


@pytest.fixture(scope="module")
def refusals(finished, tmp_path_factory):
    """Every bad input's run."""
    root = tmp_path_factory.mktemp("bad")
    flat = root / "flat"
    flat.mkdir()
    Image.new("RGB", (40, 40)).save(flat / "a.png")
    damaged = root / "damaged"
    damaged.mkdir()
    for number in range(60):
        Image.new("RGB", (40, 40)).save(damaged / f"{number:02}.png")
    (damaged / "07.png").write_bytes(b"no picture")
    (root / "empty").mkdir()
    folders = {"empty": root / "empty", "flat": flat, "damaged": damaged, "finished": finished}

    def refuse(name):
        arguments = [text.format(**folders) for text in BAD_INPUT[name][0]]
        return run_python(*COMMAND, f"--workdir={root / name}", *arguments)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BAD_INPUT, pool.map(refuse, BAD_INPUT), strict=True))


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_2(refusals, name):
    run = refusals[name]
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert len(errors) == 1 and run.stderr.endswith(errors[0] + "\n")
    assert BAD_INPUT[name][1] in errors[0]
