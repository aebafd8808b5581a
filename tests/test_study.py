"""The study's grid, its commands and its outcome; main.py is a stand-in that knows the answer."""

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import study as paper
from configs import study_tiny
from launch import study as command
from rsfm_jax.errors import UserError
from rsfm_jax.study import cells, summary

ROOT = Path(__file__).parent.parent

# Leaves what a finished run leaves; its metric tells size, fraction, start and seed apart.
STAND_IN = """
import json, sys
from pathlib import Path
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
folder = Path(flags["workdir"])
with open(folder.parent / "order.txt", "a") as order:
    order.write(folder.name + "\\n")
if (folder.parent / "fail").exists() and (folder.parent / "fail").read_text() == folder.name:
    sys.exit(int((folder.parent / "status").read_text()))
folder.mkdir()
start = flags.get("config.init_from", "")
assert not start or (Path(start) / "metrics.jsonl").exists(), start
value = 0.5 + 0.1 * bool(start) + 0.01 * int(flags["config.seed"])
value -= 0.2 * (flags.get("config.data.fraction") == "0.1")
lines = [{"step": 5, "loss": 1.0}, {"step": 10, "eval/miou": value, "loss": 0.5}]
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
config = {"total_steps": 10, "model": {"size": flags["config"].split(":")[-1]}}
(folder / "config.json").write_text(json.dumps(config))
"""


def grid() -> ConfigDict:
    config = ConfigDict()
    config.sizes = ("vit_nano4x2", "vit_micro2x4")
    config.fractions = (0.1, 1.0)
    config.pretrained = (True, False)
    config.seeds = (0, 1, 2)
    config.pretrain = ConfigDict(
        {"config": "pre.py:{size}", "overrides": ("a=1",), "every_seed": False}
    )
    config.tasks = ConfigDict({"segment": paper.task("seg.py:{size}", "eval/miou", "b.c=(1, 2)")})
    return config


@pytest.fixture
def run(tmp_path, monkeypatch):
    stand_in = tmp_path / "main.py"
    stand_in.write_text(STAND_IN)
    monkeypatch.setattr(command, "MAIN", stand_in)
    return tmp_path


def order(folder: Path) -> list[str]:
    return (folder / "order.txt").read_text().split()


def test_the_grid_is_complete_and_pretraining_comes_first():
    grid_cells = cells.study_cells(grid())
    assert [cell.name for cell in grid_cells[:2]] == [
        "pretrain-vit_nano4x2-seed0",
        "pretrain-vit_micro2x4-seed0",
    ]
    assert len(grid_cells) == 2 + 2 * 2 * 2 * 3 == len({cell.name for cell in grid_cells})
    cell = next(c for c in grid_cells if c.pretrained and c.seed == 2 and c.fraction == 0.1)
    assert cell.arguments(Path("runs")) == [
        "--config=seg.py:vit_nano4x2",
        "--workdir=runs/segment-vit_nano4x2-0.1-pretrained-seed2",
        "--config.seed=2",
        "--config.b.c=(1, 2)",
        "--config.data.fraction=0.1",
        "--config.init_from=runs/pretrain-vit_nano4x2-seed0",
    ]
    config = grid()
    config.pretrain.every_seed = True
    afters = {cell.after for cell in cells.study_cells(config) if cell.pretrained}
    assert len(afters) == 2 * 3
    assert len(cells.study_cells(paper.get_config())) == 4 + 96


def test_a_killed_study_goes_on_and_a_failed_cell_does_not_stop_the_others(run, capsys):
    grid_cells = cells.study_cells(grid())
    third = grid_cells[2].name
    (run / "fail").write_text(third)
    (run / "status").write_text("75")
    assert command.run_all(grid_cells, run) == 75
    assert order(run) == [cell.name for cell in grid_cells[:3]]
    (run / "status").write_text("1")
    assert command.run_all(grid_cells, run) == 1
    assert third in capsys.readouterr().err
    (run / "fail").unlink()
    assert command.run_all(grid_cells, run) == 0
    assert order(run)[-1] == third and len(order(run)) == len(grid_cells) + 2


def test_a_cell_that_starts_from_nothing_is_refused(run, capsys):
    cell = next(cell for cell in cells.study_cells(grid()) if cell.after)
    assert command.run_cell(cell, run) == 2
    assert f"{cell.after} has to be finished before" in capsys.readouterr().err


