"""Convolutions of the dense heads, NHWC, and their batch norm.

Kernels are split over their input channels, which are many everywhere; outputs may be classes.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from rsfm_jax.errors import UserError
from rsfm_jax.models.layers import Dtype, Init, declare, project

# torch's default for convolutions, which detectron2's pyramid keeps: U(+-1/sqrt(fan in)).
TORCH_DEFAULT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """Square convolution, stride 1, zero padding that keeps the size."""

    features: int
    side: int
    dtype: Dtype = jnp.float32
    bias: bool = True
    init: Init = TORCH_DEFAULT

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] -> [B, H, W, features]."""
        x = x.astype(self.dtype)
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = declare(self, "kernel", self.init, shape, (None, None, "embed", None))
        if self.side == 1:
            y = project(x, kernel[0, 0])
        else:
            layout = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(
                x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=layout
            )
        if not self.bias:
            return y
        bias = declare(self, "bias", nn.initializers.zeros, (self.features,), ("vector",))
        return y + bias.astype(x.dtype)


class TransposedConv(nn.Module):
    """Kernel 2, stride 2: every pixel becomes 2x2 pixels, in one product."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] -> [B, 2H, 2W, features]."""
        x = x.astype(self.dtype)
        init = nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", in_axis=0, out_axis=(1, 2, 3)
        )
        shape = (x.shape[-1], 2, 2, self.features)
        kernel = declare(self, "kernel", init, shape, ("embed", None, None, None))
        bias = declare(self, "bias", nn.initializers.zeros, (self.features,), ("vector",))
        y = project(x, kernel) + bias.astype(x.dtype)  # [B, H, W, 2, 2, features]
        return rearrange(y, "b h w y x c -> b (h y) (w x) c")


class BatchNorm(nn.Module):
    """Norm over images and pixels with torch's defaults: momentum 0.1, epsilon 1e-5, affine.

    Under jit the batch is one global array, so its statistics are those of all devices' images.
    The running ones are in the collection `batch_stats`, their variance unbiased as in torch:
    that matters where a pooled map leaves one value an image.
    """

    dtype: Dtype = jnp.float32
    epsilon: float = 1e-5
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """x [B, ..., C] -> same shape; `deterministic` uses the running statistics.

        Raises:
          UserError: training on one value a channel, which has no variance.
        """
        features = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, features)
        x = x.astype(jnp.float32)
        if deterministic:
            mean, variance = running_mean.value, running_variance.value
        else:
            count = x[..., 0].size
            if count == 1:
                raise UserError(
                    "batch norm of a single pooled image: config.batch_size must be at least "
                    "twice config.accumulate_steps"
                )
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            variance = jnp.square(x - mean).mean(axes)
            unbiased = variance * (count / (count - 1))
            running_mean.value += 0.1 * (mean - running_mean.value)
            running_variance.value += 0.1 * (unbiased - running_variance.value)
        y = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
        if self.affine:
            scale = declare(self, "scale", nn.initializers.ones, features, ("vector",))
            bias = declare(self, "bias", nn.initializers.zeros, features, ("vector",))
            y = y * scale + bias
        return y.astype(self.dtype)
