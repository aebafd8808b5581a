"""Run with 8 devices: prints one training step of UPerNet on one and on all as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.upernet import UPerNet
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.models.vitdet import ViTDetConfig
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import batch_sharding, tree_shardings
from tests.weights import random_variables

# Five blocks: the first has windows, which pad the grid of 3 x 3 patches to 4 x 4.
SIZE = ViTSize(width=16, depth=5, num_heads=2, mlp_dim=16, num_branches=2)
ENCODER = ViTConfig(SIZE, patch_size=4, drop_path=0.3)
MODEL = UPerNet(ViTDetConfig(ENCODER, grid=(3, 3), window=2), 3, channels=8, auxiliary_channels=8)


def loss(params, batch_stats, images, labels):
    rngs = {"drop_path": jax.random.key(1), "dropout": jax.random.key(2)}
    logits, updated = MODEL.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        deterministic=False,
        rngs=rngs,
        mutable=["batch_stats"],
    )
    errors = [
        optax.softmax_cross_entropy_with_integer_labels(
            x, jnp.broadcast_to(labels[:, None, None], x.shape[:3])
        ).mean()
        for x in logits
    ]
    return errors[0] + 0.4 * errors[1], updated["batch_stats"]


def step(mesh_shape):
    config = ConfigDict({"mesh": dict(zip(("data", "fsdp", "model"), mesh_shape, strict=True))})
    mesh = make_mesh(config, jax.devices()[: int(np.prod(mesh_shape))])
    rng = np.random.default_rng(0)
    # Every image has its own brightness, so that statistics of a part are not those of all.
    images = rng.normal(size=(8, 12, 12, 3)) + np.arange(8)[:, None, None, None]
    labels = rng.integers(0, 3, 8)

    abstract = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), images))
    with jax.set_mesh(mesh):
        variables = jax.device_put(random_variables(MODEL, images), tree_shardings(abstract, mesh))
        inputs = jax.device_put((jnp.float32(images), labels), batch_sharding(mesh))
        (value, stats), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            variables["params"], variables["batch_stats"], *inputs
        )
    return {
        "loss": float(value),
        "gradient": float(optax.tree.norm(gradients)),
        "statistics": [np.asarray(x).tolist() for x in jax.tree.leaves(stats)],
    }


if __name__ == "__main__":
    json.dump([step((1, 1, 1)), step((2, 2, 2))], sys.stdout)
