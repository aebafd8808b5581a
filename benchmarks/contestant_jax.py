"""Our train step in a race, and the weights, images and noise that the others take over.

    python -m benchmarks.contestant_jax FOLDER

FOLDER/race.json says what is raced (`Race`); FOLDER/materials.npz is written.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from benchmarks.race import host_memory, serve
from configs import mae_recipe
from rsfm_jax.flops import training_flops
from rsfm_jax.models.vit import sincos_positions
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks.pretrain import Pretrain
from rsfm_jax.training.host_memory import keep_freed_memory
from rsfm_jax.training.optimizer import learning_rate
from rsfm_jax.training.program import build_program


def race_config(settings: dict[str, Any]) -> ConfigDict:
    """The recipe of pretraining with a race's model and batch.

    Nothing is drawn but the mask: no flips. Clipping never strikes, and nobody else has it.
    """
    config = mae_recipe.get_config(settings["size"])
    config.batch_size = settings["batch_size"]
    config.total_steps = settings["steps"]
    config.model.update(settings["model"])
    config.optimizer.warmup_steps = 0
    config.optimizer.clip_norm = 1e9
    config.data.image_size = settings["image_size"]
    config.data.horizontal_flip = 0.0
    return config


def draw_images(batch_size: int, image_size: int) -> np.ndarray:
    """uint8 [B, H, W, 3]: blocks of colour under noise, so that there is something to learn."""
    rng = np.random.default_rng(0)
    shape = (batch_size, image_size // 8, image_size // 8, 3)
    blocks = rng.integers(40, 216, shape).repeat(8, axis=1).repeat(8, axis=2)
    return (blocks + rng.integers(-40, 40, blocks.shape)).astype(np.uint8)


def main(folder: Path) -> None:
    """Writes the materials and serves."""
    keep_freed_memory()
    settings = json.loads((folder / "race.json").read_text())
    config = race_config(settings)
    mesh = make_mesh(config)
    task = Pretrain(config, mesh)
    program = build_program(task, config, mesh)
    images = draw_images(config.batch_size, config.data.image_size)

    def noise(step: int) -> jax.Array:
        """As the train step draws it."""
        rng = jax.random.fold_in(jax.random.key(config.seed), step)
        return task.prepare({"image": images}, jax.random.split(rng)[0])["noise"]

    side = config.data.image_size // config.model.patch_size
    with jax.set_mesh(mesh):
        state = program.init()
        params = flatten_dict(jax.device_get(state.params), sep="/")
        np.savez(
            folder / "materials.npz",
            images=images,
            noise=np.stack(list(map(noise, range(settings["steps"])))),
            rates=[learning_rate(config)(step) for step in range(settings["steps"])],
            encoder_positions=sincos_positions((side, side), task.mae.encoder.size.width),
            decoder_positions=sincos_positions((side, side), task.mae.decoder.width),
            **{f"params/{name}": value for name, value in params.items()},
        )
        batch = jax.device_put({"image": images}, program.batch_sharding)
        compiled = program.train_step.lower(state, batch).compile()

        def step() -> jax.Array:
            nonlocal state
            state, metrics = compiled(state, batch)
            return metrics["loss"]

        device = jax.devices()[0]
        about = {
            "versions": f"jax {jax.__version__}",
            "device": device.device_kind,
            "flops": training_flops(task.flops) * config.batch_size,
        }

        def peak_memory() -> int:
            return (device.memory_stats() or {}).get("peak_bytes_in_use") or host_memory()

        serve(step, settings["warmup"], about, peak_memory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
