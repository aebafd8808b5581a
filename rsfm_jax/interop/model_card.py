"""The README.md of exported weights, with the YAML head that model hubs read."""

import json
from typing import Any

from rsfm_jax.interop.exported import Exported

CARD = """\
---
library_name: {library}
pipeline_tag: image-feature-extraction
tags:
- remote-sensing
- rsfm_jax
- {task}
---
# {size}, {task}

The parallel vision transformer `{size}` of arXiv 2304.05215, {origin}.
{width} wide, {depth} blocks of {branches}, {heads} heads and {mlp_dim} hidden units a branch,
patches of {patch} pixels.

## Input

{bands} in this order, {unit}. Scale to [0, 1], subtract the mean, divide by the deviation:

    mean {mean}
    std  {std}

The position table is for {pixels} x {pixels} pixels. `input_contract.json` says the same to
programs.

## Files

- `model.safetensors`: the encoder, {parameters:,} float32 numbers. {names}
{heads_line}- `config.json`: the resolved config of the run, under `rsfm_jax`.

## Loading

```python
{loading}
```

In rsfm_jax: `python launch/convert.py import --source=THIS_FOLDER --workdir=DIR`, then
`--config.init_from=DIR`.

## Numerical check at export

```
{check}
```

This card was written by a program, which knows neither licence nor accuracy of the weights, nor
what the training images allow: add them before publishing.
"""
TIMM_NAMES = "The names are those of timm's `VisionTransformer`."
BRANCH_NAMES = (
    "The names are timm's, with the branch's number after `attn` and `mlp`: "
    "`blocks.0.attn.2.qkv.weight` is the fused query, key and value matrix of the third branch of "
    "the first block. All branches of a sub-layer read the same normalised input "
    "(`norm1`, `norm2`) and their outputs are added."
)
DENSE_NAMES = (
    " The encoder works in windows as ViTDet's does: `rel_pos_h` and `rel_pos_w` are relative "
    "positions as in detectron2, there is neither class token nor final norm."
)
TIMM_LOADING = """\
import timm

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)"""
TORCH_LOADING = """\
from rsfm_jax.interop.torch_vit import ParallelViT  # one file that needs torch alone
from safetensors.torch import load_file

model = ParallelViT({arguments})
model.load_state_dict(load_file("THIS_FOLDER/model.safetensors"))"""
TENSOR_LOADING = """\
from safetensors.torch import load_file

tensors = load_file("THIS_FOLDER/model.safetensors")"""


def model_card(exported: Exported, step: int, checks: list[str]) -> str:
    """The card's text.

    Args:
      exported: what is written.
      step: of the checkpoint.
      checks: the numerical check's lines.
    """
    config, contract = exported.metadata["config"], exported.metadata["contract"]
    size, patch = exported.layout.encoder, exported.layout.patch_size
    table = exported.encoder["pos_embed"]
    pixels = int(table.shape[1] ** 0.5) * patch  # a class token does not change the root's floor
    names, loading, library = TIMM_NAMES, TIMM_LOADING, "timm"
    if size.num_branches > 1:
        names, library = BRANCH_NAMES, "rsfm_jax"
        loading = TORCH_LOADING.format(
            arguments=f"width={size.width}, depth={size.depth}, num_heads={size.num_heads}, "
            f"mlp_dim={size.mlp_dim},\n    branches={size.num_branches}, patch_size={patch}, "
            f"image_size={pixels}"
        )
    if "cls_token" not in exported.encoder:
        names, loading, library = names + DENSE_NAMES, TENSOR_LOADING, "rsfm_jax"
    heads = "- `heads.safetensors`: {} tensors of decoder or heads, not part of the encoder.\n"
    return CARD.format(
        library=library,
        task=config["task"],
        size=config["model"]["size"],
        width=size.width,
        depth=size.depth,
        branches="one branch"
        if size.num_branches == 1
        else f"{size.num_branches} parallel branches",
        heads=size.num_heads,
        mlp_dim=size.mlp_dim,
        patch=patch,
        parameters=sum(x.size for x in exported.encoder.values()),
        origin=_origin(exported.metadata, step),
        bands=", ".join(contract["bands"]),
        unit=contract["unit"],
        mean=json.dumps(contract["mean"]),
        std=json.dumps(contract["std"]),
        pixels=pixels,
        names=names,
        heads_line=heads.format(len(exported.heads)) if exported.heads else "",
        loading=loading,
        check="\n".join(checks),
    )


def _origin(metadata: dict[str, Any], step: int) -> str:
    config = metadata["config"]
    if "imported_from" in metadata:
        return f"with weights imported from {metadata['imported_from']}"
    start = f", from {config['init_from']}" if config.get("init_from") else ""
    return (
        f"trained by rsfm_jax for the task `{config['task']}` to step {step:,} on "
        f"`{config['data']['source']}`{start}"
    )
