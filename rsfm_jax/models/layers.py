"""The few layers that every model here is made of.

Each weight is declared once, with its shape, its logical axes and its initialiser; shardings,
abstract state and decay masks are derived from the axes (see `rsfm_jax.sharding.rules`).
Masters are float32; products run in the module's `dtype`.
"""

from collections.abc import Callable, Sequence
from functools import partial
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
    on CPU and changes nothing elsewhere (docs/performance.md).
    """
    return _product(x, kernel.astype(x.dtype))


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())))
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])


def _product_forward(x: Any, kernel: Any) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    # What needs no gradient, as pixels and frozen weights, takes no product.
    saved = x.value if kernel.perturbed else None, kernel.value if x.perturbed else None
    return _product(x.value, kernel.value), saved


def _product_backward(
    saved: tuple[jax.Array | None, ...], gradient: jax.Array
) -> tuple[jax.Array | None, ...]:
    x, kernel = saved
    to_x = to_kernel = None
    if x is not None:
        rows = x.reshape(-1, x.shape[-1])
        outputs = gradient.shape[x.ndim - 1 :]
        to_kernel = _sum_of_products(rows, gradient.reshape(-1, *outputs))
    if kernel is not None:
        axes = tuple(range(1, kernel.ndim))
        rows = gradient.reshape(-1, *kernel.shape[1:])
        to_x = jax.lax.dot_general(rows, kernel, ((axes, axes), ((), ())))
        to_x = to_x.reshape(*gradient.shape[: 1 - kernel.ndim], -1)
    return to_x, to_kernel


_product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


def _sum_of_products(rows: jax.Array, gradient: jax.Array) -> jax.Array:
    """rows [R, D] and gradient [R, ...] -> [D, ...]: a weight's gradient.

    As a tall matrix summed over many rows XLA:CPU computes it at half the speed of its wide
    transpose, which the barrier keeps it from turning back.
    """

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))

    def transposed(rows: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.lax.optimization_barrier(product(gradient, rows)).T

    if len(rows) < 1024 or rows.shape[1] <= gradient[0].size:
        return product(rows, gradient)
    return jax.lax.platform_dependent(rows, gradient, cpu=transposed, default=product)


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


def sum_rows(x: jax.Array, copies: int = 1) -> jax.Array:
    """x [..., D] -> [copies, D] float32, every row the sum of all rows of `x`.

    A product with ones, which is one kernel on GPU; a reduction of many rows is two there, and
    copies of its result another. Fewer than 8 ones a column would be padded to 8, or undone.
    """
    rows = x.reshape(-1, x.shape[-1])
    ones = jnp.ones((max(copies, 8), len(rows)), x.dtype)
    exact = jax.lax.Precision.HIGHEST
    total = jax.lax.dot(ones, rows, precision=exact, preferred_element_type=jnp.float32)
    return total[:copies]


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., D] plus the sum of biases [P, D], in the type of `x`."""
    return (x + bias.sum(0)).astype(x.dtype)


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, sum_rows(gradient, len(bias)).astype(bias.dtype)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


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
        standard = (x - mean) * jax.lax.rsqrt(variance + 1e-6)
        return scale_and_shift(self.dtype, standard, scale, bias)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scale_and_shift(
    dtype: Dtype, standard: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    """[..., D] float32 times `scale` [D] plus `bias` [D], in `dtype`."""
    return (standard * scale + bias).astype(dtype)


def _scale_and_shift_forward(
    dtype: Dtype, standard: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return scale_and_shift(dtype, standard, scale, bias), (standard, scale)


def _scale_and_shift_backward(
    dtype: Dtype, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    standard, scale = saved
    wide = gradient.astype(jnp.float32)
    to_scale = sum_rows((wide * standard).astype(dtype))[0].astype(scale.dtype)
    to_bias = sum_rows(gradient)[0].astype(scale.dtype)
    return wide * scale, to_scale, to_bias


scale_and_shift.defvjp(_scale_and_shift_forward, _scale_and_shift_backward)
