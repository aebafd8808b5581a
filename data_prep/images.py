"""Reading raw pictures and encoding stored ones."""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from rsfm_jax.data.decode import BadImage, decode_mask, decode_rgb
from rsfm_jax.errors import UserError

# Whole scenes are cut up here: MillionAID reaches 31,672 pixels a side, DOTA v2.0 29,200.
MAX_PIXELS = 2**30

QUALITY = 90  # of shrunk pretraining pictures


def read_bytes(path: Path) -> bytes:
    """Raises UserError when the file is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def read_rgb(path: Path) -> tuple[bytes, np.ndarray]:
    """The file's bytes and its pixels uint8 [H, W, 3]. Raises UserError naming the file."""
    data = read_bytes(path)
    try:
        return data, decode_rgb(data, MAX_PIXELS)
    except BadImage as error:
        raise UserError(f"{path}: {error}") from error


def read_values(path: Path) -> np.ndarray:
    """A mask's class indices as stored, uint8 [H, W]. Raises UserError naming the file."""
    try:
        return decode_mask(read_bytes(path))
    except BadImage as error:
        raise UserError(f"{path}: {error}") from error


def encode_jpeg(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """uint8 [H, W, 3] -> JPEG; colour at half resolution below quality 95."""
    subsampling = "420" if quality < 95 else "444"
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", subsampling)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB or [H, W] -> PNG."""
    ordered = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(".png", ordered)[1].tobytes()


def lossless(data: bytes, pixels: np.ndarray) -> bytes:
    """The file itself where it is plain RGB JPEG or PNG, otherwise its pixels as PNG."""
    return data if is_plain_jpeg(data) or _is_plain_png(data) else encode_png(pixels)


def shrink(pixels: np.ndarray, short_side: int) -> np.ndarray:
    """Area-averages to `short_side` pixels on the shorter side; never enlarges."""
    height, width = pixels.shape[:2]
    factor = short_side / min(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def is_plain_jpeg(data: bytes) -> bool:
    """Whether every reader sees the same RGB: no grey, CMYK or orientation to take care of."""
    if not data.startswith(b"\xff\xd8\xff") or b"Exif\0\0" in data[: 1 << 16]:
        return False
    try:
        return simplejpeg.decode_jpeg_header(data)[2] in ("YCbCr", "RGB")
    except ValueError:
        return False


def _is_plain_png(data: bytes) -> bool:
    # Bit depth 8 and colour type 2 (RGB, no palette or alpha) in the header chunk.
    return data.startswith(b"\x89PNG") and data[24:26] == b"\x08\x02"
