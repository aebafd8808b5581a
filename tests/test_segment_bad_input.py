"""What segmentation refuses, in one line that names the file or the key."""

import numpy as np
import pytest

from configs import segment_tiny
from rsfm_jax.errors import UserError
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks.segment import Segment
from tests import tiny_segment
from tests.conftest import run_python
from tests.test_segment_data import chart, write_pair


def test_bad_masks_end_the_command_with_their_names(tmp_path):
    example = chart(40, 40)
    bad = example["mask"].copy()
    bad[7, 7] = 12
    write_pair(tmp_path / "set", "value", example["image"], bad)
    write_pair(tmp_path / "set", "size", example["image"], example["mask"][:30])
    run = run_python(
        *("launch/main.py", "--config=tests/tiny_segment.py", f"--workdir={tmp_path / 'run'}"),
        *(f"--config.data.source={tmp_path / 'set'}", "--config.data.max_bad_fraction=0.5"),
    )
    assert run.returncode == 2, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    files = tmp_path / "set" / "images"
    assert f"{files / 'size.png'} (mask of 40 x 30 pixels, but its image has 40 x 40)" in line
    assert f"{files / 'value.png'} (mask value 12, but the 10 classes are 0 to 9" in line


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.source", "FOLDER", "has no masks: give folders images/ and masks/"),
        ("eval.source", "FOLDER", "has no split 'val', it is one split, train"),
        ("eval.split", "night", "no split 'night'"),
        ("data.classes", ("land", "sea"), "other classes than the model's: lacks land, sea and"),
    ],
)
def test_sources_that_cannot_serve_are_refused_before_training(key, value, message, tmp_path):
    write_pair(tmp_path, "a", chart(40, 40)["image"], None)
    (tmp_path / "masks").rmdir()
    config = tiny_segment.get_config()
    section, name = key.split(".")
    config[section][name] = str(tmp_path) if value == "FOLDER" else value
    task = Segment(config, make_mesh(config))
    with pytest.raises(UserError, match=message):
        task.batches(np.arange(8), 0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("eval.stride", 65, "stride 65 must be 1 to the window size, 64"),
        ("data.colours", ((1, 2, 3),), "1 colours, but config.data.classes 10 names"),
        ("data.colours", ((1, 2, 256),) * 10, r"config\.data\.colours="),
        ("data.classes", ("sea", "sea"), "2 to 254 different names"),
        ("data.scale", (2.0, 0.5), r"config\.data\.scale="),
        ("data.ignored", (256,), "mask values in 0..255"),
        ("data.image_size", 60, "not a multiple of config.model.patch_size=8"),
        ("eval.submission_split", "test", "not LoveDA's"),
    ],
)
def test_configs_that_cannot_work_are_refused(key, value, message):
    config = segment_tiny.get_config()
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=message):
        Segment(config, make_mesh(config))
