"""Weights for tests, drawn without compiling an initialiser."""

import jax
import jax.numpy as jnp
import numpy as np

from rsfm_jax.sharding.rules import unbox


def random_variables(model, *inputs):
    """All variables of a model, of which none is zero or one; scales and variances near 1."""
    shapes = unbox(jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs)))
    rng = np.random.default_rng(0)

    def draw(path, shape):
        name = jax.tree_util.keystr(path)
        centre = float("scale" in name or "var" in name)
        return jnp.float32(centre + rng.uniform(-0.4, 0.4, shape.shape))

    return jax.tree.map_with_path(draw, shapes)


def random_weights(model, *inputs):
    """The parameters alone."""
    return random_variables(model, *inputs)["params"]
