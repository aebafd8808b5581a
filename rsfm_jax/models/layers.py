"""The few layers that every model here is made of.

Each weight is declared once, with its shape, its logical axes and its initialiser; shardings,
abstract state and decay masks are derived from the axes (see `rsfm_jax.sharding.rules`).
Masters are float32; products run in the module's `dtype`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rsfm_jax.sharding.rules import gather

Dtype = Any
Init = Callable[..., jax.Array]


def declare(
    module: nn.Module, name: str, init: Init, shape: Sequence[int], axes: Sequence[str | None]
) -> jax.Array:
    """Declares the float32 weight `name` of `module` with one logical axis a dimension.

    A weight that is split over fsdp comes back as products want it: in the module's `dtype`,
    and only then gathered, which halves what bfloat16 has to send.
    """
    boxed = nn.with_logical_partitioning(init, tuple(axes))
    weight = module.param(name, boxed, tuple(shape), jnp.float32)
    return gather(weight.astype(module.dtype), tuple(axes)) if "embed" in axes else weight


def xavier_uniform(fan_in: int, fan_out: int) -> Init:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)), with the fans of the unfused matrix.

    MAE's initialiser (reference `models_mae.py`, `_init_weights`); the fans are given because
    fused branches would otherwise change the scale.
    """
    limit = (6.0 / (fan_in + fan_out)) ** 0.5

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Contracts the last axis of `x` with the first of `kernel`, over flattened rows.

    A two-dimensional left side is 4-5 times faster than a three-dimensional one in bfloat16
    on CPU and changes nothing elsewhere (measured; see benchmarks/).
    """
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, kernel.astype(x.dtype), (((1,), (0,)), ((), ())))
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x Phi(x), that keeps its input alone for the backward pass.

    Left to itself, differentiation keeps two more arrays of the widest layer.
    """
    return jax.nn.gelu(x, approximate=False)


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * jnp.pi) ** -0.5
    slope = 0.5 * jax.lax.erfc(-wide * 0.5**0.5) + wide * density
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


class Linear(nn.Module):
    """y = x W + b with `axes` = the logical names of W's input and output.

    `kernel_init` of None is the uniform Xavier initialiser.
    """

    features: int
    axes: tuple[str | None, str | None]
    dtype: Dtype = jnp.float32
    kernel_init: Init | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> [..., features]."""
        fan_in = x.shape[-1]
        shape = (fan_in, self.features)
        init = self.kernel_init or xavier_uniform(fan_in, self.features)
        kernel = declare(self, "kernel", init, shape, self.axes)
        bias = declare(self, "bias", nn.initializers.zeros, shape[1:], ("vector",))
        return project(x.astype(self.dtype), kernel) + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer norm with float32 statistics; epsilon 1e-6 as in MAE's reference code."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> same shape in `dtype`."""
        scale = declare(self, "scale", nn.initializers.ones, x.shape[-1:], ("vector",))
        bias = declare(self, "bias", nn.initializers.zeros, x.shape[-1:], ("vector",))
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return ((x - mean) * jax.lax.rsqrt(variance + 1e-6) * scale + bias).astype(self.dtype)
