"""colab/: every notebook runs from top to bottom, shows pictures and leaves what it promises.

With few steps and in a temporary folder; NOTEBOOK_STEPS=full runs them as they are.
"""

import ast
import json
import os
import sys
from pathlib import Path

import nbformat
import pyogrio
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# Both detectors take as many steps, so that they are one program and compile once.
FEW = {
    "pretrain_tiny": "STEPS = 30",
    "segment_tiny": "STEPS = 60",
    "detect_tiny": "STEPS = 20",
    "predict_scene": "STEPS = 20; SCORE = 0",
}


def read(name):
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4)


def parameters(notebook):
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    return cell


def execute(name, run, monkeypatch):
    """The notebook run by this Python in a new kernel, its work folder at `run`."""
    notebook = read(name)
    few = "" if os.environ.get("NOTEBOOK_STEPS") == "full" else FEW[name]
    parameters(notebook).source += f"\nRUN = Path({str(run)!r})\n{few}"
    # What `!python` finds and the kernel imports, as in an activated environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute(cwd=str(run.parent))
    return notebook


def outputs(notebook, kind):
    found = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data[kind] for output in found if kind in output.get("data", {})]


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["pretrain_tiny", "segment_tiny", "detect_tiny"])
def test_a_training_notebook_lowers_the_loss_and_shows_it(name, run, monkeypatch):
    notebook = execute(name, run, monkeypatch)
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    assert losses[-1] < losses[0]
    assert len(outputs(notebook, "image/png")) == 3  # scenes, losses, results
    assert (run / "checkpoints" / str(metrics(run)[-1]["step"])).is_dir()


def test_the_scene_notebook_writes_boxes_in_metres(run, monkeypatch):
    notebook = execute("predict_scene", run, monkeypatch)
    meta, _, geometry, _ = pyogrio.raw.read(run / "objects.gpkg")
    assert meta["crs"] == "EPSG:32631" and len(geometry) > 0
    assert {"class", "score", "width_m", "height_m"} <= set(meta["fields"])
    assert len(outputs(notebook, "image/png")) == 2  # the scene, its boxes
    assert any("width_m" in table for table in outputs(notebook, "text/plain"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_clean(path):
    notebook = read(path.stem)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"
    assigned = {node.targets[0].id for node in ast.parse(parameters(notebook).source).body}
    assert {"STEPS", "RUN"} <= assigned


def test_all_notebooks_are_run():
    assert {path.stem for path in NOTEBOOKS} == set(FEW)
