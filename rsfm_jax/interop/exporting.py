"""A checkpoint as a folder of safetensors with model card and input contract."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from rsfm_jax.errors import UserError
from rsfm_jax.interop.exported import KEY, Exported, pretrained_side
from rsfm_jax.interop.files import write_tensors
from rsfm_jax.interop.model_card import model_card
from rsfm_jax.training.checkpoints import find_checkpoint, read_weights, written_metadata
from rsfm_jax.training.state import Variables


def export(checkpoint: Path, output: Path, report: Callable[[str], None]) -> None:
    """Writes the newest checkpoint's weights, the average's where one is kept.

    The written files are read back and checked before the folder gets its name.

    Args:
      checkpoint: a work folder, its checkpoints folder, or one step's folder.
      output: a new folder.
      report: takes the lines of the check.

    Raises:
      UserError: no checkpoint there, the folder exists, or the check fails.
    """
    if output.exists():
        raise UserError(f"--output={output}: exists already; give a new folder")
    folder = find_checkpoint(checkpoint)
    variables, metadata = read_weights(folder), written_metadata(folder)
    exported = Exported.from_variables(variables, metadata, str(folder))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        part = Path(temporary, output.name)
        part.mkdir()
        write_tensors(part / "model.safetensors", exported.encoder)
        if exported.heads:
            write_tensors(part / "heads.safetensors", exported.heads)
        (part / "config.json").write_text(json.dumps(describe(exported), indent=2))
        contract = json.dumps(metadata["contract"], indent=2)
        (part / "input_contract.json").write_text(contract)
        again = Exported.read(part)
        count = count_equal(variables, again.variables())
        report(f"check: {count:,} weights written, read back and equal to the checkpoint's bits ok")
        lines = again.check(variables["params"])
        for line in lines:
            report(line)
        (part / "README.md").write_text(model_card(exported, int(folder.name), lines))
        os.replace(part, output)


def describe(exported: Exported) -> dict:
    """config.json: our run and, with one branch, what timm needs to build the encoder."""
    contract, size = exported.metadata["contract"], exported.layout.encoder
    own = {KEY: exported.metadata}
    if size.num_branches > 1 or "cls_token" not in exported.encoder:
        return own
    pixels = pretrained_side(exported.metadata["config"]) * exported.layout.patch_size
    return {
        "architecture": "vit_base_patch16_224",  # any of timm's plain ones: the arguments decide
        "num_classes": 0,
        "num_features": size.width,
        "global_pool": "token",
        "model_args": {
            "img_size": pixels,
            "patch_size": exported.layout.patch_size,
            "embed_dim": size.width,
            "depth": size.depth,
            "num_heads": size.num_heads,
            "mlp_ratio": size.mlp_dim / size.width,
        },
        "pretrained_cfg": {
            "input_size": [3, pixels, pixels],
            "mean": contract["mean"],
            "std": contract["std"],
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    } | own


def count_equal(ours: Variables, again: Variables) -> int:
    """How many numbers there are; raises `UserError` unless both trees have the same bits."""
    first, second = flatten_dict(ours, sep="/"), flatten_dict(again, sep="/")
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second or not _same_bits(first[name], second[name]):
            raise UserError(f"weight {name} does not survive the round trip; nothing was written")
    return sum(leaf.size for leaf in jax.tree.leaves(ours))


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
