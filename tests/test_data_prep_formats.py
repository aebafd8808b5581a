"""Label parsers and window cutting against real files, shapely and arbitrary text."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rsfm_jax.data.formats import dior, dota, loveda, polygon_area, potsdam
from rsfm_jax.data.formats.windows import area_inside, window_starts
from rsfm_jax.errors import UserError

V2 = dota.CLASSES["2.0"]
LINE = "1 2 11 2 11 22 1 22 ship 1"


def parse_dota(text):
    bad = []
    return dota.parse_labels(text, "P.txt", V2, bad.append), bad


def test_dota_class_lists_nest():
    assert [len(dota.CLASSES[version]) for version in ("1.0", "1.5", "2.0")] == [15, 16, 18]
    assert V2[:16] == dota.CLASSES["1.5"] and V2[15:] == ("container-crane", "airport", "helipad")


@pytest.mark.parametrize("folder, images, objects", [("dota", 2, 600), ("dota_split", 4, 356)])
def test_dota_real_labels(real_data, folder, images, objects):
    """Headers and 10 columns; no header and 9 columns. Counts are those of the samples' README."""
    files = sorted((real_data / folder / "labelTxt").glob("*.txt"))
    parsed = [dota.parse_labels(f.read_text(), f.name, dota.CLASSES["1.0"]) for f in files]
    assert len(files) == images and sum(len(p.labels) for p in parsed) == objects


def test_dota_tolerates_what_the_releases_hold():
    text = f"\ufeffimagesource:GoogleEarth\r\ngsd:null\r\n\r\n{LINE}\r\n  \r\n{LINE[:-2]}\r\n"
    objects, bad = parse_dota(text)
    assert not bad
    assert objects.difficult.tolist() == [1, 0]
    assert objects.labels.tolist() == [V2.index("ship")] * 2
    assert objects.polygons[0].tolist() == [[1, 2], [11, 2], [11, 22], [1, 22]]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("1 2 11 2 11 22 1 ship", "8 columns"),
        ("1 2 11 2 11 22 1 22 ship 0 7", "11 columns"),
        ("1 2 11 2 11 22 1 x ship 0", "not 8 numbers"),
        ("1 2 11 2 11 22 1 nan ship 0", "not finite"),
        ("1 2 11 2 11 22 1 22 boat 0", "unknown class 'boat'"),
        ("1 2 11 2 11 22 1 22 ship hard", "difficulty 'hard'"),
        ("1 1 2 2 3 3 4 4 ship 0", "zero area"),
    ],
)
def test_dota_names_file_and_line(line, reason):
    with pytest.raises(UserError, match=rf"P\.txt:2: .*{reason}"):
        dota.parse_labels(f"{LINE}\n{line}\n", "P.txt", V2)
    objects, bad = parse_dota(f"{LINE}\n{line}\n{LINE}\n")
    assert len(objects.labels) == 2 and len(bad) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters() | st.sampled_from("0123456789. :\n\rship")))
def test_dota_any_text_parses_or_is_reported(text):
    objects, bad = parse_dota(text)
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(objects.labels) + len(bad) <= len(lines)
    assert all(line.startswith("P.txt:") and "\n" not in line for line in bad)
    assert np.isfinite(objects.polygons).all()


@given(
    st.text("abcP_0123456789", min_size=1).filter(lambda name: not name.endswith("_")),
    st.sampled_from([0.5, 1.0, 1.5]),
    *[st.integers(0, 30_000)] * 2,
)
def test_patch_names_round_trip(name, scale, x, y):
    assert dota.parse_patch_id(dota.patch_id(name, scale, x, y)) == (name, scale, x, y)


def test_patch_names_are_those_of_the_devkit(real_data):
    for path in (real_data / "dota_split" / "images").glob("*.png"):
        assert dota.patch_id(*dota.parse_patch_id(path.stem)) == path.stem
    with pytest.raises(ValueError, match="not a patch name"):
        dota.parse_patch_id("P0003")


def test_dior_real_file(real_data):
    path = real_data / "dior_r" / "Annotations" / "Oriented Bounding Boxes" / "00001.xml"
    objects = dior.parse_labels(path.read_bytes(), path.name)
    assert [dior.CLASSES[label] for label in objects.labels] == ["golffield"]
    assert objects.polygons.tolist() == [[[133, 237], [684, 237], [684, 672], [133, 672]]]


def voc(name="Expressway-Service-area", box="robndbox", head="", value="5"):
    corners = dict(left_top=(0, 0), right_top=(9, 0), right_bottom=(9, value), left_bottom=(0, 5))
    inner = "".join(f"<x_{k}>{x}</x_{k}><y_{k}>{y}</y_{k}>" for k, (x, y) in corners.items())
    return (
        f"{head}<annotation><object><name>{name}</name><{box}>{inner}</{box}></object></annotation>"
    )


