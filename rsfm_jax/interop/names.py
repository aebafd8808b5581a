"""Our weights under the names of timm and MAE, in both directions, from one table.

An encoder with one branch has exactly the names and shapes of timm's `VisionTransformer`; a
decoder those of MAE's reference code (`models_mae.py`). Where a block has P > 1 branches, what
belongs to branch p stands under its number: `blocks.0.attn.qkv.weight` becomes
`blocks.0.attn.2.qkv.weight`, as in a torch `ModuleList` of attentions whose outputs are summed.
Heads, necks and running statistics have no foreign counterpart and keep our names, dotted.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from einops import EinopsError, rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from rsfm_jax.errors import UserError
from rsfm_jax.models.sizes import ViTSize

Path = tuple[str, ...]
Tensors = dict[str, np.ndarray]

# (our path in a module, its foreign name, our axes, theirs). Axes: d width, t query-key-value,
# b branch, h head, e head channel, f hidden units of a branch, i o in and out, n distances,
# y x row and column in a patch, c band. Theirs start with the branch where there is one.
BLOCK = (
    (("norm1", "scale"), "norm1.weight", "d", "d"),
    (("norm1", "bias"), "norm1.bias", "d", "d"),
    (("attn", "qkv_kernel"), "attn.qkv.weight", "d t (b h) e", "b (t h e) d"),
    (("attn", "qkv_bias"), "attn.qkv.bias", "t (b h) e", "b (t h e)"),
    (("attn", "out_kernel"), "attn.proj.weight", "(b f) d", "b d f"),
    (("attn", "out_bias"), "attn.proj.bias", "b d", "b d"),
    (("attn", "relative_rows"), "attn.rel_pos_h", "n b e", "b n e"),  # as in detectron2
    (("attn", "relative_columns"), "attn.rel_pos_w", "n b e", "b n e"),
    (("norm2", "scale"), "norm2.weight", "d", "d"),
    (("norm2", "bias"), "norm2.bias", "d", "d"),
    (("mlp", "in_kernel"), "mlp.fc1.weight", "d (b f)", "b f d"),
    (("mlp", "in_bias"), "mlp.fc1.bias", "(b f)", "b f"),
    (("mlp", "out_kernel"), "mlp.fc2.weight", "(b f) d", "b d f"),
    (("mlp", "out_bias"), "mlp.fc2.bias", "b d", "b d"),
)
ENCODER = (
    (("cls_token",), "cls_token", "i o d", "i o d"),
    (("patch_embed", "kernel"), "patch_embed.proj.weight", "(y x c) d", "d c y x"),
    (("patch_embed", "bias"), "patch_embed.proj.bias", "d", "d"),
    (("blocks", "norm", "scale"), "norm.weight", "d", "d"),
    (("blocks", "norm", "bias"), "norm.bias", "d", "d"),
)
DECODER = (
    (("decoder_embed", "kernel"), "decoder_embed.weight", "i o", "o i"),
    (("decoder_embed", "bias"), "decoder_embed.bias", "o", "o"),
    (("mask_token",), "mask_token", "i o d", "i o d"),
    (("decoder", "norm", "scale"), "decoder_norm.weight", "d", "d"),
    (("decoder", "norm", "bias"), "decoder_norm.bias", "d", "d"),
    (("prediction", "kernel"), "decoder_pred.weight", "i o", "o i"),
    (("prediction", "bias"), "decoder_pred.bias", "o", "o"),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of our weights and its foreign tensors: one, or one a branch."""

    path: Path
    names: tuple[str, ...]
    ours: str
    theirs: str
    axes: Mapping[str, int]

    def export(self, leaf: Any) -> dict[str, Any]:
        """Our leaf -> its foreign tensors by name."""
        axes = {key: size for key, size in self.axes.items() if key in self.ours}
        tensor = rearrange(leaf, f"{self.ours} -> {self.theirs}", **axes)
        return dict(zip(self.names, tensor if self.has_branches else [tensor], strict=True))

    def restore(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inverse of `export`: exact."""
        parts = [tensors[name] for name in self.names]
        axes = {key: size for key, size in self.axes.items() if key in self.theirs}
        tensor = np.stack(parts) if self.has_branches else parts[0]
        return np.ascontiguousarray(rearrange(tensor, f"{self.theirs} -> {self.ours}", **axes))

    @property
    def has_branches(self) -> bool:
        """Whether every branch has a tensor of its own."""
        return self.theirs.startswith("b ")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which entries a tree has.

    Attributes:
      encoder: size of the encoder, at `encoder` in our tree.
      patch_size: pixels a side of a patch.
      decoder: size of MAE's decoder, at the tree's root; None for a model without.
    """

    encoder: ViTSize
    patch_size: int
    decoder: ViTSize | None = None

    def entries(self) -> Iterator[Entry]:
        """Every weight that has a foreign name."""
        patch = {"y": self.patch_size, "x": self.patch_size}
        for path, name, ours, theirs in ENCODER:
            yield Entry(("encoder", *path), (name,), ours, theirs, patch)
        yield from _block_entries(("encoder", "blocks"), "blocks", self.encoder)
        if self.decoder is not None:
            for path, name, ours, theirs in DECODER:
                yield Entry(path, (name,), ours, theirs, {})
            yield from _block_entries(("decoder",), "decoder_blocks", self.decoder)


def _block_entries(path: Path, name: str, size: ViTSize) -> Iterator[Entry]:
    axes = {"b": size.num_branches, "t": 3, "h": size.num_heads, "e": size.head_dim}
    for i in range(size.depth):
        for inner, weight, ours, theirs in BLOCK:
            names: tuple[str, ...] = (f"{name}.{i}.{weight}",)
            if theirs.startswith("b ") and size.num_branches > 1:
                part, _, rest = weight.partition(".")
                names = tuple(f"{name}.{i}.{part}.{b}.{rest}" for b in range(size.num_branches))
            yield Entry((*path, f"block{i}", *inner), names, ours, theirs, axes)


def to_foreign(params: Any, layout: Layout) -> dict[str, Any]:
    """Our tree -> tensors by foreign name; what has none keeps our dotted path."""
    known = {entry.path: entry for entry in layout.entries()}
    tensors: dict[str, np.ndarray] = {}
    for path, leaf in flatten_dict(params).items():
        if path in known:
            tensors |= known[path].export(leaf)
        else:
            tensors[".".join(path)] = leaf
    return tensors


def check_names(tensors: Tensors, layout: Layout, abstract: Any, source: str) -> None:
    """Holds a foreign model's tensors against our tree's shapes.

    Raises:
      UserError: a weight is missing, of another shape, or belongs nowhere; `source` says where.
    """
    expected = jax.eval_shape(lambda tree: to_foreign(tree, layout), abstract)
    for name, leaf in expected.items():
        if name not in tensors:
            raise UserError(f"{source}: weight {name} is missing")
        if tensors[name].shape != leaf.shape:
            raise UserError(
                f"{source}: weight {name} is {tensors[name].shape}, {leaf.shape} in this model"
            )
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise UserError(
            f"{source}: weight {unknown[0]} (one of {len(unknown)}) has no place in models here"
        )


def from_foreign(tensors: Tensors, layout: Layout, source: str) -> Any:
    """The inverse of `to_foreign`, exact.

    Raises:
      UserError: a branch is missing, or a weight does not have the shape of its layout.
    """
    rest = dict(tensors)
    tree = {}
    for entry in layout.entries():
        if rest.keys().isdisjoint(entry.names):
            continue
        try:
            tree[entry.path] = entry.restore({name: rest.pop(name) for name in entry.names})
        except KeyError as error:
            raise UserError(f"{source}: weight {error.args[0]} is missing") from error
        except (EinopsError, ValueError) as error:
            raise UserError(f"{source}: weight {entry.names[0]} has a wrong shape") from error
    return unflatten_dict(tree | {tuple(name.split(".")): rest[name] for name in rest})
