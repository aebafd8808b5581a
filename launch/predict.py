"""Predicts whole georeferenced scenes, of any size; see docs/scenes.md.

    python launch/predict.py --checkpoint=runs/dota --input=SCENE.tif --output=objects.gpkg
    python launch/predict.py --checkpoint=runs/loveda --input=SCENE.tif --output=classes.tif

A checkpoint that detects writes .gpkg, .geojson, .parquet, or .zip (DOTA Task 1); one that
segments writes .tif (a cloud-optimised GeoTIFF), or .zip with one for each image of a folder.
Exit status: 0 done, 2 bad input (one line says what; nothing is written), 1 anything else.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.command import Parser, execute, make_folder
from rsfm_jax.errors import UserError

DOTA_SCORE, MAP_SCORE = 0.05, 0.3  # an average precision wants every guess, a map does not


def run(arguments: Sequence[str]) -> None:
    """Checks what can be checked without the model, then predicts."""
    options = _parser().parse_args(arguments)
    try:
        from rsfm_jax.scenes import network, prediction
        from rsfm_jax.scenes.raster import Reading
    except ImportError as error:
        raise UserError(f"{error}: install what scenes need, pip install -e '.[geo]'") from error

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it logs it raises as well
    files = prediction.find_scenes(options.input)
    reading = Reading(options.bands, options.stretch, options.nodata)
    output = options.output
    if output.resolve() == options.input.resolve():
        raise UserError(f"--output={output} is the input")
    prediction.check_scenes(files, reading)
    make_folder(output.parent, f"--output={output}")
    tiling = network.Tiling(options.tile, options.overlap, options.batch)
    model = network.load(options.checkpoint, tiling)
    if isinstance(model, network.Detector):
        _check_ending(output, "detections", (*prediction.VECTOR_ENDINGS, ".zip"))
        score = options.score
        if score is not None and not 0 <= score <= 1:
            raise UserError(f"--score={score}: must be from 0 to 1")
        if score is None:
            score = DOTA_SCORE if output.suffix == ".zip" else MAP_SCORE
        prediction.predict_objects(files, reading, model, score, output)
    else:
        known = (".tif",) if options.input.is_file() else (".zip",)
        _check_ending(output, "class maps of this input", known)
        if options.score is not None:
            raise UserError("--score is for checkpoints that detect; this one segments")
        prediction.predict_classes(files, reading, model, output)
    print(output)


def _check_ending(output: Path, what: str, known: Sequence[str]) -> None:
    if output.suffix not in known:
        raise UserError(f"--output={output}: {what} are written as {' '.join(known)}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="a work folder, or one step's folder in it")
    add("--input", type=Path, required=True, help="a raster, or a folder of images")
    add("--output", type=Path, required=True, help="a file; its ending tells the format")
    add("--tile", type=int, help="side in pixels of what the network sees at once (as trained)")
    add("--overlap", type=int, help="of neighbouring tiles in pixels (a quarter of the tile)")
    add("--batch", type=int, default=2, help="tiles a device and call (2)")
    add(
        "--score",
        type=float,
        help=f"detections below it are left out ({MAP_SCORE}; {DOTA_SCORE} for .zip)",
    )
    add(
        "--bands",
        type=_numbers(int, "band numbers such as 3,2,1"),
        default=(),
        help="red, green and blue, numbered from 1, or one for grey (as the file says)",
    )
    add(
        "--stretch",
        type=_stretch,
        metavar="LOW,HIGH|percentiles",
        help="values that become black and white; needed unless the bands are 8-bit",
    )
    add("--nodata", type=float, help="a value that stands for no data, besides the declared one")
    return parser


def _numbers(kind, example):
    def parse(text):
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: give {example}") from None

    return parse


def _stretch(text):
    if text == "percentiles":
        return text
    limits = _numbers(float, "LOW,HIGH or percentiles")(text)
    if len(limits) != 2 or not limits[0] < limits[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: give LOW,HIGH with LOW < HIGH, or percentiles")
    return limits


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return execute(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
