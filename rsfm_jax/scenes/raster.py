"""Reading a raster of any size by windows: uint8 RGB for the network, and which pixels are data.

No data is what the file says is none (a nodata value, a mask, an alpha band), what is not finite,
and blocks that a sparse file does not store.
"""

import dataclasses
import functools
import warnings
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from rsfm_jax.errors import UserError
from rsfm_jax.scenes.georeference import georeference

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
PERCENTILES = (2, 98)  # of `--stretch=percentiles`, as GIS programs draw by default
SAMPLE = 64, 256  # windows and their side in pixels that percentiles are taken from


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pixels are to be understood.

    Attributes:
      bands: numbers from 1 of the bands shown as red, green and blue, or of one shown as grey;
        empty to go by what the file says.
      stretch: values shown as 0 and 255, or "percentiles"; None for 8-bit values as they are.
      nodata: a value that stands for no data, in addition to what the file declares.
    """

    bands: tuple[int, ...] = ()
    stretch: tuple[float, float] | str | None = None
    nodata: float | None = None


class Scene:
    """One open raster. Rows and columns are slices within its shape; use it in a `with`.

    Attributes:
      name: for messages and outputs.
      shape: (height, width) in pixels.
      georeference: where the pixels lie.
      source: the dataset behind it.

    Raises:
      UserError: not a raster, bands it does not have or does not name, a type that needs a stretch.
    """

    def __init__(self, path: Path, name: str, reading: Reading):
        self.path, self.name = path, name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self.source = rasterio.open(path)
                self.georeference = georeference(self.source)
        except RasterioError as error:
            raise UserError(f"{path}: not a raster that can be read: {_line(error)}") from error
        if not self.source.count:
            raise UserError(f"{path} is a container of rasters: export one of them as GeoTIFF")
        self.shape = self.source.shape
        self._reading = reading
        self._palette = self._read_palette()
        self.bands = self._choose_bands(reading.bands)
        self._blocks = self._stored_blocks()
        flags = (self.source.mask_flag_enums[band - 1] for band in self.bands)
        self._masked = any(MaskFlags.all_valid not in flag for flag in flags)
        self._check_types()

    def __enter__(self) -> "Scene":
        return self

    def __exit__(self, *_) -> None:
        self.source.close()

    def holds_data(self, rows: slice, columns: slice) -> bool:
        """False where no stored block of a sparse file reaches; nothing is read."""
        if self._blocks is None:
            return True
        high, wide = self.source.block_shapes[0]
        down = slice(rows.start // high, -(-rows.stop // high))
        across = slice(columns.start // wide, -(-columns.stop // wide))
        return bool(self._blocks[down, across].any())

    def read(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Pixels uint8 [h, w, 3], and which of them are data [h, w] bool (others hold anything)."""
        values = self._values(rows, columns)
        valid = self._valid(values, rows, columns)
        if self._palette is not None:
            values = np.moveaxis(self._palette[values[0]], -1, 0)
        if self.stretch is not None:
            low, high = (np.asarray(limit)[:, None, None] for limit in self.stretch)
            scaled = (np.nan_to_num(values) - low) / (high - low)
            values = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
        return np.broadcast_to(np.moveaxis(values, 0, -1), (*valid.shape, 3)), valid

    def valid(self, rows: slice, columns: slice) -> np.ndarray:
        """Which pixels are data: [h, w] bool."""
        return self._valid(self._values(rows, columns), rows, columns)

    def _valid(self, values: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        """A pixel is data where any of its bands is, as GDAL has it, and all are finite."""
        valid = np.isfinite(values).all(0)
        if self._masked:
            masks = self._read(self.source.read_masks, rows, columns)
            valid &= (masks > 0).any(0)
        if self._reading.nodata is not None:
            valid &= (values != self._reading.nodata).any(0)
        if self._blocks is not None:
            high, wide = self.source.block_shapes[0]
            y, x = (np.arange(part.start, part.stop) for part in (rows, columns))
            valid &= self._blocks[np.ix_(y // high, x // wide)]
        return valid

    def _values(self, rows: slice, columns: slice) -> np.ndarray:
        return self._read(self.source.read, rows, columns)

    def _read(self, read, rows: slice, columns: slice) -> np.ndarray:  # [bands, h, w]
        try:
            return read(self.bands, window=Window.from_slices(rows, columns))
        except RasterioError as error:
            where = f"rows {rows.start}-{rows.stop}, columns {columns.start}-{columns.stop}"
            raise UserError(f"{self.path}: cannot read {where}: {_line(error)}") from error

    def _read_palette(self) -> np.ndarray | None:
        """Colours of a palette image, uint8 [256, 3]."""
        if self.source.colorinterp[0] != ColorInterp.palette or self.source.dtypes[0] != "uint8":
            return None
        colours = self.source.colormap(1)
        return np.array([colours.get(i, (0, 0, 0))[:3] for i in range(256)], np.uint8)

    def _choose_bands(self, asked: tuple[int, ...]) -> tuple[int, ...]:
        count, colours = self.source.count, self.source.colorinterp
        if asked:
            if len(asked) not in (1, 3) or not all(1 <= band <= count for band in asked):
                raise UserError(
                    f"--bands={','.join(map(str, asked))}: give three band numbers (red, green, "
                    f"blue) or one; {self.path} has bands 1 to {count}"
                )
            return asked
        if all(colour in colours for colour in RGB):
            return tuple(colours.index(colour) + 1 for colour in RGB)
        coloured = sum(colour != ColorInterp.alpha for colour in colours)
        if coloured not in (1, 3):
            raise UserError(
                f"{self.path} has {coloured} bands and does not say which are red, green and "
                "blue: give --bands=R,G,B, numbers from 1"
            )
        return (1,) if coloured == 1 else (1, 2, 3)

    def _stored_blocks(self) -> np.ndarray | None:
        """Which blocks of a sparse GeoTIFF are in the file, [rows, columns] bool.

        None where all are, and for other formats, which do not tell.
        """
        if self.source.driver != "GTiff":
            return None
        high, wide = self.source.block_shapes[0]
        shape = -(-self.shape[0] // high), -(-self.shape[1] // wide)
        stored = np.zeros(shape, bool)
        for band in self.bands if self.source.interleaving.name == "band" else self.bands[:1]:
            for y, x in np.argwhere(~stored):
                offset = self.source.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", bidx=band)
                stored[y, x] = offset is not None
        return None if stored.all() else stored

    def _check_types(self) -> None:
        dtypes = {self.source.dtypes[band - 1] for band in self.bands}
        if any(dtype.startswith("complex") for dtype in dtypes):
            raise UserError(f"{self.path} holds complex numbers: give amplitudes")
        if self._reading.stretch is None and dtypes != {"uint8"}:
            raise UserError(
                f"{self.path} holds {', '.join(sorted(dtypes))} values: say which become black "
                "and white, --stretch=LOW,HIGH (such as 0,10000), or --stretch=percentiles"
            )

    @functools.cached_property
    def stretch(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Of each band, the values shown as 0 and as 255; None for 8-bit values as they are."""
        asked = self._reading.stretch
        if asked == "percentiles":
            return self._percentiles()
        if asked is None:
            return None
        low, high = (np.full(len(self.bands), limit) for limit in asked)
        return low, high

    def _percentiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each band, over windows evenly spread over the blocks that the file stores."""
        count, side = SAMPLE
        height, width = self.shape
        places = [
            (slice(y, min(y + side, height)), slice(x, min(x + side, width)))
            for y in range(0, height, side)
            for x in range(0, width, side)
        ]
        places = [place for place in places if self.holds_data(*place)]
        parts = []
        for rows, columns in places[:: max(1, len(places) // count)]:
            values = self._values(rows, columns)
            parts.append(values[:, self._valid(values, rows, columns)])
        sample = np.concatenate(parts, axis=1) if parts else np.zeros((len(self.bands), 0))
        if not sample.size:
            raise UserError(f"{self.path} holds no data to take percentiles of: give LOW,HIGH")
        low, high = np.percentile(sample.astype(np.float64), PERCENTILES, axis=1)
        return low, np.maximum(high, low + np.finfo(np.float32).tiny)


def _line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())
