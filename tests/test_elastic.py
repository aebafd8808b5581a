"""A checkpoint of 8 devices continues on fewer, and with two processes instead of one."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import run_python
from tests.test_main import explicit, free_port, losses
from tests.toy_main import write_images


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """Folder and results of tests.elastic."""
    folder = tmp_path_factory.mktemp("elastic")
    images = write_images(folder / "images")
    run = run_python("-m", "tests.elastic", folder / "runs", images, devices=8)
    assert run.returncode == 0, run.stderr
    return folder, json.loads(run.stdout)


@pytest.mark.parametrize("mesh", ["1x8x1", "1x4x1", "2x2x1", "1x1x1"])
def test_fewer_devices_take_the_same_batches_to_the_same_losses(continued, mesh):
    whole, found = continued[1]["whole"], continued[1][mesh]
    assert found["ids"] == whole["ids"] and len(found["ids"]) == 10
    np.testing.assert_allclose(found["losses"], whole["losses"], atol=1e-5, rtol=0)


def test_two_processes_continue_what_one_saved(continued):
    folder, results = continued
    workdir = shutil.copytree(
        folder / "runs" / "whole", folder / "two", ignore=shutil.ignore_patterns("metrics*")
    )
    port = free_port()

    def start(number):
        return run_python(
            *("-m", "tests.toy_main", "--config=tests/toy_main.py", f"--workdir={workdir}"),
            *(f"--config.data.source={folder}/images", "--config.total_steps=20"),
            *explicit(number, port)[0],
        )

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(start, (0, 1)))
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    assert min(losses(workdir)) == 11
    found = [losses(workdir)[step] for step in range(11, 21)]
    np.testing.assert_allclose(found, results["whole"]["losses"], atol=1e-5, rtol=0)
