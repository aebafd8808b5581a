"""Run by tests/test_short_attention.py on 8 fake devices: the kernel on a mesh of 2 x 2 x 2."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from rsfm_jax.models import short_attention
from rsfm_jax.models.attention import attention, self_attention
from rsfm_jax.sharding.mesh import AXES
from rsfm_jax.sharding.rules import constrain


def main() -> None:
    """Values and gradients are those of one device; nothing travels but the bias's gradient."""
    short_attention.pl.pallas_call = partial(short_attention.pl.pallas_call, interpret=True)
    mesh = jax.make_mesh((2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 3)
    qkv = jax.random.normal(jax.random.key(0), (16, 50, 3, 8, 32))
    bias = jax.random.normal(jax.random.key(1), (3, 8, 32))

    def loss(mix, qkv, bias):
        return jnp.square(mix(qkv, bias)).sum()

    def split(qkv, bias):
        qkv = constrain(qkv, "batch", None, None, "heads", None)
        return self_attention(qkv, bias, "pallas")

    def plain(qkv, bias):
        return attention(*jnp.moveaxis(qkv + bias, 2, 0), "xla")

    whole = jax.jit(jax.value_and_grad(partial(loss, plain), (0, 1)))(qkv, bias)
    with jax.set_mesh(mesh):
        assert short_attention.fits(qkv.shape, qkv.dtype)
        assert not short_attention.fits(qkv[:2].shape, qkv.dtype)  # fewer images than devices
        step = jax.jit(jax.value_and_grad(partial(loss, split), (0, 1)))
        text = step.lower(qkv, bias).compile().as_text()
        parts = step(qkv, bias)
    for mine, truth in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, truth, rtol=2e-5, atol=2e-5 * np.abs(truth).max())
    assert "f32[4,50,3,4,32]" in text  # a device's part
    assert "all-to-all" not in text


if __name__ == "__main__":
    main()
