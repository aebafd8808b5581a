"""Configs and the networks they give, without allocating them."""

from importlib import import_module

import jax
import pytest
from flax.traverse_util import flatten_dict

from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import unbox
from rsfm_jax.tasks import make_task
from rsfm_jax.training.program import build_program


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("mae_86m", 85_647_360),
        ("mae_605m", 605_261_824),
        ("mae_1p3b", 1_360_877_568),
        ("mae_2p4b", 2_418_483_200),
    ],
)
def test_the_full_size_step_traces(name, encoder):
    config = import_module(f"configs.{name}").get_config()
    assert config.total_steps == 400 * (990_848 // 2048)
    mesh = make_mesh(config)
    task = make_task(config, mesh)
    program = build_program(task, config, mesh)
    params = program.abstract_state.params
    assert sum(x.size for x in jax.tree.leaves(params["encoder"])) == encoder
    with jax.set_mesh(mesh):
        lowered = program.train_step.lower(program.abstract_state, task.abstract_batch())
    state, metrics = lowered.out_info
    assert state.params["encoder"]["cls_token"].shape[-1] == task.mae.encoder.size.width
    assert metrics["loss"].shape == ()
    images = lowered.in_avals[0][1]["image"]
    assert images.shape == (2048, 224, 224, 3) and images.dtype == "uint8"


@pytest.mark.parametrize("name", ["detect_tiny", "segment_tiny", "classify_tiny"])
def test_a_task_names_the_layers_that_depend_on_its_classes(name):
    def shapes(classes):
        config = import_module(f"configs.{name}").get_config()
        config.data.classes = classes
        if name == "segment_tiny":
            config.data.colours = ()
        task = make_task(config, make_mesh(config))
        params = unbox(jax.eval_shape(task.init, jax.random.key(0)))["params"]
        return task, {key: leaf.shape for key, leaf in flatten_dict(params, sep="/").items()}

    (task, two), (_, three) = shapes(("a", "b")), shapes(("a", "b", "c"))
    changed = {key for key in two if two[key] != three[key]}
    assert changed == {key for key in two if key.startswith(task.class_layers)} != set()
