"""Run with 8 devices: prints one training step of Oriented R-CNN on two meshes as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from rsfm_jax.boxes.truths import pad_truths
from rsfm_jax.models.oriented_rcnn import OrientedRCNN
from rsfm_jax.models.oriented_rpn import RPNConfig
from rsfm_jax.models.roi_head import RoIConfig
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.models.vitdet import ViTDetConfig
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import batch_sharding, tree_shardings
from tests.weights import random_weights

SIDE = 64
SIZE = ViTSize(width=16, depth=1, num_heads=2, mlp_dim=16, num_branches=2)
MODEL = OrientedRCNN(
    ViTDetConfig(ViTConfig(SIZE, drop_path=0.3), grid=(4, 4)),
    RoIConfig(num_classes=3, hidden=16, samples=16, max_detections=8),
    RPNConfig(samples=32, proposals_per_level=16, proposals=16),
    channels=16,
)


def loss(params, images, truths):
    rngs = {"drop_path": jax.random.key(1), "sample": jax.random.key(2)}
    return MODEL.apply({"params": params}, images, truths, method="loss", rngs=rngs)


def inputs():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, SIDE, SIDE, 3)).astype(np.float32)
    truths = []
    for count in (0, 1, 2, 3, 4, 5, 1, 2):  # of which four find room
        low, high = (12, 12, 12, 8, -1.5), (52, 52, 40, 24, 1.5)
        truths.append(pad_truths(rng.uniform(low, high, (count, 5)), rng.integers(0, 3, count), 4))
    return images, jax.tree.map(lambda *x: np.stack(x), *truths)


def step(mesh_shape, boxed, params, images, truths):
    config = ConfigDict({"mesh": dict(zip(("data", "fsdp", "model"), mesh_shape, strict=True))})
    mesh = make_mesh(config, jax.devices()[: int(np.prod(mesh_shape))])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, tree_shardings(boxed, mesh))
        images, truths = jax.device_put((jnp.asarray(images), truths), batch_sharding(mesh))
        (total, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params, images, truths
        )
    result = {"total": total, "gradient": optax.tree.norm(gradient), **metrics}
    return {name: float(value) for name, value in result.items()}


if __name__ == "__main__":
    images, truths = inputs()
    boxed = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), images))["params"]
    params = jax.tree.map(lambda x: 0.3 * x, random_weights(MODEL, images))
    steps = [step(mesh, boxed, params, images, truths) for mesh in ((1, 1, 1), (2, 2, 2))]
    json.dump(steps, sys.stdout)
