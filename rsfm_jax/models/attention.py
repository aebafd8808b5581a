"""Softmax attention, and the one place where its implementation is chosen."""

import jax
import jax.numpy as jnp

from rsfm_jax.errors import UserError


def resolve_implementation(name: str, platform: str) -> str:
    """`auto` -> `cudnn` on NVIDIA GPUs, else `xla`; anything else must be one of the two.

    On an H200 cuDNN's kernel needs 722 kernels and 58 GB where XLA's attention needs 1,110
    and 102 GB (605M, 64 images, forward and backward, as compiled).
    """
    if name not in ("auto", "xla", "cudnn"):
        raise UserError(f"config.model.attention: {name!r} is not one of auto, xla, cudnn")
    if name == "auto":
        return "cudnn" if platform in ("gpu", "cuda") else "xla"
    return name


def attention(q: jax.Array, k: jax.Array, v: jax.Array, implementation: str) -> jax.Array:
    """Bidirectional attention over [B, N, H, E] with 1/sqrt(E) scaling; softmax in float32.

    cuDNN's training kernel takes half precision, even lengths and head widths in multiples of
    8 only; other shapes fall back to XLA.
    """
    fits_cudnn = (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[1] % 2 == 0
        and k.shape[1] % 2 == 0
        and q.shape[-1] % 8 == 0
    )
    chosen = implementation if implementation == "xla" or fits_cudnn else "xla"
    return jax.nn.dot_product_attention(q, k, v, implementation=chosen)
