import io
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rsfm_jax.data.decode import BadImage, decode_rgb

REAL = Path(__file__).parents[2] / "shared/data/real"
SMOOTH = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=2
)
FULL_RANGE = np.random.default_rng(1).integers(0, 2**16, (24, 32, 3)).astype(np.uint16)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode_16_bit(pixels: np.ndarray, ending: str) -> bytes:
    """OpenCV's encoder: Pillow cannot write 16-bit colour."""
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return cv2.imencode(ending, pixels)[1].tobytes()


def pillow(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


RGB = Image.fromarray(SMOOTH)
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
FILES = {
    "jpeg": encode(RGB, "JPEG", quality=90),
    "progressive": encode(RGB, "JPEG", progressive=True, subsampling=2),
    "grey jpeg": encode(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": encode(RGB.convert("CMYK"), "JPEG"),
    "png": encode(RGB, "PNG"),
    "grey png": encode(RGB.convert("L"), "PNG"),
    "1-bit png": encode(RGB.convert("1"), "PNG"),
    "palette": encode(PALETTE, "PNG"),
    "palette with transparent entries": encode(PALETTE, "PNG", transparency=bytes(range(64))),
    "palette with a transparent colour": encode(PALETTE, "GIF", transparency=3),
    "rgba": encode(Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 0]])), "PNG"),
    "grey and alpha": encode(RGB.convert("LA"), "PNG"),
    "tiff": encode(RGB, "TIFF", compression="tiff_lzw"),
    "cmyk tiff": encode(RGB.convert("CMYK"), "TIFF"),
    "webp": encode(RGB, "WEBP", lossless=True),
    "bmp": encode(RGB, "BMP"),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_equals_pillow(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_rgb(FILES[kind])
    assert decoded.dtype == np.uint8 and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pillow(FILES[kind]))


def test_transparency_keeps_the_colour_below():
    pixels = np.dstack([SMOOTH, np.zeros_like(SMOOTH[..., 0])])
    np.testing.assert_array_equal(decode_rgb(encode(Image.fromarray(pixels), "PNG")), SMOOTH)