def test_the_outcome_holds_every_run_and_the_hand_computed_means(run):
    grid_cells = cells.study_cells(grid())
    assert command.run_all(grid_cells, run) == 0
    command.summarize(grid_cells, run)
    rows = list(csv.DictReader((run / "study.csv").open()))
    assert len(rows) == len(grid_cells)
    assert {row["config.model.size"] for row in rows} == set(grid().sizes)
    # Seeds 0, 1, 2 give x, x + 1, x + 2 points: mean x + 1, half width t(0.975, 2) / sqrt(3).
    half = 4.302653 * 1.0 / math.sqrt(3)
    text = (run / "study.md").read_text()
    assert f"| vit_nano4x2 | pretrained | 41.0 ± {half:.1f} | 61.0 ± {half:.1f} |" in text
    assert f"| vit_micro2x4 | scratch | 31.0 ± {half:.1f} | 51.0 ± {half:.1f} |" in text
    assert "| vit_micro2x4 | gain, paired by seed | 10.0 ± 0.0 | 10.0 ± 0.0 |" in text
    assert (run / "study.png").read_bytes().startswith(b"\x89PNG")


def test_a_setting_may_hold_the_size():
    tiny = cells.study_cells(study_tiny.get_config())
    assert len(tiny) == 2 + 24
    assert all(f"model.size={cell.size}" in cell.overrides for cell in tiny)


def test_a_mean_of_fewer_seeds_says_so_and_gains_are_paired():
    def row(size, pretrained, seed, value):
        axes = {"task": "t", "size": size, "fraction": 1.0, "metric": "eval/x"}
        return axes | {"pretrained": pretrained, "seed": seed, "value": value}

    rows = [row("a", True, seed, 0.5 + 0.1 * seed) for seed in (0, 1)]
    rows += [row("a", False, seed, 0.4 + 0.1 * seed) for seed in (1, 2)]
    text = summary.tables(rows)
    assert "| a | gain, paired by seed | 10.0 (1 of 3 seeds) |" in text
    assert "| a | pretrained | 55.0 ± 63.5 (2 of 3 seeds) |" in text


def test_sigterm_reaches_the_cell_which_leaves_with_its_own_status(tmp_path):
    stand_in = tmp_path / "main.py"
    stand_in.write_text(
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    program = (
        "import pathlib, sys\n"
        "from configs import study as paper\n"
        "from launch import study as command\n"
        "from rsfm_jax.study import cells\n"
        f"command.MAIN = pathlib.Path({str(stand_in)!r})\n"
        "config = paper.get_config()\n"
        f"sys.exit(command.run_all(cells.study_cells(config), pathlib.Path({str(tmp_path)!r})))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    while not (tmp_path / "up").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    parent.terminate()
    assert parent.wait(30) == 75


def test_unfinished_runs_and_torn_lines_do_not_count(tmp_path):
    folder = tmp_path / "cell"
    assert cells.finished_metrics(folder) is None
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"total_steps": 10}))
    (folder / "metrics.jsonl").write_text('{"step": 5, "eval/miou": 0.1}\n{"step": 10, "eva')
    assert cells.finished_metrics(folder) is None
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 10, "loss": 1}\n{"step": 10, "eval/miou": 0.3}\n')
    assert cells.finished_metrics(folder)["eval/miou"] == 0.3


def test_bad_studies_are_one_line(run, monkeypatch, capsys):
    config = grid()
    config.seeds = (0, 0)
    with pytest.raises(UserError, match=r"config\.seeds=\[0, 0\]"):
        cells.study_cells(config)
    with pytest.raises(UserError, match="no task's cell is finished"):
        command.summarize(cells.study_cells(grid()), run)
    config = grid()
    assert command.run_all(cells.study_cells(config), run) == 0
    config.tasks.segment.metric = "eval/mAP50"
    with pytest.raises(UserError, match="mAP50 is not in .* which has eval/miou"):
        command.summarize(cells.study_cells(config), run)


def test_the_list_names_both_stages(capsys, tmp_path):
    command.print_list(cells.study_cells(grid()), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["# pretraining: cells 0-1", "# tasks: cells 2-25"]
    assert lines[2].startswith("0\tto do\tpretrain-vit_nano4x2-seed0\t--config=pre.py:vit_nano4x2")


def test_a_single_seed_has_no_interval():
    assert summary.mean_and_interval([2.0]) == (2.0, 0.0)
