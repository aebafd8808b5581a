"""From files to one output: every scene is looked at first, then predicted with a progress bar."""

import collections
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import rasterio
from tqdm.auto import tqdm

from rsfm_jax.data.formats.dota import check_image_name
from rsfm_jax.data.sources import IMAGE_ENDINGS, image_files
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.detection_merging import Found
from rsfm_jax.scenes.class_raster import write_class_raster, write_class_rasters
from rsfm_jax.scenes.detection import Detector, detect, places
from rsfm_jax.scenes.features import VECTOR_ENDINGS, output_crs, write_dota, write_features
from rsfm_jax.scenes.georeference import Georeference
from rsfm_jax.scenes.raster import Reading, Scene
from rsfm_jax.scenes.segmentation import Segmenter, class_maps, count_windows

log = logging.getLogger(__name__)

# Megabytes of decoded blocks that GDAL keeps; left alone it takes 5 % of the machine. A row of
# tiles of 1,024 pixels fits up to 130,000 columns of three 8-bit bands: files that are stored in
# whole rows are decoded once.
CACHE_MB = 400

Files = dict[str, Path]  # by the name that outputs give them


def find_scenes(source: Path) -> Files:
    """A raster, or the images at any depth below a folder, by their relative paths.

    Raises:
      UserError: nothing there.
    """
    if source.is_file():
        return {source.name: source}
    if not source.is_dir():
        raise UserError(f"--input={source}: no such file or folder")
    files = {name: source / name for name in image_files(source)}
    if not files:
        raise UserError(f"--input={source}: no images, looked for {' '.join(IMAGE_ENDINGS)}")
    return files


def check_scenes(files: Files, reading: Reading) -> None:
    """Opens every scene; raises `UserError` for one that cannot be read as `reading` says."""
    for _ in _opened(files, reading):
        pass


def predict_objects(
    files: Files, reading: Reading, detector: Detector, min_score: float, output: Path
) -> None:
    """Writes the detections of all scenes as one vector file or, to `.zip`, a DOTA submission.

    Raises:
      UserError: a scene that cannot be read as `reading` says, CRSs that do not go into one file.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        georeferences, total = {}, 0
        for scene in _opened(files, reading):
            georeferences[scene.name] = scene.georeference
            total += len(places(scene, detector.windows))
        with tqdm(total=total, unit="tile", dynamic_ncols=True, disable=None) as bar:
            bands = detect(_opened(files, reading), detector, min_score, bar.update)
            if output.suffix in VECTOR_ENDINGS:
                crs = output_crs(output, georeferences)
                _tell_notes(georeferences)
                write_features(output, _counted(bands), detector.classes, crs)
            else:
                refuse_equal_stems(files)
                for name in files:
                    check_image_name(Path(name).stem, name)
                write_dota(output, _counted(bands), detector.classes)


def predict_classes(files: Files, reading: Reading, segmenter: Segmenter, output: Path) -> None:
    """Writes the class map of a scene as a COG or, to `.zip`, one for each scene.

    Raises:
      UserError: a scene that cannot be read as `reading` says.
    """
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        georeferences, total = {}, 0
        for scene in _opened(files, reading):
            georeferences[scene.name] = scene.georeference
            total += count_windows(scene, segmenter)
        _tell_notes(georeferences)
        with tqdm(total=total, unit="window", dynamic_ncols=True, disable=None) as bar:
            maps = (
                (scene, class_maps(scene, segmenter, bar.update))
                for scene in _opened(files, reading)
            )
            if output.suffix == ".zip":
                refuse_equal_stems(files)
                write_class_rasters(output, maps, segmenter)
            else:
                for scene, parts in maps:
                    write_class_raster(output, scene, segmenter, parts)


def refuse_equal_stems(files: Files) -> None:
    """Members of a zip go by file name without ending; raises `UserError` where two are equal."""
    for stem, count in collections.Counter(Path(name).stem for name in files).items():
        if count > 1:
            raise UserError(f"{count} images are named {stem}: in a zip they cannot be told apart")


def _opened(files: Files, reading: Reading) -> Iterator[Scene]:
    for name, path in files.items():
        with Scene(path, name, reading) as scene:
            yield scene


def _counted(bands: Iterable[tuple[Scene, Found]]) -> Iterator[tuple[Scene, Found]]:
    count = 0
    for scene, found in bands:
        count += len(found.scores)
        yield scene, found
    log.info("%s objects", f"{count:,}")


def _tell_notes(georeferences: dict[str, Georeference]) -> None:
    """One warning for each kind of thing to know, however many scenes it holds for."""
    names = collections.defaultdict(list)
    for name, georeference in georeferences.items():
        if georeference.note:
            names[georeference.note].append(name)
    for note, concerned in names.items():
        more = f" and {len(concerned) - 1:,} more" if len(concerned) > 1 else ""
        log.warning("%s%s: %s", concerned[0], more, note)
