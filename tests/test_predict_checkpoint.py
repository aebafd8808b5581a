"""launch/predict.py on checkpoints of real tasks, with random weights."""

import json

import jax
import numpy as np
import pyogrio
import shapely

from configs import detect_tiny, segment_tiny
from launch import predict
from rsfm_jax.boxes.geometry import to_corners
from rsfm_jax.data.synthetic import draw_scene
from rsfm_jax.scenes import network
from rsfm_jax.scenes.raster import Scene
from rsfm_jax.scenes.segmentation import class_maps
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks import make_task
from rsfm_jax.training.checkpoints import save_weights
from tests import painted, tiny
from tests.conftest import run_python
from tests.weights import random_variables


def checkpoint(folder, config):
    """A work folder with random weights, drawn without compiling; (its task, the weights)."""
    task = make_task(config, make_mesh(config))
    # Small ones: large ones would make much of what two devices round differently.
    variables = jax.tree.map(lambda x: x / 4, random_variables(task))
    metadata = {"config": json.loads(config.to_json()), "contract": task.contract}
    save_weights(folder / "checkpoints", variables, metadata)
    return task, variables


def scene(folder, config, width):
    """Drawn ground, one tile high."""
    size = config.data.image_size
    image = np.tile(draw_scene(0, size, "farmland").image, (1, 3, 1))[:, :width]
    return painted.write(folder / "scene.tif", image), image


def test_a_detector_on_two_devices_finds_what_its_task_finds(tmp_path):
    """Two tiles without overlap: what sticks out over the edge between them is left out."""
    config = detect_tiny.get_config()
    size = config.data.image_size
    task, variables = checkpoint(tmp_path / "run", config)
    path, image = scene(tmp_path, config, 2 * size)
    output = tmp_path / "found.gpkg"
    run = run_python(
        "launch/predict.py", f"--checkpoint={tmp_path / 'run'}", f"--input={path}",
        f"--output={output}", "--overlap=0", "--score=0.06", "--batch=1", devices=2,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    _, _, geometry, values = pyogrio.raw.read(output)
    found = shapely.from_wkb(geometry)

    tiles = np.stack([image[:, :size], image[:, size:]])
    result = jax.tree.map(np.asarray, task.predict(variables, tiles))
    corners = to_corners(result.boxes.astype(np.float64))  # [2, D, 4, 2]
    keep = result.valid & (result.scores >= 0.06)
    keep &= ((result.boxes[..., :2] >= 0) & (result.boxes[..., :2] < size)).all(-1)
    keep[0] &= corners[0, ..., 0].max(-1) <= size
    keep[1] &= corners[1, ..., 0].min(-1) >= 0
    corners[1] += [size, 0]
    expected = shapely.polygons(corners[keep] * [0.5, -0.5] + [500_000, 5_000_000])
    assert keep.any(1).all() and len(found) == len(expected)
    tree = shapely.STRtree(shapely.centroid(found))
    pairs = tree.query(shapely.centroid(expected), predicate="dwithin", distance=0.02)
    same = shapely.hausdorff_distance(expected[pairs[0]], found[pairs[1]]) < 0.02
    assert len(set(pairs[0][same])) == len(expected)
    assert set(values[1]) <= set(task.class_names)


def test_a_segmenter_gives_the_classes_of_its_task(tmp_path):
    config = segment_tiny.get_config()
    task, variables = checkpoint(tmp_path / "run", config)
    path, image = scene(tmp_path, config, config.data.image_size)
    model = network.load(tmp_path / "run", network.Tiling(batch=1))
    with Scene(path, "scene", painted.PLAIN) as opened:
        classes = np.concatenate([part for _, _, part in class_maps(opened, model, lambda: None)])
    logits = task.predict(variables, image[None])
    np.testing.assert_array_equal(classes, np.asarray(logits)[0].argmax(-1))
    assert model.classes == tuple(config.data.classes)


def test_checkpoints_and_tiles_that_do_not_serve_are_refused(tmp_path, capsys):
    path, _ = scene(tmp_path, segment_tiny.get_config(), 64)
    checkpoint(tmp_path / "mae", tiny.get_config())
    checkpoint(tmp_path / "segment", segment_tiny.get_config())
    for arguments, message in (
        (["--checkpoint=nowhere"], "no checkpoint there"),
        (["--checkpoint={}/mae"], "of task pretrain"),
        (["--checkpoint={}/segment", "--tile=50"], "--tile=50 must be a multiple"),
        (["--checkpoint={}/segment", "--overlap=64"], "--overlap=64 must be 0 to 63"),
        (["--checkpoint={}/segment", "--batch=0"], "--batch=0 must be 1"),
        (["--checkpoint={}/segment", "--score=0.5"], "--score is for checkpoints that detect"),
        (["--checkpoint={}/segment", "--output={}/x.gpkg"], "written as .tif"),
    ):
        common = [f"--input={path}", f"--output={tmp_path / 'out' / 'x.tif'}"]
        assert predict.main([*common, *(text.format(tmp_path) for text in arguments)]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir()) and not (tmp_path / "x.gpkg").exists()
