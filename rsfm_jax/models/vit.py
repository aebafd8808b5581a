"""The parallel vision transformer of arXiv 2304.05215, section III (12 layers, P branches).

A block is  x <- x + sum_p DropPath(Attn_p(LN(x)));  x <- x + sum_p DropPath(FFN_p(LN(x))).
With one shared norm a sub-layer, P summed branches are exactly one wide layer: attention with
P*heads heads and one feed-forward of P*mlp_dim units. That is how they are stored and run:
two large products in, two out, whatever P is; tensor parallelism is the head axis.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from rsfm_jax.errors import UserError
from rsfm_jax.models.attention import self_attention
from rsfm_jax.models.layers import (
    LayerNorm,
    Linear,
    add_bias,
    declare,
    gelu,
    project,
    xavier_uniform,
)
from rsfm_jax.models.short_attention import as_matrix, fits
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.sharding.rules import constrain

# What the backward pass may keep of a block's forward pass; None keeps all of it.
# `dots` keeps the products with weights and recomputes attention and elementwise work.
REMAT_POLICIES = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A size and how to run it. `drop_path` is the last block's rate, in [0, 1)."""

    size: ViTSize
    patch_size: int = 16
    drop_path: float = 0.0
    remat: str = "none"
    attention: str = "xla"
    dtype: Any = jnp.float32

    def block_drop_path(self, block: int) -> float:
        """Rate of one block: rises linearly from 0 in the first to `drop_path` in the last."""
        return self.drop_path * block / max(self.size.depth - 1, 1)


