"""The parallel ViT in torch, branch by branch, under the names that exports have.

For torch users of an exported encoder with P > 1 (with P = 1 timm's `VisionTransformer` is the
same model), and the second opinion of the numerical check. This file needs torch alone and may
be copied.

    model = ParallelViT(width=1024, depth=12, num_heads=16, mlp_dim=4096, branches=4)
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    features = model(images)  # [B, 3, 224, 224] normalised -> [B, 1+196, 1024]
"""

import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention of one branch."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D]."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, N, E] each
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Feed-forward of one branch."""

    def __init__(self, width: int, mlp_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Summed(nn.ModuleList):
    """Branches of one input whose outputs are added."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D]."""
        return sum(branch(x) for branch in self)


class Block(nn.Module):
    """x <- x + sum_p Attn_p(LN(x)); x <- x + sum_p FFN_p(LN(x)) (arXiv 2304.05215, section III)."""

    def __init__(self, width: int, num_heads: int, mlp_dim: int, branches: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        # One branch has no number in its name, as in timm.
        self.attn: nn.Module
        self.mlp: nn.Module
        if branches == 1:
            self.attn, self.mlp = Attention(width, num_heads), Mlp(width, mlp_dim)
        else:
            self.attn = Summed(Attention(width, num_heads) for _ in range(branches))
            self.mlp = Summed(Mlp(width, mlp_dim) for _ in range(branches))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Linear embedding of patches."""

    def __init__(self, width: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> [B, N, D]."""
        return self.proj(images).flatten(2).transpose(1, 2)


class ParallelViT(nn.Module):
    """The encoder. `num_heads` and `mlp_dim` count one branch."""

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        branches: int = 1,
        patch_size: int = 16,
        image_size: int = 224,
    ):
        super().__init__()
        tokens = 1 + (image_size // patch_size) ** 2
        self.patch_embed = PatchEmbed(width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width), requires_grad=False)
        self.blocks = nn.Sequential(
            *(Block(width, num_heads, mlp_dim, branches) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> class token and patches [B, 1+N, D] after the final norm."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))