def test_adobe_ycck_has_the_colours_of_its_inks():
    """libjpeg-turbo stores inverted inks, so c = 255 means no cyan."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., :] = (255, 128, 0, 200)
    data = simplejpeg.encode_jpeg(inks, 95, colorspace="CMYK", colorsubsampling="444")
    assert simplejpeg.decode_jpeg_header(data)[2] == "YCCK"
    expected = inks[0, 0, :3].astype(int) * 200 / 255
    assert np.abs(decode_rgb(data) - expected).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encode(RGB, kind, exif=exif)
        np.testing.assert_array_equal(decode_rgb(data), pillow(data))


def test_exif_orientation_by_hand():
    """6: the camera was turned, so the stored left column is the shown top row."""
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = decode_rgb(encode(RGB, "PNG", exif=exif))
    assert shown.shape == (64, 48, 3)
    np.testing.assert_array_equal(shown[0], SMOOTH[::-1, 0])
    deep = Image.fromarray(FULL_RANGE[..., 0])
    for kind in ("PNG", "TIFF"):
        shown = decode_rgb(encode(deep, kind, exif=exif))
        np.testing.assert_array_equal(shown[0, :, 2], FULL_RANGE[::-1, 0, 0] >> 8)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("bands", ["grey", "rgb", "rgba"])
def test_16_bit_full_range_keeps_the_high_byte(ending, bands):
    rgba = np.dstack([FULL_RANGE, FULL_RANGE[..., 0]])
    pixels = {"grey": FULL_RANGE[..., 1], "rgb": FULL_RANGE, "rgba": rgba}[bands]
    expected = (pixels >> 8).astype(np.uint8)
    expected = np.dstack([expected] * 3) if bands == "grey" else expected[..., :3]
    np.testing.assert_array_equal(decode_rgb(encode_16_bit(pixels, ending)), expected)


def test_16_bit_grey_and_alpha():
    grey = FULL_RANGE[..., 0]
    lines = np.stack([grey, grey[::-1]], -1).astype(">u2")
    rows = b"".join(b"\0" + line.tobytes() for line in lines)
    decoded = decode_rgb(png(32, 24, 16, 4, rows))
    np.testing.assert_array_equal(decoded, np.dstack([grey >> 8] * 3))


@pytest.mark.parametrize(("bits", "shift"), [(5, 0), (8, 0), (11, 3), (12, 4), (16, 8)])
@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_sensor_bits_in_16_bit_files_stay_visible(bits, shift, ending):
    pixels = FULL_RANGE >> (16 - bits)
    pixels[0, 0] = 2**bits - 1
    for part in (pixels, pixels[..., 0]):
        decoded = decode_rgb(encode_16_bit(part, ending))
        wanted = (part if part.ndim == 3 else part[..., None]) >> shift
        np.testing.assert_array_equal(decoded, np.broadcast_to(wanted, decoded.shape))


def test_real_images():
    if not REAL.is_dir():
        pytest.skip(f"no real sample data at {REAL}")
    jpegs = sorted(REAL.glob("scenes/*/*/*.jp*g"))[::97]
    others = [*REAL.glob("loveda/**/*.png"), REAL / "geotiff/OSBS_029.tif"]
    assert len(jpegs) > 20 and len(others) > 2
    for path in jpegs + others:
        np.testing.assert_array_equal(decode_rgb(path.read_bytes()), pillow(path.read_bytes()))


@pytest.mark.parametrize("name", ["pan1.tif", "sample_geotiff.tif"])
def test_real_satellite_scenes_of_16_bit_are_not_black(name):
    """The second is stored plane by plane, which Pillow cannot read."""
    path = REAL / "geotiff" / name
    if not path.is_file():
        pytest.skip(f"no real sample data at {path}")
    decoded = decode_rgb(path.read_bytes())
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16 and decoded.max() >= 128
    expected = stored.astype(int) * 256 // 2 ** int(stored.max()).bit_length()
    np.testing.assert_array_equal(decoded, np.dstack([expected] * 3))


BAD = {
    "the file is empty": b"",
    "not an image file": b"<html>404 Not Found</html>",
    "truncated jpeg": FILES["jpeg"][:-300],
    "truncated cmyk": FILES["cmyk jpeg"][:-300],
    "truncated png": FILES["png"][:-300],
    "truncated 16-bit": encode_16_bit(FULL_RANGE, ".png")[:2000],
    "head of a jpeg": FILES["jpeg"][:100],
    "32-bit type F": encode(Image.fromarray(SMOOTH[..., 0].astype(np.float32)), "TIFF"),
    "over the limit": png(12_000, 12_000, 8, 2, b""),
    "far over the limit": png(60_000, 60_000, 8, 2, b""),  # Pillow refuses it before we do
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", BAD)
def test_bad_files_raise_with_a_reason(kind):
    with pytest.raises(BadImage) as caught:
        decode_rgb(BAD[kind])
    reason = str(caught.value)
    assert reason and "\n" not in reason
    for known in ("empty", "not an image", "truncated", "type F", " limit"):
        assert known not in kind or known in reason


@pytest.mark.parametrize("kind", ["jpeg", "cmyk jpeg", "png", "tiff"])
def test_limit_is_on_pixels(kind):
    assert decode_rgb(FILES[kind], max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(BadImage, match="64 x 48 pixels, over the limit of 3,071"):
        decode_rgb(FILES[kind], max_pixels=48 * 64 - 1)


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
)
def test_damaged_bytes_give_pixels_or_bad_image(kind, changes, kept):
    data = bytearray(FILES[kind])
    for position, value in changes:
        data[int(position * (len(data) - 1))] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoded = decode_rgb(bytes(data[: int(kept * len(data))]))
        except BadImage as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert decoded.dtype == np.uint8 and decoded.ndim == 3 and decoded.shape[2] == 3