def patch_grid(images: jax.Array, patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches of images [B, H, W, C]."""
    return images.shape[1] // patch_size, images.shape[2] // patch_size


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """[B, H, W, C] -> [B, (H/p)(W/p), p*p*C], row by row, channels last inside a patch."""
    pattern = "b (h p) (w q) c -> b (h w) (p q c)"
    return rearrange(images, pattern, p=patch_size, q=patch_size)


def unpatchify(patches: jax.Array, patch_size: int, grid: tuple[int, int]) -> jax.Array:
    """Inverse of `patchify` for a grid of (rows, columns) patches."""
    pattern = "b (h w) (p q c) -> b (h p) (w q) c"
    return rearrange(patches, pattern, h=grid[0], w=grid[1], p=patch_size, q=patch_size)


def sincos_positions(
    grid: tuple[int, int], width: int, pretrained_grid: tuple[int, int] | None = None
) -> jax.Array:
    """Fixed 2-D sine-cosine embedding [rows*columns, width] of MAE (`util/pos_embed.py`).

    The first half of the channels encodes the column, the second the row; base 10000.

    Args:
      grid: (rows, columns) of patches.
      width: channels, a multiple of 4.
      pretrained_grid: the grid whose embedding is stretched over `grid`; None for `grid`
        itself. Patch centres are aligned, as where ViTDet resizes a pretrained table
        (detectron2 `get_abs_pos`), but the sines are evaluated there, not interpolated.
    """
    omega = 10000.0 ** -(jnp.arange(width // 4) / (width / 4))  # [D/4]
    rows, columns = (
        (jnp.arange(count) + 0.5) * (pretrained / count) - 0.5
        for count, pretrained in zip(grid, pretrained_grid or grid, strict=True)
    )
    y, x = jnp.meshgrid(rows, columns, indexing="ij")

    def one_axis(position: jax.Array) -> jax.Array:
        angles = position.reshape(-1, 1) * omega  # [N, D/4]
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)

    return jnp.concatenate([one_axis(x), one_axis(y)], axis=1)


class ParallelSublayer(nn.Module):
    """What attention and feed-forward share: per-branch drop path and the product out."""

    size: ViTSize
    drop_path: float
    dtype: Any

    def merge_branches(
        self, stream: jax.Array, hidden: jax.Array, axis: str, deterministic: bool
    ) -> jax.Array:
        """Adds the branches' output products: stream [B, N, D], hidden [B, N, P*F] -> [B, N, D].

        Biases go to the stream first: cuBLAS adds its product in place to what that makes, and
        would need a copy of the stream else.
        """
        branches, width = self.size.num_branches, self.size.width
        fan_in = hidden.shape[-1] // branches
        init = xavier_uniform(fan_in, width)
        kernel = declare(self, "out_kernel", init, (hidden.shape[-1], width), (axis, "embed"))
        bias = declare(
            self, "out_bias", nn.initializers.zeros, (branches, width), (None, "vector")
        )
        if deterministic or self.drop_path == 0.0:
            return add_bias(stream, bias) + project(hidden, kernel)
        survives = 1.0 - self.drop_path
        keep = jax.random.bernoulli(
            self.make_rng("drop_path"), survives, (hidden.shape[0], branches)
        )
        keep = keep.astype(self.dtype) / survives  # [B, P]
        hidden = hidden * jnp.repeat(keep, fan_in, axis=1)[:, None]
        return stream + (keep @ bias.astype(self.dtype))[:, None] + project(hidden, kernel)


class ParallelAttention(ParallelSublayer):
    """P summed self-attention branches as one with P*heads heads."""

    attention: str = "xla"

    @nn.compact
    def __call__(self, stream: jax.Array, x: jax.Array, deterministic: bool) -> jax.Array:
        """The residual stream [B, N, D] and its norm x [B, N, D] -> the stream, added to."""
        size = self.size
        shape = (size.width, 3, size.total_heads, size.head_dim)
        init = xavier_uniform(size.width, 3 * size.width)  # as one branch's fused qkv matrix
        kernel = declare(self, "qkv_kernel", init, shape, ("embed", None, "heads", None))
        bias_axes = (None, "heads", "vector")
        bias = declare(self, "qkv_bias", nn.initializers.zeros, shape[1:], bias_axes)
        split = (*x.shape[:2], *shape[1:])  # [B, N, 3, P*H, E]
        if self.attention == "pallas" and fits(split, self.dtype):
            kernel = as_matrix(kernel)
        qkv = project(x, kernel).reshape(split)
        mixed = self.mix(qkv, bias.astype(self.dtype))  # [B, N, P*H, E]
        mixed = rearrange(mixed, "b n h e -> b n (h e)")
        return self.merge_branches(stream, mixed, "heads", deterministic)

    def mix(self, qkv: jax.Array, bias: jax.Array) -> jax.Array:
        """Every token attends to all: qkv [B, N, 3, P*H, E], not yet biased -> [B, N, P*H, E]."""
        return self_attention(qkv, bias, self.attention)


class ParallelMlp(ParallelSublayer):
    """P summed feed-forward branches as one with P*mlp_dim hidden units (exact GELU)."""

    @nn.compact
    def __call__(self, stream: jax.Array, x: jax.Array, deterministic: bool) -> jax.Array:
        """The residual stream [B, N, D] and its norm x [B, N, D] -> the stream, added to."""
        size = self.size
        shape = (size.width, size.total_mlp_dim)
        init = xavier_uniform(size.width, size.mlp_dim)
        kernel = declare(self, "in_kernel", init, shape, ("embed", "mlp"))
        bias = declare(self, "in_bias", nn.initializers.zeros, shape[1:], ("mlp",))
        hidden = project(x, kernel) + bias.astype(self.dtype)  # [B, N, P*M]
        hidden = gelu(hidden)
        return self.merge_branches(stream, hidden, "mlp", deterministic)


class ParallelBlock(nn.Module):
    """Pre-norm block: the attention branches, then the feed-forward branches."""

    config: ViTConfig
    drop_path: float = 0.0
    attention_layer: Callable[..., nn.Module] = ParallelAttention

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        """x [B, N, D] -> [B, N, D]."""
        config = self.config
        branch = {"size": config.size, "drop_path": self.drop_path, "dtype": config.dtype}
        y = LayerNorm(config.dtype, name="norm1")(x)
        attn = self.attention_layer(**branch, attention=config.attention, name="attn")
        x = attn(x, y, deterministic)
        y = LayerNorm(config.dtype, name="norm2")(x)
        x = ParallelMlp(**branch, name="mlp")(x, y, deterministic)
        return constrain(x, "batch", None, None)


class Blocks(nn.Module):
    """`depth` unrolled blocks and the final norm.

    Unrolled, not scanned: half the temporary memory on GPU and 3-7 % fewer cycles on TPU.
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        """x [B, N, D] -> [B, N, D]."""
        config = self.config
        block = rematerialised(ParallelBlock, config.remat)
        for i in range(config.size.depth):
            x = block(config, config.block_drop_path(i), name=f"block{i}")(x, deterministic)
        return LayerNorm(config.dtype, name="norm")(x)


class ViT(nn.Module):
    """Parallel ViT on flattened patches; positions are given, so any subset can be encoded."""

    config: ViTConfig

    @nn.compact
    def __call__(
        self, patches: jax.Array, positions: jax.Array, deterministic: bool = True
    ) -> jax.Array:
        """Encodes patches.

        Args:
          patches: [B, N, p*p*C] normalised pixels of the patches to encode.
          positions: [N, D] or [B, N, D] position embedding of those patches.
          deterministic: False applies drop path, from the rng stream `drop_path`.

        Returns:
          [B, 1+N, D]: the class token, then the patches, after the final norm.
        """
        config = self.config
        width = config.size.width
        x = Linear(width, (None, "embed"), config.dtype, name="patch_embed")(patches)
        x = x + positions.astype(config.dtype)
        token = declare(
            self, "cls_token", nn.initializers.normal(0.02), (1, 1, width), (None, None, "vector")
        )
        token = jnp.broadcast_to(token.astype(config.dtype), (x.shape[0], 1, width))
        x = constrain(jnp.concatenate([token, x], axis=1), "batch", None, None)
        return Blocks(config, name="blocks")(x, deterministic)

    def mean_token(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Whole images [B, H, W, 3], normalised -> mean of their patch tokens [B, D] float32."""
        patch_size = self.config.patch_size
        grid = patch_grid(images, patch_size)
        positions = sincos_positions(grid, self.config.size.width)
        tokens = self(patchify(images, patch_size), positions, deterministic)
        return tokens[:, 1:].astype(jnp.float32).mean(1)


def rematerialised(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """`block` under the activation checkpointing policy of that name."""
    if policy not in REMAT_POLICIES:
        known = ", ".join(REMAT_POLICIES)
        raise UserError(f"config.model.remat: unknown policy {policy!r}; choose from {known}")
    if policy == "none":
        return block
    # Outside a scan prevent_cse must stay True, or XLA merges the recomputation away.
    return nn.remat(block, policy=REMAT_POLICIES[policy], prevent_cse=True, static_argnums=(2,))
