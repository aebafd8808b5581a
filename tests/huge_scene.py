"""python -m tests.huge_scene FOLDER detect|segment: predicts a huge sparse scene, prints the peak.

The peak is of resident memory in bytes; the scene has 100,000 pixels a side and stores two
islands of 600 pixels.
"""

import re
import sys
from pathlib import Path

import rasterio
from rasterio.windows import Window

from rsfm_jax.scenes import prediction
from tests import painted

SIDE = 100_000


def write(path: Path) -> None:
    """The scene, a few hundred kilobytes."""
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", tiled=True,
        blockxsize=512, blockysize=512, compress="DEFLATE", SPARSE_OK=True, BIGTIFF="YES",
        crs="EPSG:32631", transform=painted.NORTH_UP,
    ) as target:  # fmt: skip
        island = painted.paint(600, 600, [[300, 300, 200, 80, 0.5]]).transpose(2, 0, 1)
        for start in (6_000, SIDE - 7_000):
            target.write(island, window=Window(start, start, 600, 600))


def main(folder: str, kind: str) -> None:
    """Writes, predicts, prints."""
    scene = Path(folder, "scene.tif")
    write(scene)
    if kind == "detect":
        arguments = painted.detector(1024, 256), 0.0, Path(folder, "out.gpkg")
        prediction.predict_objects({"scene": scene}, painted.PLAIN, *arguments)
    else:
        arguments = painted.segmenter(512, 128), Path(folder, "out.tif")
        prediction.predict_classes({"scene": scene}, painted.PLAIN, *arguments)
    print(peak())


def peak() -> int:
    """Bytes. Not getrusage, which begins with the peak of the process that has started this one."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
