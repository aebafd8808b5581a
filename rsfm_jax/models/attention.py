"""Softmax attention, and the one place where its implementation is chosen."""

import jax
import jax.numpy as jnp
from einops import rearrange
from jax._src.cudnn import fused_attention_stablehlo as fused

from rsfm_jax.errors import UserError
from rsfm_jax.models import short_attention

# Implementations, best first, and the platforms that have them; the last is everywhere.
PLATFORMS: dict[str, tuple[str, ...]] = {
    "cudnn": ("gpu", "cuda"),
    "pallas": ("tpu",),
    "xla": (),
}
# Queries that XLA's attention scores at once: 0.27 GB a 1024 px image with 64 heads.
QUERY_BLOCK = 256


def resolve_implementation(name: str, platform: str) -> str:
    """`auto` -> `cudnn` on NVIDIA GPUs, `pallas` on TPUs, else `xla`.

    On an H200 cuDNN's kernel needs 722 kernels and 58 GB where XLA's attention needs 1,110
    and 102 GB (605M, 64 images, forward and backward, as compiled). For TPUs see
    docs/performance.md.

    Raises:
      UserError: an unknown name, or an implementation that `platform` does not have.
    """
    if name not in ("auto", *PLATFORMS):
        raise UserError(
            f"config.model.attention: {name!r} is not one of auto, {', '.join(PLATFORMS)}"
        )
    if name == "auto":
        return next(each for each, where in PLATFORMS.items() if not where or platform in where)
    if PLATFORMS[name] and platform not in PLATFORMS[name]:
        raise UserError(f"config.model.attention={name}: runs on {PLATFORMS[name][0]} alone")
    return name


def self_attention(qkv: jax.Array, bias: jax.Array, implementation: str) -> jax.Array:
    """Every token attends to all.

    Args:
      qkv: [B, N, 3, H, E] products of queries, keys and values, not yet biased.
      bias: [3, H, E].
      implementation: `pallas` where its kernel takes the shapes, else as `attention`'s.

    Returns:
      [B, N, H, E].
    """
    if implementation == "pallas" and short_attention.fits(qkv.shape, qkv.dtype):
        return short_attention.short_attention(qkv, bias)
    q, k, v = _split_and_bias(qkv, bias)
    return attention(q, k, v, implementation)


@jax.custom_vjp
def _split_and_bias(qkv: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
    """Products [B, N, 3, H, E] and bias [3, H, E] -> queries, keys and values [B, N, H, E].

    Biased after the split: before it, the bias becomes a whole matrix for cuBLAS to start from.
    The gradients are those of a bias before it: one sum, not three.
    """
    return tuple(qkv[:, :, i] + bias[i] for i in range(3))


def _split_and_bias_backward(_: None, gradients: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    joined = jnp.stack(gradients, axis=2)
    return joined, joined.sum((0, 1))


_split_and_bias.defvjp(
    lambda qkv, bias: (_split_and_bias(qkv, bias), None), _split_and_bias_backward
)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, implementation: str) -> jax.Array:
    """Bidirectional attention; softmax in float32, no N x N array in memory for large N.

    cuDNN's training kernel takes half precision, even lengths and heads up to a width only;
    other shapes fall back to XLA.

    Args:
      q: [B, N, H, F] queries.
      k: [B, N, H, F] keys.
      v: [B, N, H, E] values. Scores are scaled by 1/sqrt(E), so that queries and keys may be
        wider (F > E) by what adds a bias to the scores.
      implementation: `cudnn`; any other is XLA's.

    Returns:
      [B, N, H, E].
    """
    fits_cudnn = (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[1] % 2 == 0
        and q.shape[-1] <= _cudnn_width()
    )
    return _cudnn(q, k, v) if implementation == "cudnn" and fits_cudnn else _xla(q, k, v)


def _cudnn_width() -> int:
    """cuDNN's widest head: 256 from Hopper on, 128 before, such as on an A100."""
    return 256 if fused.check_compute_capability("9.0") else 128


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """cuDNN wants one width, a multiple of 8, for all three; zero channels change nothing."""
    width = -(-q.shape[-1] // 8) * 8

    def widen(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

    mixed = jax.nn.dot_product_attention(
        widen(q), widen(k), widen(v), scale=v.shape[-1] ** -0.5, implementation="cudnn"
    )
    return mixed[..., : v.shape[-1]]


def _xla(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """One block of queries after the other; the backward pass recomputes a block's scores."""
    length = q.shape[1]
    blocks = -(-length // QUERY_BLOCK)
    if blocks == 1:
        return _mix(q, k, v)
    q = jnp.pad(q, ((0, 0), (0, -length % blocks), (0, 0), (0, 0)))
    q = rearrange(q, "b (s n) h f -> s b n h f", s=blocks)
    one_block = jax.checkpoint(lambda part: _mix(part, k, v), prevent_cse=False)
    mixed = jax.lax.map(one_block, q)
    return rearrange(mixed, "s b n h e -> b (s n) h e")[:, :length]


def _mix(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    scores = jnp.einsum("bnhf,bmhf->bhnm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * v.shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    return jnp.einsum("bhnm,bmhe->bnhe", weights, v)
