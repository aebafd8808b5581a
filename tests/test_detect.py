"""The detection task: through the real loop, on eight devices, at full size, with bad input."""

import json
import logging
import shutil
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from rsfm_jax.data.formats import dior, dota
from rsfm_jax.errors import UserError
from rsfm_jax.flops import training_flops
from rsfm_jax.models.sizes import vit_size
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import is_boxed, is_matrix, unbox
from rsfm_jax.tasks import make_task
from rsfm_jax.training import loop
from rsfm_jax.training.checkpoints import (
    find_checkpoint,
    read_weights,
    refuse_other_run,
    save_weights,
)
from rsfm_jax.training.optimizer import layer_factors
from rsfm_jax.training.program import build_program
from rsfm_jax.training.transfer import load_initial
from tests import tiny, tiny_detect
from tests.conftest import run_python

LOSSES = {"rpn_objectness_loss", "rpn_offset_loss", "roi_class_loss", "roi_box_loss"}


def task_of(config):
    return make_task(config, make_mesh(config))


def train(config, workdir):
    loop.train(task_of(config), config, make_mesh(config), workdir)
    return records(workdir)


def records(workdir):
    """Last value of everything that each step logged, but for timings."""
    timings = {"images_per_second", "data_wait", "seconds_left"}
    by_step = {}
    for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()):
        by_step.setdefault(line["step"], {}).update(
            {name: value for name, value in line.items() if name not in timings}
        )
    return by_step


def save_fresh(config, workdir):
    """A work folder with the weights that a run of `config` starts from."""
    task = task_of(config)
    variables = unbox(jax.jit(task.init)(jax.random.key(3)))
    save_weights(workdir / "checkpoints", variables, loop.run_metadata(task, config))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained")
    save_fresh(tiny.get_config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pretrained):
    """A run from an MAE's weights, and the lines it logged."""
    workdir = tmp_path_factory.mktemp("finished")
    config = tiny_detect.get_config()
    config.init_from = str(pretrained)
    config.data.fraction = 0.75
    config.optimizer.average_decay = 0.5
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("rsfm_jax.training.transfer")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    train(config, workdir)
    logger.removeHandler(handler)
    return workdir, config, lines


def test_a_run_starts_from_an_mae_and_says_what_it_took(finished):
    workdir, _, lines = finished
    taken, new, left = (line.partition(": ")[2] for line in lines)
    assert taken.startswith("taken from there") and "(encoder/blocks, encoder/patch_embed)" in taken
    assert new.startswith("new in this model") and "heads, pyramid" in new
    assert "encoder/blocks/*/relative_columns" in new and "relative" not in taken
    assert left.startswith("not used") and "decoder" in left and "encoder/cls_token" in left
    steps = records(workdir)
    assert steps[1].keys() >= LOSSES and steps[4]["loss"] < steps[1]["loss"]
    assert 0 <= steps[4]["eval/mAP50"] <= 1


def test_a_resumed_run_is_the_uninterrupted_run(finished, tmp_path):
    workdir, config, _ = finished
    shutil.copytree(workdir, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4")
    (tmp_path / "cut" / "metrics.jsonl").unlink()
    resumed, whole = train(config, tmp_path / "cut"), records(workdir)
    assert sorted(resumed) == [3, 4]
    for step, values in resumed.items():
        assert {name: whole[step][name] for name in values} == pytest.approx(values, nan_ok=True)


def test_each_weight_of_the_detector_has_its_rate_and_decay():
    """Rates 0.75 ** (layers above), and decay of matrices that are not relative positions."""
    config = tiny_detect.get_config()
    params = jax.eval_shape(task_of(config).init, jax.random.key(0))["params"]
    factors = flatten_dict(layer_factors(params, 0.75), sep="/")
    decayed = flatten_dict(jax.tree.map(is_matrix, params, is_leaf=is_boxed), sep="/")
    assert factors.keys() == decayed.keys()
    depth = vit_size(config.model.size).depth
    for name, factor in factors.items():
        above = {"patch_embed": depth + 1} | {f"block{i}": depth - i for i in range(depth)}
        layers = [count for part, count in above.items() if f"/{part}/" in name]
        assert factor == 0.75 ** sum(layers) and len(layers) == name.startswith("encoder/"), name
        assert decayed[name] == name.endswith("kernel"), name


def test_predict_takes_images_of_several_sizes():
    task = task_of(tiny_detect.get_config())
    variables = unbox(jax.eval_shape(task.init, jax.random.key(0)))
    for side in (64, 32):
        images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.uint8)
        found = jax.eval_shape(task.predict, variables, images)
        assert found.boxes.shape == (2, 8, 5) and found.classes.dtype == jnp.int32


