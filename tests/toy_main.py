"""launch/main.py with a toy that reads real files, `config.data.source`: a folder of 8 px images.

python tests/toy_main.py --config=tests/toy_main.py --workdir=DIR --config.data.source=IMAGES
"""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from launch import main
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.sources import open_source
from rsfm_jax.tasks import TASKS
from tests.toy import WIDTH, ToyTask, toy_config


def get_config():
    config = toy_config(task="toy", total_steps=40)
    config.optimizer.base_lr = 0.2
    config.mesh.data = -1
    config.mesh.fsdp = 1
    config.data.threads = 1
    config.eval.every_steps = 10
    config.evaluation_seconds = 0.0
    config.step_seconds = 0.0
    return config


class ToyImages(ToyTask):
    def batches(self, rows, start_step):
        data = self.config.data
        return SlowLoader(
            self.config.step_seconds,
            open_source(data.source),
            transform=columns,
            batch_size=self.config.batch_size,
            rows=rows,
            seed=self.config.seed,
            start_step=start_step,
            threads=data.threads,
            workers=data.workers,
            max_bad_fraction=data.max_bad_fraction,
        )

    def evaluate(self, variables, step, workdir):
        (workdir / "evaluating").write_text(str(step))
        time.sleep(self.config.evaluation_seconds)
        (workdir / "evaluating").unlink(missing_ok=True)
        return super().evaluate(variables, step, workdir)


class SlowLoader(Loader):
    def __init__(self, seconds, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seconds = seconds

    def __next__(self):
        time.sleep(self.seconds)
        return super().__next__()


def columns(example, rng):
    """Means of the image's columns and a little noise: float32 [8]."""
    means = example["image"].mean((0, 2)) / 255 - 0.5
    return {"x": (means + rng.normal(0, 0.1, WIDTH)).astype(np.float32)}


def write_images(folder: Path, count: int = 48) -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, WIDTH, WIDTH, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder


TASKS["toy"] = lambda config, mesh: ToyImages(config)

if __name__ == "__main__":
    main.leave(main.main(sys.argv))
