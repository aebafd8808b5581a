"""Where examples come from: a TFDS directory, a folder of images, or drawn scenes.

`open_source` tells them apart. A source is random access and pickles, so that any example can
be read from any thread or worker process.
"""

import functools
import os
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rsfm_jax.data.decode import BadImage
from rsfm_jax.data.formats import dota
from rsfm_jax.data.formats.windows import area_inside
from rsfm_jax.data.synthetic import COVER, SCENE_KINDS, Scene, draw_scene
from rsfm_jax.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
SPLIT_FOLDERS = ("train", "val", "validation", "test")
SYNTHETIC_SPLITS = ("train", "val", "test")
SCENE_SIZE, SCENES_KEPT = 128, 4096


class Source(Protocol):
    """Examples 0 .. len - 1."""

    # What the numbers of an example's labels mean; each empty where there are no such labels.
    class_names: tuple[str, ...]  # of `label`, the whole image's
    object_names: tuple[str, ...]  # of `labels`, one an object
    cover_names: tuple[str, ...]  # of the pixels of `mask`

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """Returns {"image": encoded bytes or uint8 [H, W, 3]} and the labels that there are.

        "label": int. Objects: "polygons" float32 [N, 4, 2] in pixels, "labels" int [N],
        "difficult" and "truncated" uint8 [N]. "mask": encoded bytes or uint8 [H, W], class
        indices, 255 = ignored. Prepared sets have "image_id", a text, too.

        Raises OSError or BadImage where the example cannot be read.
        """

    def name(self, index: int) -> str:
        """The file or record, for messages."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other, as JSON and without its path: a resumed run compares."""

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [N] without reading images where possible; None when unlabelled."""


def open_source(source: str, split: str = "train") -> Source:
    """Opens a source by its name in the configuration.

    Args:
      source: `synthetic` or `synthetic:N` for N drawn scenes (10,000 unless told),
        `synthetic:N:KIND` for N of one of SCENE_KINDS, a TFDS directory in array_record format
        (NAME[/CONFIG]/VERSION or a folder above it), or a folder of images, see `FolderSource`.
      split: for TFDS any split of the data set, with slices such as `train[:90%]`; for the
        others one of the names that the source has.

    Raises:
      UserError: nothing there, nothing in it, or no such split.
    """
    if source.split(":")[0] == "synthetic":
        return SyntheticSource(_scene_kinds(source), split)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"data source {source!r} {problem}: give a folder of images, a TFDS directory "
            "or the word synthetic"
        )
    prepared = _tfds_directories(folder)
    if len(prepared) > 1:
        listed = ", ".join(str(path) for path in prepared)
        raise UserError(f"{folder} holds several prepared data sets, name one of: {listed}")
    return TfdsSource(prepared[0], split) if prepared else FolderSource(folder, split)


class FolderSource:
    """Images below a folder, in the order of their relative paths.

    With two or more subfolders and every image in one of them, the subfolders directly below
    the folder are the classes, in alphabetical order. A folder whose subfolders are all named
    train, val, validation or test holds those splits, each laid out as above; any other folder
    is one split, `train`. Hidden files and folders are left out.
    """

    object_names: tuple[str, ...] = ()
    cover_names: tuple[str, ...] = ()

    def __init__(self, folder: Path, split: str = "train"):
        self.folder = _split_folder(folder, split)
        self._files = image_files(self.folder)
        if not self._files:
            raise UserError(
                f"no images in {self.folder}: looked for files ending in " + " ".join(IMAGE_ENDINGS)
            )
        tops = [file.split("/")[0] if "/" in file else None for file in self._files]
        classes = sorted({top for top in tops if top is not None})
        labelled = None not in tops and len(classes) > 1
        self.class_names: tuple[str, ...] = tuple(classes) if labelled else ()
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = (
            np.array([numbers[top] for top in tops if top is not None], np.int32)
            if numbers
            else None
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        example = {"image": (self.folder / self._files[index]).read_bytes()}
        return example if self.labels is None else example | {"label": int(self.labels[index])}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """A checksum of the relative paths."""
        return {"files": zlib.crc32("\n".join(self._files).encode())}

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.folder / self._files[index])


class TfdsSource:
    """A prepared TFDS directory in array_record format, read without TensorFlow.

    It needs a feature `image`; features `label` (ClassLabel), `labels` (of ClassLabel) and
    `mask` (LabeledImage) are labels with names.
    """

    def __init__(self, directory: Path, split: str = "train"):
        import tensorflow_datasets as tfds

        self._split, self._where = split, f"{split} of {directory}"
        try:
            builder = tfds.builder_from_directory(directory)
        except Exception as error:  # unreadable metadata raises many kinds
            raise UserError(f"{directory} cannot be opened, prepare it again: {error}") from error
        features = dict(builder.info.features.items())
        if "image" not in features:
            raise UserError(f"{directory} has no feature named image, only {', '.join(features)}")
        try:
            encoded = {"image", "mask"} & features.keys()
            self._records = builder.as_data_source(
                split, decoders={key: tfds.decode.SkipDecoding() for key in encoded}
            )
        except NotImplementedError as error:  # the files are not array_record
            raise UserError(
                f"{directory} is stored as {builder.info.file_format.value}: prepare it again "
                "with file_format array_record"
            ) from error
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            raise UserError(f"{directory} has no split {split!r}, it has: {splits}") from error
        if len(self._records) == 0:
            raise UserError(f"{self._where} is empty")
        parts = builder.info.splits[split].file_instructions
        missing = [part.filename for part in parts if not Path(part.filename).is_file()]
        if missing:
            raise UserError(
                f"{missing[0]} is missing, one of {len(missing)} of the {len(parts)} files of "
                f"{self._where}: put it back or prepare the set again"
            )
        self._data_set = builder.info.full_name
        self.class_names = _names(features.get("label"))
        self.object_names = _names(features.get("labels"))
        self.cover_names = _names(features.get("mask"))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        try:
            example = self._records[index]
        except Exception as error:  # array_record and the record's parser raise many kinds
            raise BadImage(f"unreadable record: {error}") from error
        if self.object_names:  # TFDS reads a sequence of nothing as floats
            example["labels"] = np.asarray(example["labels"], np.int64)
        return example

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Name and version of the data set, and the split."""
        return {"data set": self._data_set, "split": self._split}

    def name(self, index: int) -> str:
        """The record's number, split and directory."""
        return f"record {index} in {self._where}"

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """int32 [N], -1 where unreadable; reads every record once, about 25,000 a second."""
        if not self.class_names:
            return None
        return np.array([self._label(index) for index in range(len(self))], np.int32)

    def _label(self, index: int) -> int:
        try:
            return self[index]["label"]
        except BadImage:
            return -1


