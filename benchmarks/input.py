"""How fast images are read: decoding, cropping and the loader, beside Pillow and torch.

    python -m benchmarks.input --image_size=512 --quality=85
    python -m benchmarks.input --image_size=288 --quality=90

Draws aerial scenes, writes them as JPEG, and reads them in every way in turn, several rounds.
CPU time of this process and of the workers is what is compared: it holds on a busy machine.
Every line shows medians over the rounds. The transform of facebookresearch/mae, alone and in
torch's DataLoader, and torchvision on tensors run where torch and torchvision are installed.
"""

import functools
import io
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from absl import app, flags
from PIL import Image

from rsfm_jax.data.decode import decode_rgb
from rsfm_jax.data.loader import Loader
from rsfm_jax.data.sources import Source, open_source
from rsfm_jax.data.synthetic import draw_scene
from rsfm_jax.data.transforms import crop_example, draw_crop, random_resized_crop

IMAGE_SIZE = flags.DEFINE_integer("image_size", 512, "pixels a side of the files")
QUALITY = flags.DEFINE_integer("quality", 85, "JPEG quality")
CROP_SIZE = flags.DEFINE_integer("crop_size", 224, "pixels a side of a crop")
FILES = flags.DEFINE_integer("files", 96, "files drawn")
IMAGES = flags.DEFINE_integer("images", 512, "images read in each round")
ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds")
BATCH = 64
MAE = "facebookresearch/mae transform"

Read = Callable[[int], None]  # reads that many images


def pillow_decode(data: bytes) -> np.ndarray:
    """What a plain script does."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pillow_crop(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """Pillow's antialiased bicubic on the part alone."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    top, left, height, width = draw_crop(image.height, image.width, rng, (0.2, 1.0), (3 / 4, 4 / 3))
    box = (left, top, left + width, top + height)
    size = (CROP_SIZE.value, CROP_SIZE.value)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, box=box))


def our_crop(data: bytes, rng: np.random.Generator) -> np.ndarray:
    """What the loader does with an example."""
    return random_resized_crop(decode_rgb(data), rng, CROP_SIZE.value)


class MAETransform:
    """What facebookresearch/mae does with a file (`main_pretrain.py`, `transform_train`)."""

    def __init__(self, size: int):
        from torchvision import transforms

        bicubic = transforms.InterpolationMode.BICUBIC
        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __call__(self, data: bytes) -> Any:
        """File bytes -> float32 tensor [3, size, size]."""
        return self._transform(Image.open(io.BytesIO(data)).convert("RGB"))


class TensorTransform:
    """torchvision's faster way: Pillow's pixels as uint8 tensor, antialiased crop, no floats."""

    def __init__(self, size: int):
        from torchvision.transforms import InterpolationMode, v2

        bicubic = InterpolationMode.BICUBIC
        crop = v2.RandomResizedCrop(size, (0.2, 1.0), interpolation=bicubic, antialias=True)
        self._transform = v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip()])

    def __call__(self, data: bytes) -> Any:
        """File bytes -> uint8 tensor [3, size, size]."""
        return self._transform(Image.open(io.BytesIO(data)).convert("RGB"))


class TorchDataset:
    """The files with a transform, for torch's DataLoader."""

    def __init__(self, source: Source, transform: Callable[[bytes], Any]):
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        return self._transform(self._source[index]["image"])


