"""Detections as map features: GeoPackage, GeoJSON, GeoParquet, or a DOTA submission.

Vector files are streams of Arrow batches, so that nothing but the band at hand is in memory.
"""

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely

from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.detection_match import Detections
from rsfm_jax.evaluation.detection_merging import Found
from rsfm_jax.evaluation.detection_submission import write_submission
from rsfm_jax.files import write_atomically
from rsfm_jax.scenes.georeference import WGS84, Georeference
from rsfm_jax.scenes.raster import Scene

SCHEMA = pa.schema(
    [
        ("geometry", pa.binary()),  # WKB polygon, counter-clockwise
        ("image", pa.string()),
        ("class", pa.string()),
        ("class_id", pa.int32()),
        ("score", pa.float32()),
        ("angle", pa.float64()),  # degrees clockwise from north to the side `width_m`
        ("width_m", pa.float64()),  # the longer side
        ("height_m", pa.float64()),
    ]
)
VECTOR_DRIVERS = {
    ".gpkg": ("GPKG", {}),
    ".geojson": ("GeoJSON", {"RFC7946": "YES"}),
}

VECTOR_ENDINGS = (*VECTOR_DRIVERS, ".parquet")

Bands = Iterable[tuple[Scene, Found]]


def output_crs(path: Path, georeferences: dict[str, Georeference]) -> pyproj.CRS | None:
    """The CRS of a vector file of these scenes: theirs, or WGS 84 for GeoJSON (RFC 7946).

    Raises:
      UserError: scenes of several CRSs in a format that has one for all, or that of a scene has
        no way to WGS 84.
    """
    (first, one), *others = georeferences.items()
    geojson = path.suffix == ".geojson"
    for name, other in others:
        differs = (one.crs is None) != (other.crs is None) if geojson else one.crs != other.crs
        if differs:
            raise UserError(
                f"{first} has CRS {_name(one.crs)}, {name} has {_name(other.crs)}: predict them "
                "apart" + ("" if geojson else ", or write .geojson, which is in EPSG:4326 for all")
            )
    for name, other in georeferences.items():
        if geojson and other.is_local:
            raise UserError(
                f"{name} has the local CRS {_name(other.crs)}, which cannot become EPSG:4326: "
                "write .gpkg"
            )
    return WGS84 if geojson and one.crs else one.crs


def _name(crs: pyproj.CRS | None) -> str:
    return "none" if crs is None else ":".join(crs.to_authority() or (crs.name,))


def write_features(
    path: Path, bands: Bands, classes: tuple[str, ...], crs: pyproj.CRS | None
) -> None:
    """Writes `.gpkg`, `.geojson` or `.parquet` as the bands come; the ending tells which."""
    batches = (_batch(scene, found, classes, crs) for scene, found in bands)
    if path.suffix == ".parquet":
        write_atomically(path, lambda temporary: _write_parquet(temporary, batches, crs))
    else:
        write_atomically(path, lambda temporary: _write_ogr(temporary, path.stem, batches, crs))


def write_dota(path: Path, bands: Bands, classes: tuple[str, ...]) -> None:
    """Writes a DOTA Task 1 zip; images go by their file names without ending, in pixels."""
    parts = [
        Detections(
            np.full(len(found.scores), Path(scene.name).stem),
            to_corners(found.boxes),
            found.classes,
            found.scores,
        )
        for scene, found in bands
    ]
    columns = ("image", "polygons", "labels", "scores")
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in columns]
    write_submission(path, Detections(*joined), classes)


def _batch(
    scene: Scene, found: Found, classes: tuple[str, ...], crs: pyproj.CRS | None
) -> pa.RecordBatch:
    georeference, count = scene.georeference, len(found.scores)
    corners = to_corners(found.boxes)  # [N, 4, 2] pixels
    points = georeference.locate(corners.reshape(-1, 2))
    if crs != georeference.crs:
        points = georeference.lon_lat(points)
    polygons = shapely.orient_polygons(shapely.polygons(points.reshape(-1, 4, 2)))
    sizes = georeference.measure(corners)
    columns = [
        shapely.to_wkb(polygons),
        [scene.name] * count,
        [classes[i] for i in found.classes],
        found.classes.astype(np.int32),
        found.scores.astype(np.float32),
        *(_known(values) for values in (sizes.angle, sizes.width, sizes.height)),
    ]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)]
    return pa.record_batch(arrays, schema=SCHEMA)


def _known(values: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_invalid(values)


def _write_ogr(
    path: Path, layer: str, batches: Iterator[pa.RecordBatch], crs: pyproj.CRS | None
) -> None:
    driver, options = VECTOR_DRIVERS[path.suffix]
    if crs is None:
        options = {}  # RFC 7946 knows degrees only
    with _Relay(batches) as relay, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(SCHEMA, relay),
            path,
            layer=layer,
            driver=driver,
            geometry_name="geometry",
            geometry_type="Polygon",
            crs=crs and crs.to_wkt(),
            **options,
        )


class _Relay:
    """An iterator whose own failure is raised again at the end of the `with`.

    On its way through GDAL it becomes a message that no longer says what happened.
    """

    def __init__(self, items: Iterator):
        self._items = items
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator:
        try:
            yield from self._items
        except BaseException as failure:
            self._failure = failure
            raise

    def __enter__(self) -> "_Relay":
        return self

    def __exit__(self, *_) -> None:
        if self._failure is not None:
            raise self._failure


def _write_parquet(path: Path, batches: Iterator[pa.RecordBatch], crs: pyproj.CRS | None) -> None:
    """GeoParquet 1.1 (geoparquet.org): WKB, with the CRS as PROJJSON; null where unknown."""
    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        "crs": crs and crs.to_json_dict(),
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    schema = SCHEMA.with_metadata({"geo": json.dumps(geo)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch.cast(schema))