class SyntheticSource:
    """Drawn aerial scenes of the given kinds, which are their labels; splits share no scene.

    Scenes are 128 pixels a side. Drawing one takes about 10 ms, so the first 4,096 are kept in
    memory (200 MB).
    """

    class_names: tuple[str, ...] = SCENE_KINDS
    object_names: tuple[str, ...] = dota.CLASSES["2.0"]
    cover_names: tuple[str, ...] = COVER

    def __init__(self, kinds: np.ndarray, split: str = "train"):
        if split not in SYNTHETIC_SPLITS:
            listed = ", ".join(SYNTHETIC_SPLITS)
            raise UserError(f"synthetic scenes have no split {split!r}, they have: {listed}")
        self._split = split
        self._drawn: dict[int, Scene] = {}
        self.labels = kinds

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        label = int(self.labels[index])
        scene = self._drawn.get(index)
        if scene is None:
            seed = (SYNTHETIC_SPLITS.index(self._split) << 32) + index
            scene = draw_scene(seed, SCENE_SIZE, SCENE_KINDS[label])
            if index < SCENES_KEPT:
                self._drawn[index] = scene
        count = len(scene.classes)
        inside = area_inside(scene.polygons, 0, 0, SCENE_SIZE, SCENE_SIZE)
        return {
            "image": scene.image,
            "label": label,
            "polygons": scene.polygons,
            "labels": np.array([self.object_names.index(c) for c in scene.classes], np.int64),
            "difficult": np.zeros(count, np.uint8),
            "truncated": (inside < 1 - 1e-6).astype(np.uint8),
            "mask": scene.mask,
        }

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The split, and the kind where all are of one: scenes are drawn from their number."""
        kinds = np.unique(self.labels)
        one = {"kind": SCENE_KINDS[kinds[0]]} if len(kinds) == 1 else {}
        return {"split": self._split} | one

    def name(self, index: int) -> str:
        """The scene's number."""
        return f"synthetic {self._split} scene {index}"


def _names(feature: Any) -> tuple[str, ...]:
    """Class names of a TFDS feature; () for none, or one that has no names."""
    inner = getattr(feature, "feature", feature)  # of a Sequence
    names = getattr(inner, "names", None) or getattr(inner, "labels", None)
    return tuple(names or ())


def _scene_kinds(source: str) -> np.ndarray:
    """int32 [N], the kind of every scene: all in turn, or the one that is named."""
    _, colon, given = source.partition(":")
    count, _, kind = given.partition(":")
    if colon and (not count.isdecimal() or int(count) < 1):
        raise UserError(f"data source {source!r}: write synthetic:N with N scenes, N >= 1")
    if kind and kind not in SCENE_KINDS:
        raise UserError(
            f"data source {source!r}: no kind {kind!r}, there are: {', '.join(SCENE_KINDS)}"
        )
    numbers = np.arange(int(count or 10_000), dtype=np.int32) % len(SCENE_KINDS)
    return np.full_like(numbers, SCENE_KINDS.index(kind)) if kind else numbers


def _tfds_directories(folder: Path) -> list[Path]:
    """Prepared data sets at NAME[/CONFIG]/VERSION when given any folder from it to above NAME."""
    depths = ("", "*/", "*/*/", "*/*/*/")
    infos = (path for depth in depths for path in folder.glob(f"{depth}dataset_info.json"))
    return sorted(info.parent for info in infos)


def _split_folder(folder: Path, split: str) -> Path:
    subfolders = sorted(path.name for path in _visible(os.scandir(folder)) if path.is_dir())
    splits = subfolders if subfolders and set(subfolders) <= set(SPLIT_FOLDERS) else []
    if split not in (splits or ["train"]):
        has = f"has: {', '.join(splits)}" if splits else "is one split, train"
        raise UserError(f"{folder} has no split {split!r}, it {has}")
    return folder / split if splits else folder


def image_files(folder: Path) -> list[str]:
    """Relative paths with forward slashes, sorted."""
    files = []
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS)]
        relative = Path(parent).relative_to(folder)
        files += [(relative / name).as_posix() for name in images if not name.startswith(".")]
    return sorted(files)


def _visible(entries):
    return (entry for entry in entries if not entry.name.startswith("."))
