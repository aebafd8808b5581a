"""A run goes on from another place: other paths, another host, a clock that is years behind."""

import os
import signal
import socket
import time

import pytest

from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.training import loop
from rsfm_jax.training.preemption import Preempted
from tests.torture import last_values
from tests.toy_main import ToyImages, get_config, write_images

LONG_AGO = 1_000_000_000  # seconds: 2001


class StoppedAtTwenty(ToyImages):
    def evaluate(self, variables, step, workdir):
        if step == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate(variables, step, workdir)


def train(task, place):
    """A run at PLACE/run on images at PLACE/images."""
    config = get_config()
    config.data.source = str(place / "images")
    config.checkpoint.every_steps = 10
    (place / "run").mkdir(exist_ok=True)
    loop.train(task(config), config, make_mesh(config), place / "run")


def test_paths_host_and_clock_do_not_matter(tmp_path, monkeypatch):
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    for place in (whole, first):
        place.mkdir()
        write_images(place / "images")
    train(ToyImages, whole)
    with pytest.raises(Preempted):
        train(StoppedAtTwenty, first)
    first.rename(second)
    newest = max((second / "run/checkpoints").iterdir(), key=lambda path: int(path.name))
    for file in newest.rglob("*"):
        os.utime(file, (0, 0))
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(time, "time", lambda: float(LONG_AGO))
    monkeypatch.setattr(time, "time_ns", lambda: LONG_AGO * 10**9)
    train(ToyImages, second)
    assert last_values(second / "run") == last_values(whole / "run")
    assert set(last_values(whole / "run")) == set(range(41))