def test_dior_compares_names_in_lower_case():
    objects = dior.parse_labels(voc().encode(), "1.xml")
    assert dior.CLASSES[objects.labels[0]] == "expressway-service-area"
    assert polygon_area(objects.polygons).tolist() == [45]


@pytest.mark.parametrize(
    "data, reason",
    [
        (voc(box="bndbox"), "object 1: no robndbox"),
        (voc(name="boat"), "unknown class 'boat'"),
        (voc(value="inf"), "not finite"),
        (voc(value="low"), "four corners"),
        (voc(head='<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'), "document type 'a'"),
        (voc(head="<!DOCTYPE a [<!ENTITY b 'bbb'>]>").encode("utf-16"), "document type 'a'"),
        (voc()[:50], "not a readable XML"),
        ("", "not a readable XML"),
    ],
)
def test_dior_names_what_is_wrong(data, reason):
    data = data if isinstance(data, bytes) else data.encode()
    with pytest.raises(UserError, match=rf"1\.xml: .*{reason}"):
        dior.parse_labels(data, "1.xml")


@settings(max_examples=200, deadline=None)
@given(st.binary() | st.text().map(lambda name: voc(name).encode("utf-8", "replace")))
def test_dior_any_bytes_parse_or_are_reported(data):
    bad = []
    objects = dior.parse_labels(data, "1.xml", bad.append)
    assert bad or np.isfinite(objects.polygons).all()


def test_potsdam_colours():
    colours = np.array([[*potsdam.COLOURS, potsdam.BOUNDARY]], np.uint8)
    assert potsdam.decode_mask(colours, "t", 6).tolist() == [[0, 1, 2, 3, 4, 5, 255]]
    assert potsdam.decode_mask(colours, "t", 5).tolist() == [[0, 1, 2, 3, 4, 255, 255]]
    nearly = np.array([[[252, 255, 0], [3, 3, 248]]], np.uint8)
    assert potsdam.decode_mask(nearly, "t", 5).tolist() == [[4, 1]]
    for unknown in ((255, 0, 255), (128, 255, 0)):
        colours[0, 3] = unknown
        with pytest.raises(UserError, match=r"t: unknown colour .* at x 3, y 0 \(1 such"):
            potsdam.decode_mask(colours, "t", 5)
    bad = []
    assert potsdam.decode_mask(colours, "t", 5, bad.append)[0, 3] == 255 and len(bad) == 1


def test_potsdam_tiles():
    assert len(set(potsdam.TRAIN_TILES)) == 24 and len(set(potsdam.TEST_TILES)) == 14
    assert not set(potsdam.TRAIN_TILES) & set(potsdam.TEST_TILES)


def test_loveda_values():
    values = np.arange(8, dtype=np.uint8)[None]
    assert loveda.decode_mask(values, "m").tolist() == [[255, 0, 1, 2, 3, 4, 5, 6]]
    with pytest.raises(UserError, match="m: unknown label 8 at x 0, y 0"):
        loveda.decode_mask(values + 8, "m")


def test_window_starts_of_the_published_splits():
    def starts(length):
        return window_starts(length, 1024, 824)

    assert [starts(n) for n in (300, 1024, 1025, 1848, 1849)] == [
        *([0], [0], [0, 1], [0, 824], [0, 824, 825])
    ]
    assert len(window_starts(6000, 512, 512)) == 12  # 3,456 crops of 24 Potsdam tiles


@given(st.integers(1, 5000), st.integers(1, 1200), st.data())
def test_windows_cover_everything_once_shifted(length, size, data):
    stride = data.draw(st.integers(1, size))
    starts = window_starts(length, size, stride)
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert all(b - a <= stride for a, b in zip(starts, starts[1:], strict=False))
    assert starts[-1] == max(length - size, 0)


coordinates = st.floats(-300, 300, width=32)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=4, max_size=4))
def test_area_inside_equals_shapely(corners):
    polygon = shapely.Polygon(corners)
    share = area_inside(np.array([corners]), 0, -50, 100, 120)[0]
    assert 0 <= share <= 1
    if polygon.is_valid and polygon.area > 1e-3:
        truth = polygon.intersection(shapely.box(0, -50, 100, 120)).area / polygon.area
        assert share == pytest.approx(truth, abs=1e-6)


def test_area_of_nothing():
    assert area_inside(np.zeros((0, 4, 2)), 0, 0, 1, 1).shape == (0,)
    assert polygon_area(np.zeros((0, 4, 2))).shape == (0,)
