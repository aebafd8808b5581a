"""A torch train step in a race.

    python -m benchmarks.contestant_torch FOLDER [--transformers] [--bfloat16] [--compile=MODE]

FOLDER is that of `contestant_jax`, which has to have written its materials.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import torch_mae
from benchmarks.contestant_jax import race_config
from benchmarks.race import host_memory, serve
from rsfm_jax.interop.huggingface import from_mae_names
from rsfm_jax.interop.names import Layout, to_foreign
from rsfm_jax.interop.positions import position_table
from rsfm_jax.tasks.pretrain import mae_config

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (pixels [B, H, W, 3], noise)


def our_model(config: Any, params: dict[str, np.ndarray], materials: Any) -> torch.nn.Module:
    """`torch_mae.MAE` with our weights."""
    mae = mae_config(config, "cpu")
    shape = torch_mae.Shape(
        encoder=mae.encoder.size,
        decoder=mae.decoder,
        image_size=config.data.image_size,
        patch_size=mae.encoder.patch_size,
        mask_ratio=mae.mask_ratio,
        class_token=mae.decoder_class_token,
    )
    tables = {name: materials[f"{name}_positions"] for name in ("encoder", "decoder")}
    model = torch_mae.MAE(shape, tables)
    torch_mae.load(model, params)
    return model


class ViTMAE(torch.nn.Module):
    """The ViTMAE of transformers, called as the other."""

    def __init__(self, config: Any, params: dict[str, np.ndarray]):
        super().__init__()
        import transformers

        import tests.conftest  # noqa: F401 - torchvision beside a CPU build of torch

        mae = mae_config(config, "cpu")
        encoder, decoder, patch_size = mae.encoder.size, mae.decoder, mae.encoder.patch_size
        tree: dict[str, Any] = {}
        for path, value in params.items():
            *parents, leaf = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        tensors = to_foreign(tree, Layout(encoder, patch_size, decoder))
        side = config.data.image_size // patch_size
        tensors["pos_embed"] = position_table(side, encoder.width, class_token=True)
        tensors["decoder_pos_embed"] = position_table(side, decoder.width, class_token=True)
        self.model = transformers.ViTMAEForPreTraining.from_pretrained(
            None,
            config=transformers.ViTMAEConfig(
                image_size=config.data.image_size,
                patch_size=patch_size,
                hidden_size=encoder.width,
                num_hidden_layers=encoder.depth,
                num_attention_heads=encoder.num_heads,
                intermediate_size=encoder.mlp_dim,
                decoder_hidden_size=decoder.width,
                decoder_num_hidden_layers=decoder.depth,
                decoder_num_attention_heads=decoder.num_heads,
                decoder_intermediate_size=decoder.mlp_dim,
                layer_norm_eps=1e-6,
                norm_pix_loss=True,
                attn_implementation="sdpa",
            ),
            state_dict={
                name: torch.tensor(np.ascontiguousarray(value))
                for name, value in from_mae_names(tensors).items()
            },
        )

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Normalised pixels [B, H, W, 3] and noise [B, N] -> loss []."""
        return self.model(pixel_values=pixels.permute(0, 3, 1, 2), noise=noise).loss


def adamw(model: torch.nn.Module, config: Any) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices alone, as ours."""
    modules = (torch.nn.Linear, torch.nn.Conv2d)
    decayed = [module.weight for module in model.modules() if isinstance(module, modules)]
    known = {id(weight) for weight in decayed}
    rest = [x for x in model.parameters() if x.requires_grad and id(x) not in known]
    groups = [
        {"params": decayed, "weight_decay": config.optimizer.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=config.optimizer.betas, fused=True)


def main() -> None:
    """Serves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--transformers", action="store_true", help="its ViTMAE")
    parser.add_argument("--bfloat16", action="store_true", help="autocast")
    parser.add_argument("--compile", help="a mode of torch.compile")
    options = parser.parse_args()
    settings = json.loads((options.folder / "race.json").read_text())
    config = race_config(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(settings["threads"])
    else:
        # Best first; where one takes no such shapes the next does.
        backends = torch.nn.attention.SDPBackend
        order = [backends.CUDNN_ATTENTION, backends.FLASH_ATTENTION, backends.EFFICIENT_ATTENTION]
        torch.nn.attention.sdpa_kernel(order, set_priority=True).__enter__()

    materials = np.load(options.folder / "materials.npz")
    params = {
        name.removeprefix("params/"): materials[name]
        for name in materials.files
        if name.startswith("params/")
    }
    if options.transformers:
        model: torch.nn.Module = ViTMAE(config, params)
    else:
        model = our_model(config, params, materials)
    model = model.to(device).train()
    optimizer = adamw(model, config)
    images = torch.tensor(materials["images"], device=device)
    noise = torch.tensor(materials["noise"], device=device)
    rates = materials["rates"]
    mean, std = (torch.tensor(config.data[key], device=device) for key in ("mean", "std"))

    def loss_of(images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=options.bfloat16):
            return model((images.float() / 255.0 - mean) / std, noise)

    forward = torch.compile(loss_of, mode=options.compile) if options.compile else loss_of
    number = 0

    def step() -> torch.Tensor:
        nonlocal number
        for group in optimizer.param_groups:
            group["lr"] = float(rates[number])
        loss = forward(images, noise[number])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        return loss.detach().clone()  # CUDA graphs write over their own

    peak_memory = torch.cuda.max_memory_allocated if device == "cuda" else host_memory
    serve(step, settings["warmup"], {"versions": f"torch {torch.__version__}"}, peak_memory)


if __name__ == "__main__":
    main()
