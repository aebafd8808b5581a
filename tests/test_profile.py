"""--profile_steps: exactly these steps are traced."""

import jax
import pytest

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.training import loop
from rsfm_jax.training.profile import Profile
from tests.toy import ToyTask, toy_config


def train(workdir, profile_steps):
    config = toy_config(total_steps=8)
    workdir.mkdir(exist_ok=True)
    loop.train(ToyTask(config), config, make_mesh(config), workdir, profile_steps)
    return list((workdir / "profile").rglob("*.xplane.pb"))


def traced_steps(file):
    return sum(
        "train_step" in event.name
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
    )


def test_a_trace_holds_the_steps_asked_for(tmp_path):
    (two,) = train(tmp_path / "two", "3:5")
    (four,) = train(tmp_path / "four", "5:90")  # past the end: the trace ends with the run
    assert 0 < 2 * traced_steps(two) == traced_steps(four)


def test_without_the_flag_nothing_is_traced(tmp_path):
    assert train(tmp_path, "") == []


@pytest.mark.parametrize("steps", ["5", "5:", "a:b", "5:5", "7:3", "-1:3"])
def test_other_values_are_refused(tmp_path, steps):
    with pytest.raises(UserError, match="--profile_steps=.*FIRST:LAST"):
        Profile(tmp_path, steps)
