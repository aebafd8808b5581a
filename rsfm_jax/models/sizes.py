"""Named sizes of the parallel ViT.

Widths, branches and layers of the four paper sizes follow the parameter counts of
arXiv 2304.05215 (86M, 605.26M, 1.3B, 2.4B); with `patch_size=16` and RGB input the encoders
hold exactly 85,647,360 / 605,261,824 / 1,360,877,568 / 2,418,483,200 parameters. The paper
does not give the number of heads of the two largest; it changes no count. Both use 16 heads,
as ViT-L and ViT-H do: heads of 96 (1.3B) and 128 (2.4B) channels.
"""

import dataclasses

from rsfm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ViTSize:
    """Shape of a parallel ViT: `num_heads` and `mlp_dim` count one branch."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_branches: int = 1

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.num_heads

    @property
    def total_heads(self) -> int:
        """Heads of all branches: the fused attention's head count."""
        return self.num_branches * self.num_heads

    @property
    def total_mlp_dim(self) -> int:
        """Hidden units of all branches: the fused feed-forward's width."""
        return self.num_branches * self.mlp_dim


SIZES = {
    # The paper's four sizes.
    "vit_b12x1": ViTSize(width=768, depth=12, num_heads=12, mlp_dim=3072),
    "vit_l12x4": ViTSize(width=1024, depth=12, num_heads=16, mlp_dim=4096, num_branches=4),
    "vit_h12x4": ViTSize(width=1536, depth=12, num_heads=16, mlp_dim=6144, num_branches=4),
    "vit_g12x4": ViTSize(width=2048, depth=12, num_heads=16, mlp_dim=8192, num_branches=4),
    # MAE's two other sizes, for imported weights.
    "vit_l24x1": ViTSize(width=1024, depth=24, num_heads=16, mlp_dim=4096),
    "vit_h32x1": ViTSize(width=1280, depth=32, num_heads=16, mlp_dim=5120),
    # Ours, for a laptop, a notebook and the tests.
    "vit_s12x1": ViTSize(width=384, depth=12, num_heads=6, mlp_dim=1536),
    "vit_ti12x1": ViTSize(width=192, depth=12, num_heads=3, mlp_dim=768),
    "vit_ti6x2": ViTSize(width=192, depth=6, num_heads=3, mlp_dim=768, num_branches=2),
    "vit_nano4x2": ViTSize(width=128, depth=4, num_heads=4, mlp_dim=256, num_branches=2),
    "vit_micro2x4": ViTSize(width=64, depth=2, num_heads=2, mlp_dim=128, num_branches=4),
}


def vit_size(name: str) -> ViTSize:
    """The size called `name`; raises `UserError` with the known names."""
    if name not in SIZES:
        raise UserError(f"config.model.size: unknown size {name!r}; choose from {', '.join(SIZES)}")
    return SIZES[name]