def test_training_on_eight_devices_equals_one():
    # Compiling takes all the time here; the first flag is explained in `test_upernet`.
    flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
    run = run_python("-m", "tests.sharded_detect", devices=8, XLA_FLAGS=flags)
    assert run.returncode == 0, run.stderr
    whole, sharded = json.loads(run.stdout)
    assert whole[0]["positive_regions_per_image"] > 1
    for one, other in zip(whole, sharded, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("name", "size", "side", "classes"),
    [
        ("detect_dota_v2", "vit_b12x1", 1024, dota.CLASSES["2.0"]),
        ("detect_dota_v2", "vit_l12x4", 1024, dota.CLASSES["2.0"]),
        ("detect_dior_r", "vit_h12x4", 800, dior.CLASSES),
        ("detect_dior_r", "vit_g12x4", 800, dior.CLASSES),
    ],
)
def test_the_full_size_step_traces(name, size, side, classes):
    config = import_module(f"configs.{name}").get_config(size)
    task = task_of(config)
    program = build_program(task, config, task.mesh)
    state, batch = program.abstract_state, task.abstract_batch()
    assert state.params["heads"]["second_stage"]["classes"]["bias"].shape == (len(classes) + 1,)
    assert batch["image"].shape == (16, side, side, 3)
    with jax.set_mesh(task.mesh):
        after, metrics = jax.eval_shape(program.train_step, state, batch)
    assert metrics.keys() >= LOSSES
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, state.params)
    assert training_flops(task.flops) > 1e12


@pytest.mark.parametrize("name", ["detect_dota_v2", "detect_dior_r"])
@pytest.mark.parametrize("size", ["vit_b12x1", "vit_l12x4", "vit_h12x4", "vit_g12x4"])
def test_every_size_has_its_recipe(name, size):
    config = import_module(f"configs.{name}").get_config(size)
    assert config.model.size == size
    assert config.model.drop_path == {"b": 0.15, "l": 0.3, "h": 0.4, "g": 0.5}[size[4]]
    epoch = {"detect_dota_v2": 17_550, "detect_dior_r": 11_725}[name] // 16
    assert config.total_steps == {"detect_dota_v2": 40, "detect_dior_r": 12}[name] * epoch
    task_of(config)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("model.patch_size", 6, "config.model.patch_size=6 must be a multiple of 4"),
        ("model.extend_factor", (0.5, 1.0), "config.model.extend_factor"),
        ("data.classes", ("ship", "ship"), "config.data.classes"),
        ("data.scale_range", (2.0, 1.0), "config.data.scale_range"),
        ("data.upright_classes", ("boat",), "upright_classes: boat is not in config.data.classes"),
    ],
)
def test_a_config_that_cannot_work_is_refused(key, value, reason):
    config = tiny_detect.get_config()
    section, name = key.split(".")
    with config.unlocked():
        config[section][name] = value
        config.model.pretrained_image_size = config.data.image_size = 96
    with pytest.raises(UserError, match=reason) as error:
        task_of(config)
    assert "\n" not in str(error.value)


def test_data_without_these_classes_is_refused(tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    config = tiny_detect.get_config()
    config.data.source = str(tmp_path)
    with pytest.raises(UserError, match="has no labelled objects"):
        task_of(config).batches(np.arange(8), 0)
    config = tiny_detect.get_config()
    config.data.classes = dior.CLASSES
    with pytest.raises(UserError, match="has 18 classes, config.data.classes 20"):
        task_of(config).batches(np.arange(8), 0)


def test_weights_of_another_encoder_are_refused(pretrained, tmp_path):
    config = tiny_detect.get_config()
    config.init_from = str(pretrained)
    config.model.size = "vit_nano4x2"
    with pytest.raises(UserError, match="config.model.size='vit_micro2x4', this run 'vit_nano4x2'"):
        train(config, tmp_path)
    config = tiny_detect.get_config()
    config.init_from = str(pretrained)
    config.model.pretrained_image_size = 64
    with pytest.raises(UserError, match="pretrained_image_size=32, this run 64"):
        train(config, tmp_path)


def test_what_bounds_the_detections_may_change_after_training(finished):
    folder, config = find_checkpoint(finished[0]), finished[1].copy_and_resolve_references()
    config.model.score_threshold, config.model.max_detections = 0.5, 7
    config.model.proposals_per_level = config.model.proposals = 11
    refuse_other_run(folder, loop.run_metadata(task_of(config), config))
    config.model.anchor_scale = 5.0
    with pytest.raises(UserError, match=r"with config.model.anchor_scale=\S+, this run has 5"):
        refuse_other_run(folder, loop.run_metadata(task_of(config), config))


@pytest.mark.parametrize("classes", [("windmill", "pylon"), tuple(reversed(dota.CLASSES["2.0"]))])
def test_a_detector_of_other_classes_starts_all_but_the_classifier(finished, classes, caplog):
    config = tiny_detect.get_config()
    config.data.classes = classes
    task = task_of(config)
    fresh = unbox(jax.jit(task.init)(jax.random.key(1)))["params"]
    metadata = loop.run_metadata(task, config)["config"]
    with caplog.at_level("INFO"):
        started = flatten_dict(load_initial(str(finished[0]), fresh, task, metadata), sep="/")
    trained = flatten_dict(read_weights(find_checkpoint(finished[0]))["params"], sep="/")
    fresh = flatten_dict(fresh, sep="/")
    for name, value in started.items():
        is_new = name.startswith("heads/second_stage/classes/")
        np.testing.assert_array_equal(value, (fresh if is_new else trained)[name], err_msg=name)
    assert "other classes there, so heads/second_stage/classes: fresh" in caplog.text
