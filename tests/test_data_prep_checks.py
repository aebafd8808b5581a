"""verify and stats against numpy and against damage; the same build on Apache Beam."""

import json

import cv2
import numpy as np
import pytest
from array_record.python import array_record_module

from data_prep.__main__ import main
from data_prep.shards import read_shard
from tests.data_prep_raw import build, raw_root, read


def command(name, out, *options):
    return main([*options[:1], name, f"--data_dir={out}", "--workers=1", *options[1:]])


def shard_of(folder, split="train"):
    return next(folder.glob(f"*-{split}.array_record-00000-of-*"))


def rewrite(path, change):
    """Writes the shard's records anew through `change(position, record)`; None drops one."""
    records = list(read_shard(path))
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for position, record in records:
        changed = change(position, record)
        if changed is not None:
            writer.write(changed)
    writer.close()


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-70_000]), "not a whole array_record file"),
        (lambda p: p.unlink(), "not a whole array_record file"),
        (lambda p: rewrite(p, lambda i, r: None if i == 2 else r), "7 examples, 8 were written"),
        (lambda p: rewrite(p, lambda i, r: r.replace(b"train/1", b"train/9")), "its hash is not"),
        (
            lambda p: rewrite(p, lambda i, r: b"nonsense" if i == 1 else r),
            "record 1: not an example",
        ),
    ],
)
def test_verify_finds_damage(damage, reason, tmp_path, capsys):
    folder = build("synthetic", "", tmp_path, "--scenes=8", "--size=64")
    assert command("synthetic", tmp_path, "verify") == 0
    output = capsys.readouterr().out
    assert "train images: 8" in output and "every record is sound" in output
    damage(shard_of(folder))
    assert command("synthetic", tmp_path, "verify") == 2
    captured = capsys.readouterr().err
    assert reason in captured and captured.count("\n") == 1


def test_verify_finds_impossible_labels(tmp_path, monkeypatch, capsys):
    """Records whose hashes fit can still be nonsense; a builder's fault must not pass."""
    from data_prep.datasets.synthetic import Synthetic

    convert = Synthetic.convert

    def broken(self, item, bad):
        converted = convert(self, item, bad)
        for example in converted.examples:
            example["polygons"] = example["polygons"] + 1e4
        return converted

    monkeypatch.setattr(Synthetic, "convert", broken)
    build("synthetic", "", tmp_path, "--scenes=8", "--size=64")
    assert command("synthetic", tmp_path, "verify") == 2
    assert "centre lies outside the image" in capsys.readouterr().err


def test_published_counts_stand_beside(tmp_path, capsys):
    build("potsdam", raw_root() / "potsdam", tmp_path)
    assert command("potsdam", tmp_path, "verify") == 0
    output = capsys.readouterr().out
    assert "train images: 24 (published: 24)" in output
    assert "train examples: 96 (published: 3,456)" in output


def test_stats_equal_numpy(tmp_path):
    folder = build("loveda", raw_root() / "loveda", tmp_path)
    assert command("loveda", tmp_path, "stats", "--split=train") == 0
    stats = json.loads((folder / "stats_train.json").read_text())
    examples = read(folder, "train")
    pixels = np.concatenate([example["image"].reshape(-1, 3) for example in examples])
    assert np.allclose(stats["mean"], pixels.mean(0), atol=1e-9)
    assert np.allclose(stats["std"], pixels.std(0), atol=1e-9)
    for band, name in enumerate(("red", "green", "blue")):
        values = pixels[:, band]
        described = stats["bands"][name]
        assert (described["min"], described["max"]) == (values.min(), values.max())
        for share, level in described["percentiles"].items():
            truth = np.percentile(values, float(share), method="inverted_cdf")
            assert level == truth
    labels, counts = np.unique([e["mask"] for e in examples], return_counts=True)
    stored = [count for count in stats["mask_counts"].values() if count]
    assert stored == counts.tolist() and labels[-1] == 255


def test_stats_of_an_unknown_split(tmp_path, capsys):
    build("synthetic", "", tmp_path, "--scenes=8", "--size=64")
    assert command("synthetic", tmp_path, "stats", "--split=dev") == 2
    assert "no split 'dev', it has: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dota", "potsdam", "millionaid"])
def test_contact_sheet_shows_labels(name, tmp_path):
    folder = build(name, raw_root() / name, tmp_path)
    assert command(name, tmp_path, "stats") == 0
    sheet = cv2.imread(str(folder / "contact_sheet_train.png"))
    assert sheet.shape[1] == 5 * 324 and sheet.shape[0] >= 2 * 342
    saturation = cv2.cvtColor(sheet, cv2.COLOR_BGR2HSV)[..., 1]
    # Box outlines, tinted masks and the legend are far more colourful than the scenes.
    assert ((saturation > 225).mean() > 2e-3) == (name != "millionaid")


def test_beam_writes_the_same_shards(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is an extra: pip install rsfm_jax[beam]")
    source = raw_root() / "potsdam"
    local = build("potsdam", source, tmp_path / "local")
    beam = build("potsdam", source, tmp_path / "beam", "--beam_runner=DirectRunner")
    for path in local.glob("*array_record*"):
        assert path.read_bytes() == (beam / path.name).read_bytes()


def test_beam_stops_with_the_reason(tmp_path, capsys):
    pytest.importorskip("apache_beam", reason="Apache Beam is an extra: pip install rsfm_jax[beam]")
    source = tmp_path / "raw" / "train" / "farm"
    source.mkdir(parents=True)
    (source / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    arguments = ["build", "image_folder", f"--source={tmp_path / 'raw'}", f"--data_dir={tmp_path}"]
    assert main([*arguments, "--beam_runner=DirectRunner"]) == 2
    assert "broken.jpg" in capsys.readouterr().err
