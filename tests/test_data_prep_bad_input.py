"""What is broken is named in one line, exit code 2, or skipped and listed; kills lose nothing."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from data_prep.__main__ import main
from tests.conftest import ROOT
from tests.data_prep_raw import build, raw_copy, raw_root, read


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def repaint(path, change):
    picture = change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    assert cv2.imwrite(str(path), picture)


def purple(picture):
    picture[100:110, 40:50] = (255, 0, 255)
    return picture


def nine(picture):
    picture[3, 4] = 9
    return picture


LABEL = "train/labelTxt-v2.0/OBB/P0003.txt"
XML = "Annotations/Oriented Bounding Boxes/00002.xml"
MASK = "5_Labels_all_noBoundary/top_potsdam_3_11_label_noBoundary.tif"
SMALL = "Train/Rural/masks_png/2.png"
CASES = {
    "truncated JPEG": ("dior_r", "JPEGImages-trainval/00002.jpg", truncate, "00002.jpg: "),
    "truncated PNG": ("dota", "train/images/P0003.png", truncate, "P0003.png: "),
    "empty file": ("millionaid", "test/P0000040.jpg", lambda p: p.write_bytes(b""), "40.jpg: the"),
    "no robndbox": (
        *("dior_r", XML, lambda p: p.write_text(p.read_text().replace("robndbox>", "bndbox>"))),
        "00002.xml: object 1: no robndbox",
    ),
    "not XML": ("dior_r", XML, truncate, "00002.xml: not a readable XML file"),
    "XML missing": ("dior_r", XML, os.unlink, "00002.xml: No such file"),
    "unknown class": (
        *("dota", LABEL, lambda p: edit(p, "small-vehicle", "tram")),
        "unknown class 'tram', expected one of",
    ),
    "zero area": (
        *("dota", LABEL, lambda p: p.write_text("5 5 5 5 5 5 5 5 ship 0\n" + p.read_text())),
        "P0003.txt:1: polygon of zero area",
    ),
    "two images of one name": (
        *("dota", "train/images/P0003.png", lambda p: shutil.copy(p, p.with_suffix(".tif"))),
        "P0003.tif: differs from P0003.png in its ending alone",
    ),
    "label missing": ("dota", LABEL, os.unlink, "P0003.png: no label file P0003.txt"),
    "mask of another size": (
        *("potsdam", MASK, lambda p: repaint(p, lambda mask: mask[:-1])),
        "top_potsdam_3_11_label_noBoundary.tif: 600 x 599 pixels, but its image has 600 x 600",
    ),
    "mask of another size, LoveDA": (
        *("loveda", SMALL, lambda p: repaint(p, lambda mask: mask[:, :-2])),
        "2.png: 1022 x 1024 pixels, but its image has 1024 x 1024",
    ),
    "unknown colour": (
        *("potsdam", MASK, lambda p: repaint(p, purple)),
        "unknown colour (255, 0, 255) at x 40, y 100 (100 such pixels)",
    ),
    "unknown label": ("loveda", SMALL, lambda p: repaint(p, nine), "unknown label 9 at x 4, y 3"),
    "mask in colour": (
        *("loveda", SMALL, lambda p: repaint(p, lambda mask: np.dstack([mask] * 3))),
        "2.png: mask with pixels of type RGB: 8-bit class indices needed",
    ),
    "tile missing": ("potsdam", MASK, os.unlink, "3_11_label_noBoundary.tif: missing"),
    "split file missing": ("dior_r", "ImageSets/Main/val.txt", os.unlink, "val.txt: missing"),
    "listed image missing": (
        *("dior_r", "JPEGImages-trainval/00002.jpg", os.unlink),
        "train.txt:2: no image 00002.jpg",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_named_and_can_be_skipped(case, tmp_path, capsys):
    name, relative, damage, reason = CASES[case]
    source = raw_copy(name, tmp_path)
    damage(source / relative)
    out = tmp_path / "out"
    arguments = ["build", name, f"--source={source}", f"--data_dir={out}", "--workers=1"]
    assert main(arguments) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("data_prep: ") and captured.count("\n") == 1
    assert reason in captured
    assert not list(out.rglob("dataset_info.json"))

    folder = build(name, source, out, "--on_bad=skip")
    bad = json.loads((folder / "manifest.json").read_text())["bad"]
    assert bad and reason in " ".join(bad)
    assert main(["verify", name, f"--data_dir={out}", "--workers=1"]) == 0


def test_a_bad_object_does_not_cost_its_image(tmp_path):
    source = raw_copy("dota", tmp_path)
    edit(source / LABEL, "small-vehicle", "tram")
    whole = build("dota", raw_root() / "dota", tmp_path / "whole")
    skipped = build("dota", source, tmp_path / "skipped", "--on_bad=skip")
    objects = [
        json.loads((folder / "manifest.json").read_text())["splits"]["train"]
        for folder in (whole, skipped)
    ]
    assert objects[0]["images"] == objects[1]["images"]
    assert objects[0]["objects"] == objects[1]["objects"] + 1


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["dota", "--source=/nowhere"], "/nowhere/train: no images"),
        (["potsdam", "--source=/nowhere", "--on_bad=skip"], "no usable raw data (38 bad inputs"),
        (["image_folder", "--source=/nowhere"], "--source=/nowhere: not a folder"),
        (["millionaid", "--source=/nowhere"], "/nowhere/train: no pictures"),
        (["synthetic", "--scenes=0"], "--scenes=0: must be from 1 to"),
        (["millionaid", "--source=.", "--holdout=2"], "--holdout=2.0: must be from 0 to 1"),
        (["synthetic", "--workers=0"], "--workers=0: at least 1"),
        (["synthetic", "--data_dir=setup.py"], "--data_dir: cannot make"),
    ],
)
def test_bad_options(arguments, reason, tmp_path, capsys):
    out = (
        []
        if any("--data_dir" in argument for argument in arguments)
        else [f"--data_dir={tmp_path}"]
    )
    assert main(["build", *arguments, *out]) == 2
    captured = capsys.readouterr().err
    assert reason in captured and captured.count("\n") == 1


def test_other_options_are_refused_over_a_finished_build(tmp_path, capsys):
    source = raw_root() / "millionaid"
    build("millionaid", source, tmp_path)
    arguments = ["build", "millionaid", f"--source={source}", f"--data_dir={tmp_path}"]
    assert main([*arguments, "--seed=5"]) == 2
    assert "was built with" in capsys.readouterr().err


def test_nothing_built(tmp_path, capsys):
    for command in ("verify", "stats"):
        assert main([command, "dota", f"--data_dir={tmp_path}"]) == 2
        assert "nothing built" in capsys.readouterr().err


def test_full_disk(tmp_path):
    """A limit on file size stands for a full disk; afterwards the build goes on."""
    arguments = [
        *(sys.executable, "-m", "data_prep", "build", "potsdam", "--workers=1"),
        *(f"--source={raw_root() / 'potsdam'}", f"--data_dir={tmp_path}"),
    ]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("\n") == 1 and "File too large" in run.stderr
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.shard"))
    assert subprocess.run(arguments, cwd=ROOT, capture_output=True).returncode == 0


def test_killed_build_goes_on_without_redoing_shards(tmp_path):
    source = raw_root() / "potsdam"
    arguments = [
        *(sys.executable, "-m", "data_prep", "build", "potsdam", "--workers=2"),
        *(f"--source={source}", f"--data_dir={tmp_path}"),
    ]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("progress/*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.5)  # its workers follow
    assert main(["verify", "potsdam", f"--data_dir={tmp_path}"]) == 2
    done = {path.stem: path.stat() for path in tmp_path.rglob("progress/*-?????.json")}
    shards = {
        path.stat().st_ino: path.stat().st_mtime_ns
        for path in tmp_path.rglob("*.shard")
        if path.stem in done
    }
    assert 4 <= len(shards) < 38
    folder = build("potsdam", source, tmp_path)
    finished = {
        path.stat().st_ino: path.stat().st_mtime_ns for path in folder.glob("*array_record*")
    }
    assert shards.items() <= finished.items()
    assert len(finished) == 38 and not list(folder.glob(".*"))
    fresh = build("potsdam", source, tmp_path / "fresh")
    for path in fresh.glob("*array_record*"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert len(read(folder, "train")) == 96


def test_two_builds_at_once_do_not_mix(tmp_path, capsys):
    import fcntl

    work = tmp_path / "synthetic" / "16x64px" / "1.0.0.incomplete"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        out = f"--data_dir={tmp_path}"
        assert main(["build", "synthetic", out, "--scenes=16", "--size=64"]) == 2
    assert "another build is at work" in capsys.readouterr().err
