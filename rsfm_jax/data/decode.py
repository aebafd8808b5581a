"""Encoded image bytes -> RGB pixels, whatever the file holds.

Plain JPEGs, nearly all of a pretraining set, go through libjpeg-turbo (`simplejpeg`, about
1.4 times as fast as Pillow, the same pixels); everything else, and whatever libjpeg-turbo
refuses, goes through Pillow, which decides whether the file is readable; OpenCV reads 16 bits.

What becomes of the unusual:

* grey, 1-bit, palette, CMYK and YCCK become RGB by Pillow's conversion;
* transparency is dropped: the colour stored under it stays;
* the EXIF orientation is applied, so that pixels stand as the picture is shown;
* 16-bit values lose their low bits. The range is the largest value of the image, rounded up
  to a power of two (at least 2**8): full-range files keep their high byte, and 11- or 12-bit
  sensor data kept in 16 bits stays visible instead of turning black. Brightness may
  therefore differ by a power of two between 16-bit files; rescale them beforehand where it
  has to be comparable;
* of several frames or pages the first is taken;
* 32-bit and floating-point pixels are refused: there is no range to guess.
"""

import io
import re

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageFile, ImageOps

# A quarter of a GiB of RGB, Pillow's own limit. Larger scenes are cut into tiles beforehand.
MAX_PIXELS = 2**28 // 3
Image.MAX_IMAGE_PIXELS = None  # every reader here has its own bound, some beyond Pillow's guard


class BadImage(ValueError):
    """The bytes hold no image that can be used; the message is the reason, one line."""


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the image as uint8 [H, W, 3].

    `max_pixels` bounds H * W and is checked from the header, before any pixel is decoded.

    Raises:
      BadImage: truncated, undecodable, oversized, or of a pixel type without a known range.
    """
    try:
        pixels = _decode_plain_jpeg(data, max_pixels)
        return _decode_any(data, max_pixels) if pixels is None else pixels
    except BadImage:
        raise
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error...
        raise BadImage(_reason(data, error)) from error


def decode_mask(data: bytes | np.ndarray, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Class indices uint8 [H, W] of an 8-bit grey or palette image, or of such an array.

    Raises:
      BadImage: truncated, undecodable, oversized, or of another pixel type.
    """
    if isinstance(data, np.ndarray):
        return data
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size, max_pixels)
            if image.mode not in ("L", "P"):
                raise BadImage(f"mask with pixels of type {image.mode}: 8-bit class indices needed")
            return np.array(image)
    except BadImage:
        raise
    except Exception as error:
        raise BadImage(f"mask: {_reason(data, error)}") from error


def _decode_plain_jpeg(data: bytes, max_pixels: int) -> np.ndarray | None:
    """Pixels of an upright grey or YCbCr/RGB JPEG; None for anything Pillow should look at."""
    if not data.startswith(b"\xff\xd8\xff") or b"Exif\0\0" in data[: 1 << 16]:
        return None
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
        if colour_space in ("CMYK", "YCCK"):
            return None
        _check_size(width, height, max_pixels)
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except BadImage:
        raise
    except ValueError:  # also raised for blemishes that do not touch the pixels
        return None


def _decode_any(data: bytes, max_pixels: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        _check_size(*image.size, max_pixels)
        if _is_16_bit(image):
            return _decode_16_bit(data)
        if image.mode in ("I", "F"):
            raise BadImage(f"pixels of 32-bit type {image.mode}: convert to 8 or 16 bit first")
        if image.mode == "P":
            # Straight to RGB, Pillow warns when the palette has transparent entries.
            return _upright(image.convert("RGBA"))
        return _upright(image)


def _upright(image: Image.Image) -> np.ndarray:
    """RGB as the EXIF orientation asks."""
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _is_16_bit(image: ImageFile.ImageFile) -> bool:
    """Whether the file stores 16 bits a channel.

    The mode tells so for grey only: Pillow opens 16-bit colour as 8-bit "RGB". The raw mode
    that its decoder was set up with, such as "RGB;16B", tells in both cases.
    """
    return image.mode.startswith("I;16") or any(
        re.search(";16[BLN]", str(tile.args)) for tile in image.tile
    )


def _decode_16_bit(data: bytes) -> np.ndarray:
    """By OpenCV, upright: of 16-bit colour Pillow keeps the high bytes only."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # [H, W, 3], blue first
    if values is None or values.dtype != np.uint16:
        raise BadImage("16-bit image, truncated or of a kind that cannot be decoded")
    bits = max(8, int(values.max()).bit_length())
    return np.ascontiguousarray(values[..., ::-1] >> (bits - 8), np.uint8)


def _check_size(width: int, height: int, max_pixels: int):
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} pixels, over the limit of {max_pixels:,}: tile it")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image file of a known format"
    return " ".join(f"{error}".split()) or type(error).__name__
