"""From raw files to a training run: what data_prep writes, main.py reads."""

import json

import numpy as np
from PIL import Image

from tests.conftest import run_python


def test_prepared_shards_and_their_statistics_train(tmp_path):
    raw, prepared, workdir = (tmp_path / name for name in ("raw", "prepared", "run"))
    raw.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):  # red bright, blue dark
        pixels = rng.integers((200, 100, 0), (250, 200, 50), (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(raw / f"{number:02}.png")
    for command in ("build", "stats"):
        source = [f"--source={raw}"] if command == "build" else []
        run = run_python(
            "-m", "data_prep", command, "image_folder", f"--data_dir={prepared}", *source
        )
        assert run.returncode == 0, run.stderr
    (statistics,) = prepared.rglob("stats_train.json")

    run = run_python(
        "launch/main.py",
        "--config=tests/tiny.py",
        f"--workdir={workdir}",
        f"--config.data.source={prepared}",
        f"--config.data.statistics={statistics}",
    )
    assert run.returncode == 0, run.stderr
    config = json.loads((workdir / "config.json").read_text())
    np.testing.assert_allclose(config["data"]["mean"], [225 / 255, 150 / 255, 25 / 255], atol=0.01)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20 and np.isfinite(lines[-1]["eval/loss"])
