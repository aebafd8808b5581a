"""What a segmentation run shows of itself: scores of whole tiles, pictures, submissions."""

import colorsys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rsfm_jax.data.decode import BadImage, decode_mask
from rsfm_jax.data.elements import read_example
from rsfm_jax.data.formats import loveda
from rsfm_jax.data.labelled import refuse_other_classes
from rsfm_jax.data.segmentation_sources import open_segmentation
from rsfm_jax.data.sources import Source
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation import segmentation
from rsfm_jax.evaluation.loveda_submission import write_submission
from rsfm_jax.evaluation.segmentation import Protocol
from rsfm_jax.evaluation.segmentation_figures import draw_confusion, draw_examples
from rsfm_jax.evaluation.sliding_windows import Tile, Windows, class_maps, segment
from rsfm_jax.sharding.mesh import Placement
from rsfm_jax.sharding.rules import batch_sharding, replicated
from rsfm_jax.training.state import Variables


class TileEvaluation:
    """Confusion counts over `config.eval.source`'s tiles; pictures; LoveDA's zip where asked.

    Windows are as large as training's crops, `config.eval.stride` apart.
    """

    def __init__(
        self,
        config: Any,
        protocol: Protocol,
        predict: Callable[[Variables, jax.Array], jax.Array],
        mesh: Mesh,
    ):
        self.protocol = protocol
        self._source = config.eval.source or config.data.source
        self._split = config.eval.split
        self._submission_split = config.eval.submission_split
        self._windows = Windows(config.data.image_size, config.eval.stride)
        self._windows.starts(0)  # refuses a stride of more than a window
        if self._submission_split and protocol.classes != loveda.CLASSES:
            raise UserError(
                f"config.eval.submission_split={self._submission_split}: submissions are for "
                "LoveDA's server, but config.data.classes are not LoveDA's"
            )
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        self._batch_size = -(-config.eval.batch_size // shards) * shards
        self._placement = Placement(batch_sharding(mesh), self._batch_size)
        self._predict = jax.jit(predict, out_shardings=replicated(mesh))

    def open(self) -> list[Source]:
        """The sources that evaluation reads: the labelled tiles, and those to submit if any."""
        splits = [self._split, *filter(None, [self._submission_split])]
        return [open_masked(self._source, split, self.protocol) for split in splits]

    def __call__(self, variables: Variables, workdir: Path) -> dict[str, float]:
        """Metrics `miou`, `mf1`, `oa`, and `iou/CLASS` and `f1/CLASS` of every class that occurs.

        Every process reads all tiles and computes its rows of every batch of windows; the first
        one writes `workdir`/figures/{tiles,confusion}.png and `workdir`/submission.zip.
        """
        predict = partial(self._run, variables)
        labelled, *unlabelled = self.open()
        evaluation = segmentation.evaluate(
            read_tiles(labelled), predict, self.protocol, self._batch_size, self._windows
        )
        if jax.process_index() == 0:
            figures = workdir / "figures"
            draw_examples(figures / "tiles.png", evaluation.examples, self.protocol)
            draw_confusion(figures / "confusion.png", evaluation.counts, self.protocol)
        for source in unlabelled:
            self._submit(source, predict, workdir / "submission.zip")
        return segmentation.score(evaluation.counts).as_metrics(self.protocol.classes)

    def _run(self, variables: Variables, windows: np.ndarray) -> jax.Array:
        """Class scores of windows that every process has, whole on every process."""
        return self._predict(variables, self._placement(windows[self._placement.rows]))

    def _submit(self, source: Source, predict: Callable, path: Path) -> None:
        bands = segment(
            read_tiles(source), predict, len(loveda.CLASSES), self._batch_size, self._windows
        )
        maps = ((tile.name, classes) for tile, classes in class_maps(bands))
        if jax.process_index() == 0:
            write_submission(path, maps)
        for _ in maps:  # the other processes take part in every prediction
            pass


def protocol_of(config: Any) -> Protocol:
    """What `config.data.classes|colours|ignored` say; raises `UserError` where they disagree."""
    data = config.data
    colours = tuple(map(tuple, data.colours)) or _wheel(len(data.classes))
    if len(colours) != len(data.classes):
        raise UserError(
            f"config.data.colours has {len(colours)} colours, but config.data.classes "
            f"{len(data.classes)} names; () takes a wheel of colours"
        )
    return Protocol(tuple(data.classes), colours, tuple(data.ignored))


def open_masked(source: str, split: str, protocol: Protocol) -> Source:
    """`open_segmentation`, for masks that mean the protocol's classes.

    Raises:
      UserError: as there, and for masks of other classes.
    """
    opened = open_segmentation(source, split)
    named = enumerate(opened.cover_names)
    counted = [name for value, name in named if value not in protocol.ignored]
    if opened.cover_names:
        refuse_other_classes(counted, protocol.classes, f"the masks of data source {source!r}")
    return opened


def read_tiles(source: Source) -> Iterator[Tile]:
    """Every image of a source, whole; raises `UserError` naming one that cannot be read."""
    for index in range(len(source)):
        try:
            example = read_example(source, index)
            mask = decode_mask(example["mask"]) if "mask" in example else None
        except (BadImage, OSError) as error:
            raise UserError(f"{source.name(index)}: {error}") from error
        yield Tile(_name(example, source.name(index)), example["image"], mask)


def _name(example: dict, file: str) -> str:
    """The published name of an image where the source knows it."""
    image_id = example.get("image_id", file)
    return image_id.decode() if isinstance(image_id, bytes) else image_id


def _wheel(count: int) -> segmentation.Colours:
    """Colours as far apart in hue as can be."""
    colours = (colorsys.hsv_to_rgb(number / count, 0.8, 1.0) for number in range(count))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours)
