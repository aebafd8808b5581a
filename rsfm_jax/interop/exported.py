"""A folder of exported weights: what `convert.py export` writes and `import` reads back.

    model.safetensors    the encoder, under timm's names or, with branches, theirs with numbers
    heads.safetensors    everything else: a decoder under MAE's names, heads under ours
    config.json          what the model is; with one branch also what timm needs to build it
    input_contract.json  how images must look
    README.md            the model card
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from rsfm_jax.errors import UserError
from rsfm_jax.interop import check
from rsfm_jax.interop.comparisons import compare_encoder, compare_vitmae
from rsfm_jax.interop.files import read_tensors
from rsfm_jax.interop.names import Layout, Tensors, check_names, from_foreign, to_foreign
from rsfm_jax.interop.positions import TOLERANCE, position_table
from rsfm_jax.models.sizes import ViTSize, vit_size
from rsfm_jax.training.state import Variables
from rsfm_jax.training.transfer import pretrained_image_size

KEY = "rsfm_jax"  # of config.json, where the run's config and contract stand


@dataclasses.dataclass(frozen=True)
class Exported:
    """The content of such a folder.

    Attributes:
      metadata: `config` and `contract` of the run, `imported_from` where weights are foreign.
      encoder: tensors of model.safetensors.
      heads: tensors of heads.safetensors; running statistics start with `batch_stats.`.
      where: a file, for messages.
    """

    metadata: dict[str, Any]
    encoder: Tensors
    heads: Tensors
    where: str

    @classmethod
    def from_variables(cls, variables: Variables, metadata: dict[str, Any], where: str):
        """Ours under foreign names."""
        layout = layout_of(metadata["config"])
        params = dict(variables["params"])
        encoder = to_foreign({"encoder": params.pop("encoder")}, layout)
        table = position_table(
            pretrained_side(metadata["config"]), layout.encoder.width, "cls_token" in encoder
        )
        statistics = {"batch_stats": variables.get("batch_stats", {})}
        heads = to_foreign(params, layout) | to_foreign(statistics, layout)
        return cls(metadata, encoder | {"pos_embed": table}, heads, where)

    @classmethod
    def read(cls, folder: Path):
        """Reads the folder; raises `UserError` where it is not whole."""
        metadata = json.loads((folder / "config.json").read_text())[KEY]
        try:
            layout_of(metadata["config"])
            pretrained_side(metadata["config"])
            metadata["contract"]["mean"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder / 'config.json'}: {KEY} lacks {error}") from error
        file, heads = folder / "model.safetensors", folder / "heads.safetensors"
        return cls(
            metadata,
            read_tensors(file)[0],
            read_tensors(heads)[0] if heads.is_file() else {},
            str(file),
        )

    @property
    def layout(self) -> Layout:
        """Sizes and names."""
        return layout_of(self.metadata["config"])

    def variables(self) -> Variables:
        """The tree that was exported, bit for bit; raises `UserError` where one is missing."""
        weights = {name: x for name, x in self.encoder.items() if name != "pos_embed"}
        tree = from_foreign(weights | self.heads, self.layout, self.where)
        statistics = tree.pop("batch_stats", None)
        return {"params": tree} | ({"batch_stats": statistics} if statistics else {})

    def check(self, params: Any) -> list[str]:
        """Our model against torch libraries on these tensors; the lines to print.

        Windowed encoders of detection and segmentation have neither class token nor final norm
        and add relative positions; what they share with the plain ViT is compared as one, with
        a class token of zeros and a norm of ones. A decoder is compared where the encoder has
        one branch: no torch library has the model otherwise.

        Raises:
          UserError: the two differ.
        """
        layout = Layout(self.layout.encoder, self.layout.patch_size)
        side, width = pretrained_side(self.metadata["config"]), layout.encoder.width
        self._refuse_other_positions(side)
        encoder, what = params["encoder"], "encoder's features"
        tensors = {
            name: x
            for name, x in self.encoder.items()
            if name != "pos_embed" and "rel_pos" not in name
        }
        if "cls_token" not in tensors:
            what += " as a plain ViT, without relative positions"
            token, ones = np.zeros((1, 1, width), np.float32), np.ones(width, np.float32)
            norm = {"scale": ones, "bias": token[0, 0]}
            encoder = encoder | {"cls_token": token, "blocks": encoder["blocks"] | {"norm": norm}}
            tensors |= {"cls_token": token, "norm.weight": ones, "norm.bias": token[0, 0]}
        check_names(tensors, layout, check.abstract_params(layout), self.where)
        tensors["pos_embed"] = position_table(side, width, class_token=True)
        image_size = side * layout.patch_size
        lines = [compare_encoder(encoder, tensors, layout, image_size, what)]
        if "mask_token" in self.heads and layout.encoder.num_branches == 1:
            assert self.layout.decoder is not None  # its mask token is there
            table = position_table(side, self.layout.decoder.width, class_token=True)
            named = tensors | self.heads | {"decoder_pos_embed": table}
            lines.append(compare_vitmae(params, named, self.layout, image_size))
        return lines

    def _refuse_other_positions(self, side: int) -> None:
        """Raises `UserError` unless the stored table is the one that the model has."""
        width = self.layout.encoder.width
        expected = position_table(side, width, class_token="cls_token" in self.encoder)
        table = self.encoder.get("pos_embed", np.zeros(0))
        if table.shape != expected.shape or not np.allclose(table, expected, atol=TOLERANCE):
            raise UserError(f"{self.where}: pos_embed is not the table that config.json implies")


def is_exported(folder: Path) -> bool:
    """Whether the folder is one of ours."""
    try:
        return KEY in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def layout_of(config: dict[str, Any]) -> Layout:
    """Sizes of the model that a run's resolved config describes."""
    model = config["model"]
    decoder = None
    if config["task"] == "pretrain":
        decoder = ViTSize(
            width=model["decoder_width"],
            depth=model["decoder_depth"],
            num_heads=model["decoder_heads"],
            mlp_dim=4 * model["decoder_width"],
        )
    return Layout(vit_size(model["size"]), model["patch_size"], decoder)


def pretrained_side(config: dict[str, Any]) -> int:
    """Patches a side of the grid that the position table belongs to."""
    return pretrained_image_size(config) // config["model"]["patch_size"]
