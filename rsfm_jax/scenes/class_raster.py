"""Class maps as cloud-optimised GeoTIFFs: tiled, compressed, with overviews, names and colours."""

import json
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from rsfm_jax.files import write_atomically, write_zip
from rsfm_jax.scenes.raster import Scene
from rsfm_jax.scenes.segmentation import NODATA, Segmenter

BLOCK = 512  # pixels a side


Parts = Iterable[tuple[slice, slice, np.ndarray]]  # (rows, columns, classes uint8 [h, w])


def write_class_raster(path: Path, scene: Scene, segmenter: Segmenter, parts: Parts) -> None:
    """Writes the parts of a class map, with the scene's georeference, as one uint8 band.

    Values are class indices, 255 is no data. Colours are the colour table; names are the tags
    `class_0`, `class_1` ... of the band and, as a JSON list, the tag `classes` of the file. GDAL
    makes such files from finished ones only, so the parts go to a plain GeoTIFF beside it first;
    blocks that hold no data are not stored in either.
    """

    def write(temporary: Path) -> None:
        plain = temporary.with_suffix(".parts.tif")
        try:
            with _create(plain, scene, segmenter) as target:
                for rows, columns, classes in parts:
                    if (classes != NODATA).any():
                        target.write(classes, 1, window=Window.from_slices(rows, columns))
            rasterio.shutil.copy(
                plain, temporary, driver="COG", BLOCKSIZE=BLOCK, COMPRESS="DEFLATE",
                OVERVIEW_RESAMPLING="MODE", SPARSE_OK="YES", BIGTIFF="IF_SAFER",
                NUM_THREADS="ALL_CPUS",
            )  # fmt: skip
        finally:
            plain.unlink(missing_ok=True)

    write_atomically(path, write)


def write_class_rasters(
    path: Path, maps: Iterable[tuple[Scene, Parts]], segmenter: Segmenter
) -> None:
    """Writes a zip of the class maps of several scenes, named as their images, ending in .tif."""

    def members() -> Iterator[tuple[str, bytes]]:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            for scene, parts in maps:
                raster = Path(folder, Path(scene.name).stem + ".tif")
                write_class_raster(raster, scene, segmenter, parts)
                yield raster.name, raster.read_bytes()
                raster.unlink()

    write_zip(path, members())


def _create(path: Path, scene: Scene, segmenter: Segmenter) -> rasterio.io.DatasetWriter:
    source, (height, width) = scene.source, scene.shape
    with warnings.catch_warnings():  # a scene without georeference has been told of
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        target = rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=1, dtype="uint8",
            nodata=NODATA, crs=source.crs, transform=source.transform, tiled=True,
            blockxsize=BLOCK, blockysize=BLOCK, compress="DEFLATE", SPARSE_OK=True,
            BIGTIFF="IF_SAFER",
        )  # fmt: skip
    points, points_crs = source.gcps
    if points and source.transform.is_identity:
        target.gcps = points, points_crs
    target.write_colormap(1, dict(enumerate(segmenter.colours)))
    target.set_band_description(1, "class")
    target.update_tags(1, **{f"class_{i}": name for i, name in enumerate(segmenter.classes)})
    target.update_tags(classes=json.dumps(segmenter.classes))
    return target
