"""Our MAE in torch, written to be fast there: what the races run against.

The same model as `rsfm_jax.models.mae`: branches as one wide layer, raw patches gathered before
they are embedded, `scaled_dot_product_attention`, no sort of anything but the noise.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rsfm_jax.models.sizes import ViTSize


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model to race, as plain numbers: `config.model` of our side says the same."""

    encoder: ViTSize
    decoder: ViTSize
    image_size: int
    patch_size: int
    mask_ratio: float
    class_token: bool  # whether the decoder sees it

    @property
    def pixels(self) -> int:
        """Values of one patch."""
        return 3 * self.patch_size**2

    @property
    def visible(self) -> int:
        """Patches that the encoder sees."""
        return int((self.image_size // self.patch_size) ** 2 * (1 - self.mask_ratio))


class Block(nn.Module):
    """Pre-norm block of P branches as one wide layer."""

    def __init__(self, size: ViTSize):
        super().__init__()
        width, inside = size.width, size.total_heads * size.head_dim
        self.heads = size.total_heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * inside)
        self.out = nn.Linear(inside, width, bias=False)
        self.inner = nn.Linear(width, size.total_mlp_dim)
        self.outer = nn.Linear(size.total_mlp_dim, width, bias=False)
        for name in ("out_bias", "outer_bias"):  # one a branch, summed
            self.register_parameter(name, nn.Parameter(torch.zeros(size.num_branches, width)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D]."""
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, N, E]
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(mixed) + self.out_bias.sum(0)
        hidden = functional.gelu(self.inner(self.norm2(x)))
        return x + self.outer(hidden) + self.outer_bias.sum(0)


class MAE(nn.Module):
    """Images and noise -> mean squared error of the hidden patches."""

    def __init__(self, shape: Shape, positions: Mapping[str, np.ndarray]):
        """`positions` holds the fixed tables [N, D] of `encoder` and `decoder`."""
        super().__init__()
        self.shape = shape
        width, narrow = shape.encoder.width, shape.decoder.width
        self.patch_embed = nn.Linear(shape.pixels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(shape.encoder) for _ in range(shape.encoder.depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_embed = nn.Linear(width, narrow)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.decoder = nn.Sequential(*(Block(shape.decoder) for _ in range(shape.decoder.depth)))
        self.decoder_norm = nn.LayerNorm(narrow, eps=1e-6)
        self.prediction = nn.Linear(narrow, shape.pixels)
        for name, table in positions.items():
            self.register_buffer(f"{name}_positions", torch.tensor(table), persistent=False)

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, H, W, 3] and noise [B, N] -> loss []."""
        side = self.shape.image_size // self.shape.patch_size
        patches = pixels.unflatten(2, (side, -1)).unflatten(1, (side, -1))
        patches = patches.transpose(2, 3).flatten(3).flatten(1, 2)  # [B, N, p*p*3]
        order = torch.argsort(noise, dim=1)
        slot = torch.argsort(order, dim=1)[..., None]
        seen = order[:, : self.shape.visible, None]
        x = self.patch_embed(take(patches, seen)) + self.encoder_positions[seen[..., 0]]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = self.decoder_embed(self.norm(self.blocks(x)))
        hidden = self.mask_token.to(x.dtype).expand(len(x), slot.shape[1] - seen.shape[1], -1)
        full = take(torch.cat([x[:, 1:], hidden], dim=1), slot) + self.decoder_positions
        if self.shape.class_token:
            full = torch.cat([x[:, :1], full], dim=1)
        full = self.decoder_norm(self.decoder(full))[:, -slot.shape[1] :]
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        target = (patches - mean) / (variance + 1e-6).sqrt()
        errors = (self.prediction(full).float() - target).square().mean(-1)
        masked = (slot[..., 0] >= seen.shape[1]).float()
        return (errors * masked).sum() / masked.sum()


def take(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens [B, N, D] at places [B, K, 1] -> [B, K, D]."""
    return torch.gather(tokens, 1, places.expand(-1, -1, tokens.shape[2]))


# From our names to those above, each applied in turn.
NAMES = (
    (r"^encoder/blocks/block(\d+)/", r"blocks.\1."),
    (r"^encoder/blocks/", ""),
    (r"^encoder/", ""),
    (r"^decoder/block(\d+)/", r"decoder.\1."),
    (r"^decoder/norm/", "decoder_norm."),
    (r"attn/qkv_", "qkv."),
    (r"attn/out_bias", "out_bias"),
    (r"attn/out_", "out."),
    (r"mlp/in_", "inner."),
    (r"mlp/out_bias", "outer_bias"),
    (r"mlp/out_", "outer."),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def load(model: MAE, params: Mapping[str, np.ndarray]) -> None:
    """Copies our weights, by path, into the model; raises where one has no place."""
    tensors = {}
    for path, value in params.items():
        name = path
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        if path.endswith("kernel"):
            value = value.reshape(len(value), -1).T  # torch keeps [out, in]
        elif path.endswith(("qkv_bias", "in_bias")):
            value = value.reshape(-1)
        tensors[name] = torch.tensor(np.ascontiguousarray(value))
    model.load_state_dict(tensors)
