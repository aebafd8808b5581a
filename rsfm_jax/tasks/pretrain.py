"""Masked-autoencoder pretraining."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.data.device import normalize
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.sources import open_source
from rsfm_jax.errors import UserError
from rsfm_jax.models.flops import mae_flops
from rsfm_jax.models.mae import MAE, MAEConfig, draw_mask, reconstruction_loss, targets
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.sharding.rules import tree_shardings, unbox
from rsfm_jax.tasks import encoder, images
from rsfm_jax.tasks.pretrain_evaluation import Probe, Reconstruction
from rsfm_jax.training.state import Batch, Metrics, Params, Variables
from rsfm_jax.training.validate import AT_LEAST_1, FLAG, OPEN_SHARE, TEXT, check_values

# What pretraining reads beyond `COMMON_RULES`.
RULES = encoder.RULES | images.RULES | {
    "model.mask_ratio": OPEN_SHARE,
    "model.decoder_width": (lambda x: x > 0 and x % 4 == 0, "a positive multiple of 4"),
    "model.decoder_depth": AT_LEAST_1,
    "model.decoder_heads": AT_LEAST_1,
    "model.decoder_class_token": FLAG,
    "model.normalize_targets": FLAG,
    "eval.probe_source": TEXT,
    "eval.probe_split": TEXT,
    "eval.probe_images": AT_LEAST_1,
}


def mae_config(config: Any, platform: str) -> MAEConfig:
    """The model that `config.model` describes, for devices of `platform`.

    Raises:
      UserError: a value out of range, an unknown size, type, policy or attention, or an image
        that patches do not divide.
    """
    check_values(config, RULES)
    model = config.model
    rows, columns = encoder.patch_grid(config, "data.image_size")
    patches = rows * columns
    if not 0 < int(patches * (1 - model.mask_ratio)) < patches:
        raise UserError(
            f"config.model.mask_ratio={model.mask_ratio} leaves none of {patches} patches visible "
            "or none hidden"
        )
    if model.decoder_width % model.decoder_heads:
        raise UserError(
            f"config.model.decoder_width={model.decoder_width} is not a multiple of "
            f"config.model.decoder_heads={model.decoder_heads}"
        )
    decoder = ViTSize(
        width=model.decoder_width,
        depth=model.decoder_depth,
        num_heads=model.decoder_heads,
        mlp_dim=4 * model.decoder_width,
    )
    return MAEConfig(
        encoder=encoder.encoder_config(config, platform),
        mask_ratio=model.mask_ratio,
        decoder=decoder,
        decoder_class_token=model.decoder_class_token,
        normalize_targets=model.normalize_targets,
    )


class Pretrain:
    """The `Task` of MAE pretraining (see `rsfm_jax.training.state.Task`)."""

    def __init__(self, config: Any, mesh: Mesh):
        self.config, self.mesh = config, mesh
        self.mae = mae_config(config, mesh.devices.flat[0].platform)
        self.model = MAE(self.mae)
        self.flops = mae_flops(self.mae, config.data.image_size)
        self.contract = encoder.image_contract(config)
        self._reconstruction = Reconstruction(config, self.mae, mesh)
        self._probe = Probe(config, self.mae.encoder, mesh, self._random_params)

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return math.prod(encoder.patch_grid(self.config, "data.image_size"))

    new_weights: tuple[str, ...] = ()
    class_layers: tuple[str, ...] = ()

    def init(self, rng: jax.Array) -> Variables:
        """Fresh weights, boxed with their logical axes."""
        size = self.config.data.image_size
        mask = draw_mask(jnp.zeros((1, self.num_patches)), self.mae.mask_ratio)
        return self.model.init(rng, jnp.zeros((1, size, size, 3)), mask)

    def abstract_batch(self) -> Batch:
        """uint8 images [B, H, W, 3]."""
        return {"image": images.abstract_images(self.config)}

    def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
        """Flips, and the noise [B, N] that chooses the visible patches."""
        flip_rng, noise_rng = jax.random.split(rng)
        flipped = images.flip(self.config, batch["image"], flip_rng)
        noise = jax.random.uniform(noise_rng, (len(flipped), self.num_patches))
        return {"image": flipped, "noise": noise}

    def loss(
        self, variables: Variables, inputs: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Metrics, Any]:
        """Mean squared error over hidden patches."""
        pixels = normalize(inputs["image"], self.config.data.mean, self.config.data.std)
        mask = draw_mask(inputs["noise"], self.mae.mask_ratio)
        rngs = {"drop_path": rng}
        predicted = self.model.apply(variables, pixels, mask, False, rngs=rngs)
        return reconstruction_loss(predicted, targets(pixels, self.mae), mask), {}, {}

    def batches(self, rows: np.ndarray, start_step: int) -> Loader:
        """Random resized crops of this process's rows, from `start_step` on."""
        data = self.config.data
        source = open_source(data.source, data.split)
        return images.crop_batches(self.config, source, rows, start_step)

    def evaluate(self, variables: Variables, step: int, workdir: Path) -> dict[str, float]:
        """Held-out reconstruction and, where a labelled folder is given, probes."""
        params = variables["params"]
        metrics = self._reconstruction(params, workdir / "figures")
        if self.config.eval.probe_source:
            metrics |= self._probe(params, step, workdir)
        return metrics

    def _random_params(self) -> Params:
        """The weights that a fresh run of this seed starts from, laid out over the mesh."""

        def init() -> Params:
            return self.init(jax.random.key(self.config.seed))["params"]

        shardings = tree_shardings(jax.eval_shape(init), self.mesh)
        return jax.jit(lambda: unbox(init()), out_shardings=shardings)()
