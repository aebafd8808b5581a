"""Names of Hugging Face's ViTMAE, old and new, as MAE's own.

Files carry the names of transformers 4 (`vit.encoder.layer.0.attention.attention.query`), which
version 5 still writes (the decoder's layers under yet another one); models of version 5 have
`vit.layers.0.attention.q_proj`.
"""

import re

import numpy as np

from rsfm_jax.errors import UserError

LAYERS = (
    (r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\.(\d+)\.", r"decoder_blocks.\1."),
)
INSIDE = (
    (r"attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.", r"attn.\1."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"output\.dense\.", "mlp.fc2."),
    (r"mlp\.(fc[12])\.", r"mlp.\1."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
)
OUTSIDE = (
    (r"(?:vit\.)?embeddings\.cls_token", "cls_token"),
    (r"(?:vit\.)?embeddings\.position_embeddings", "pos_embed"),
    (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:vit\.)?layernorm\.", "norm."),
    (r"decoder\.(decoder_embed|decoder_norm|decoder_pred)\.", r"\1."),
    (r"decoder\.(mask_token|decoder_pos_embed)", r"\1"),
)
# The other way round, for the numerical check: names in files.
FILE_LAYERS = ("vit.encoder.layer", "decoder.decoder_layers")
FILE_INSIDE = {
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
FILE_OUTSIDE = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
}
QKV = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))


def is_vitmae(tensors: dict[str, np.ndarray]) -> bool:
    """Whether the names are those of a transformers ViT."""
    return any(re.match(r"(vit\.)?embeddings\.cls_token$", name) for name in tensors)


def to_mae_names(tensors: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The same tensors as MAE's reference code has them: query, key and value fused.

    Raises:
      UserError: one of query, key and value is missing.
    """
    renamed = {_rename(name): value for name, value in tensors.items()}
    for names in QKV:
        for first in [name for name in renamed if f".attn.{names[0]}." in name]:
            parts = [first.replace(names[0], part) for part in names]
            if missing := [part for part in parts if part not in renamed]:
                raise UserError(f"{source}: weight {missing[0]} (in MAE's naming) is missing")
            values = [renamed.pop(part) for part in parts]
            if len({value.shape for value in values}) > 1:
                raise UserError(f"{source}: {first} and its key and value differ in shape")
            renamed[first.replace(names[0], "qkv")] = np.concatenate(values)
    return renamed


def from_mae_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MAE's tensors under the names of transformers 4, which every version reads."""
    renamed = {}
    for name, value in tensors.items():
        if layer := re.match(r"(decoder_)?blocks\.(\d+)\.(.*)\.(weight|bias)$", name):
            part, number, inner, kind = layer.groups()
            prefix = f"{FILE_LAYERS[part is not None]}.{number}"
            if inner == "attn.qkv":
                for key, third in zip(QKV[0], np.split(value, 3), strict=True):
                    renamed[f"{prefix}.attention.attention.{key}.{kind}"] = third
            else:
                renamed[f"{prefix}.{FILE_INSIDE[inner]}.{kind}"] = value
        else:
            outer, kind = re.findall(r"^(.*?)(\.(?:weight|bias))?$", name)[0]
            renamed[FILE_OUTSIDE.get(outer, f"decoder.{outer}") + kind] = value
    return renamed


def _rename(name: str) -> str:
    for pattern, prefix in LAYERS:
        if layer := re.match(pattern, name):
            return layer.expand(prefix) + _replaced(name[layer.end() :], INSIDE)
    return _replaced(name, OUTSIDE)


def _replaced(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        if found := re.match(pattern, name):
            return found.expand(replacement) + name[found.end() :]
    return name