@contextmanager
def data_loader(source: Source, workers: int) -> Iterator[Read]:
    """torch's DataLoader with the transform of MAE, as its `main_pretrain.py`, past its start."""
    from torch.utils.data import DataLoader, RandomSampler

    dataset = TorchDataset(source, MAETransform(CROP_SIZE.value))
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**6)
    batches = iter(DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers, drop_last=True))

    def run(images: int):
        for _ in itertools.islice(batches, images // BATCH):
            pass

    run(2 * BATCH)
    yield run


@contextmanager
def plain_loop(source: Source, read: Callable[..., np.ndarray], *args) -> Iterator[Read]:
    """One thread, one image after the other."""

    def run(images: int):
        for index in range(images):
            read(source[index % len(source)]["image"], *args)

    yield run


@contextmanager
def loader(source: Source, **options) -> Iterator[Read]:
    """The project's loader, past its start."""
    crop = functools.partial(crop_example, size=CROP_SIZE.value)
    rows = np.arange(BATCH)
    with Loader(source, transform=crop, batch_size=BATCH, rows=rows, seed=0, **options) as batches:

        def run(images: int):
            for _ in range(images // BATCH):
                next(batches)

        run(4 * BATCH)
        yield run


def cpu_seconds() -> float:
    """Of this process and its running children."""
    spent = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def measure(read: Read, images: int) -> tuple[float, float]:
    """Images a CPU second, images a second."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    read(images)
    return images / (cpu_seconds() - cpu), images / (time.perf_counter() - wall)


def write_scenes(folder: Path) -> float:
    """Returns the mean size of a file in KiB."""
    sizes = []
    for seed in range(FILES.value):
        scene = draw_scene(seed, size=IMAGE_SIZE.value).image
        data = simplejpeg.encode_jpeg(scene, QUALITY.value, colorsubsampling="420")
        sizes.append((folder / f"{seed:03d}.jpg").write_bytes(data))
    return sum(sizes) / len(sizes) / 1024


def torch_ways(source: Source) -> dict[str, Callable]:
    """torch's ways to read, where torch and torchvision are."""
    if not (find_spec("torch") and find_spec("torchvision")):
        print("torch and torchvision are not installed: their rows are left out")
        return {}
    import torch

    import tests.conftest  # noqa: F401 - torchvision beside a CPU build of torch

    torch.set_num_threads(1)
    size = CROP_SIZE.value
    return {
        "torchvision on tensors": functools.partial(plain_loop, source, TensorTransform(size)),
        MAE: functools.partial(plain_loop, source, MAETransform(size)),
        "DataLoader with it, 1 worker": functools.partial(data_loader, source, 1),
        "DataLoader with it, 2 workers": functools.partial(data_loader, source, 2),
    }


def main(_):
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        kib = write_scenes(Path(folder))
        source = open_source(folder)
        rng = np.random.default_rng(0)
        ways = {
            "Pillow: decode": functools.partial(plain_loop, source, pillow_decode),
            "Pillow: decode, crop": functools.partial(plain_loop, source, pillow_crop, rng),
            "decode_rgb": functools.partial(plain_loop, source, decode_rgb),
            "decode_rgb, random_resized_crop": functools.partial(plain_loop, source, our_crop, rng),
            "Loader, 1 thread": functools.partial(loader, source, threads=1),
            "Loader, 2 threads": functools.partial(loader, source, threads=2),
            "Loader, 1 worker": functools.partial(loader, source, workers=1),
            "Loader, 2 workers": functools.partial(loader, source, workers=2),
        } | torch_ways(source)
        speeds = {name: [] for name in ways}
        for _ in range(ROUNDS.value):
            for name, way in ways.items():
                with way() as read:
                    speeds[name].append(measure(read, IMAGES.value))
    print(f"{IMAGE_SIZE.value} px, quality {QUALITY.value}, {kib:.0f} KiB a file")
    medians = {name: np.median(values, axis=0) for name, values in speeds.items()}
    print("| | images / CPU s | over Pillow | over MAE's transform | images / s |")
    print("|---|---|---|---|---|")
    for name, (per_cpu, per_second) in medians.items():
        crops = name not in ("Pillow: decode", "decode_rgb")
        pillow = medians["Pillow: decode, crop" if crops else "Pillow: decode"][0]
        over = f"{per_cpu / medians[MAE][0]:.2f}" if crops and MAE in medians else "-"
        print(f"| {name} | {per_cpu:.0f} | {per_cpu / pillow:.2f} | {over} | {per_second:.0f} |")


if __name__ == "__main__":
    app.run(main)
