"""What a pretraining run shows of itself: reconstructions and frozen-feature probes."""

import math
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.data.device import denormalize, normalize
from rsfm_jax.data.sources import open_source
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.features import image_statistics, map_batches
from rsfm_jax.evaluation.figures import draw_probes, draw_reconstructions, probe_history
from rsfm_jax.evaluation.probes import probe_accuracies
from rsfm_jax.models.mae import MAE, MAEConfig, draw_mask, patch_statistics, targets
from rsfm_jax.models.vit import ViT, ViTConfig, patchify, unpatchify
from rsfm_jax.sharding.rules import replicated
from rsfm_jax.tasks.encoder import patch_grid
from rsfm_jax.tasks.images import EVALUATION_SEED, held_out
from rsfm_jax.training.state import Params


class Reconstruction:
    """Loss on `config.eval.source` under fixed masks, and a picture of the first eight."""

    def __init__(self, config: Any, mae: MAEConfig, mesh: Mesh):
        self.config, self.mae, self.mesh = config, mae, mesh
        self._reconstruct = jax.jit(self.reconstruct, out_shardings=replicated(mesh))

    @cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """Images and the noise of their masks."""
        config = self.config
        source = open_source(config.eval.source or config.data.source, config.eval.split)
        images, _ = held_out(config, source, config.eval.images)
        shape = (len(images), math.prod(patch_grid(config, "data.image_size")))
        noise = np.random.default_rng(EVALUATION_SEED).random(shape, np.float32)
        return {"image": images, "noise": noise}

    def __call__(self, params: Params, figures: Path) -> dict[str, float]:
        """Metrics `loss` and, for pixel targets, `psnr` (dB, hidden pixels only)."""
        run = partial(self._reconstruct, params)
        results = map_batches(run, self.examples, self.config.eval.batch_size, self.mesh)
        if jax.process_index() == 0:
            note = "hidden patches are predicted, visible ones copied"
            if self.mae.normalize_targets:
                note += "; each patch's own mean and contrast are given, not predicted"
            columns = {
                "original": self.examples["image"],
                "masked": results["masked"],
                "reconstruction": results["reconstruction"],
            }
            draw_reconstructions(figures / "reconstruction.png", columns, note)
        metrics = {"loss": float(results["loss"].mean())}
        if not self.mae.normalize_targets:
            metrics["psnr"] = float(-10 * np.log10(results["squared_error"].mean()))
        return metrics

    def reconstruct(self, params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Per image: loss, squared error of hidden pixels (0..1 scale), pictures as uint8."""
        data, patch_size = self.config.data, self.mae.encoder.patch_size
        images = normalize(batch["image"], data.mean, data.std)
        mask = draw_mask(batch["noise"], self.mae.mask_ratio)
        predicted = MAE(self.mae).apply({"params": params}, images, mask)
        hidden = mask.hidden  # [B, N]
        errors = jnp.square(predicted - targets(images, self.mae)).mean(-1)

        patches = patchify(images, patch_size)
        if self.mae.normalize_targets:
            mean, deviation = patch_statistics(patches)
            predicted = predicted * deviation + mean
        grid = patch_grid(self.config, "data.image_size")
        to_pixels = partial(unpatchify, patch_size=patch_size, grid=grid)
        filled = jnp.where(hidden[..., None] > 0, predicted, patches)
        reconstruction = denormalize(to_pixels(filled), data.mean, data.std)
        grey = jnp.full_like(batch["image"], 128)
        is_hidden = to_pixels(jnp.broadcast_to(hidden[..., None], patches.shape)) > 0
        difference = (reconstruction.astype(jnp.float32) - batch["image"]) / 255.0
        return {
            "loss": (errors * hidden).sum(1) / hidden.sum(1),
            "squared_error": jnp.square(difference).mean((1, 2, 3)) * hidden.size / hidden.sum(),
            "masked": jnp.where(is_hidden, grey, batch["image"]),
            "reconstruction": reconstruction,
        }


class Probe:
    """kNN and linear-probe accuracy of frozen features on labelled images.

    The same probes on image statistics and on the randomly initialised network are the
    baselines that pretraining must beat.
    """

    BASELINES = ("image_statistics", "random_init")

    def __init__(self, config: Any, encoder: ViTConfig, mesh: Mesh, init: Callable[[], Params]):
        self.config, self.mesh, self._init = config, mesh, init
        self._encode = jax.jit(partial(encode, config, encoder), out_shardings=replicated(mesh))

    @cached_property
    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels."""
        config = self.config
        evaluation = config.eval
        source = open_source(evaluation.probe_source, evaluation.probe_split)
        images, labels = held_out(config, source, evaluation.probe_images)
        if labels is None:
            raise UserError(
                f"config.eval.probe_source={evaluation.probe_source}: no labels there; it needs "
                "one subfolder of images a class"
            )
        counts = np.bincount(labels)
        if np.count_nonzero(counts) < 2 or np.min(counts[counts > 0]) < 2:
            raise UserError(
                f"config.eval.probe_source={evaluation.probe_source}: probes need two classes or "
                f"more and two images of each; {len(labels)} images were read, at most "
                f"config.eval.probe_images={evaluation.probe_images}"
            )
        return images, labels

    @cached_property
    def baselines(self) -> dict[str, float]:
        """`knn_NAME` and `linear_NAME` of every baseline."""
        images, labels = self.examples
        features = {
            "image_statistics": image_statistics(images),
            "random_init": self.features(self._init()),
        }
        return {
            f"{probe}_{name}": accuracy
            for name in self.BASELINES
            for probe, accuracy in probe_accuracies(features[name], labels, EVALUATION_SEED).items()
        }

    def features(self, params: Params) -> np.ndarray:
        """Mean of the patch tokens [N, D] of every image."""
        images = {"image": self.examples[0]}
        run = partial(self._encode, params)
        return map_batches(run, images, self.config.eval.batch_size, self.mesh)

    def __call__(self, params: Params, step: int, workdir: Path) -> dict[str, float]:
        """Accuracies in [0, 1] of this state and of the baselines; draws the curve so far."""
        features = self.features(params)
        metrics = probe_accuracies(features, self.examples[1], EVALUATION_SEED) | self.baselines
        if jax.process_index() == 0:
            now = {"step": step} | {f"eval/{key}": value for key, value in metrics.items()}
            earlier = [x for x in probe_history(workdir / "metrics.jsonl") if x["step"] < step]
            draw_probes(workdir / "figures" / "probe.png", [*earlier, now], self.BASELINES)
        return metrics


def encode(
    config: Any, encoder: ViTConfig, params: Params, batch: dict[str, jax.Array]
) -> jax.Array:
    """Frozen features: uint8 images [B, H, W, 3] -> mean patch token [B, D] float32."""
    images = normalize(batch["image"], config.data.mean, config.data.std)
    return ViT(encoder).apply({"params": params["encoder"]}, images, method="mean_token")
