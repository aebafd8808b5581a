"""UPerNet's training on one image and on eight devices, and its full sizes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.errors import UserError
from rsfm_jax.models.sizes import vit_size
from rsfm_jax.models.upernet import UPerHead, UPerNet
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.models.vitdet import ViTDetConfig
from rsfm_jax.sharding.rules import tree_shardings
from tests.conftest import run_python
from tests.test_sharding import abstract_mesh
from tests.weights import random_variables


def test_training_on_eight_devices_equals_one():
    # Without its own threads a convolution cannot starve for threads that wait in a reduction;
    # without optimisation the test compiles in half the time.
    flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
    run = run_python("-m", "tests.sharded_upernet", devices=8, XLA_FLAGS=flags)
    assert run.returncode == 0, run.stderr
    whole, sharded = json.loads(run.stdout)
    for key in ("loss", "gradient"):
        np.testing.assert_allclose(sharded[key], whole[key], rtol=1e-5)
    for ours, expected in zip(sharded["statistics"], whole["statistics"], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_training_on_one_image_is_refused():
    model = UPerHead(num_classes=5, channels=16)
    maps = [jnp.zeros((1, side, side, 12)) for side in (8, 4, 2, 1)]
    variables = random_variables(model, maps)
    with pytest.raises(UserError, match=r"config\.batch_size must be at least"):
        model.apply(variables, maps, False, rngs={"dropout": jax.random.key(0)}, mutable=True)


@pytest.mark.parametrize("size", ["vit_b12x1", "vit_l12x4", "vit_h12x4", "vit_g12x4"])
def test_full_sizes_shard_and_score_at_a_quarter_of_the_pixels(size):
    model = UPerNet(ViTDetConfig(ViTConfig(vit_size(size)), grid=(32, 32)), num_classes=7)
    images = jnp.zeros((2, 512, 512, 3))
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert logits.main.shape == (2, 128, 128, 7)
    assert logits.auxiliary.shape == (2, 32, 32, 7)
    tree_shardings(variables, abstract_mesh(fsdp=8, model=4))  # refuses more than 2 % whole
