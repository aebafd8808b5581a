"""What the config says of evaluating a detector: settings, refusals, tiles over the mesh."""

import jax
import numpy as np
import pytest

from configs import detect_dior_r, detect_dota_v2, detect_tiny
from rsfm_jax.boxes.geometry import min_area_rectangle
from rsfm_jax.data.detection_images import open_labelled_images
from rsfm_jax.data.formats import dota
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.tiled_detection import Tile, tiles_of
from rsfm_jax.models.roi_head import Detections
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks.detect import Detect
from rsfm_jax.tasks.detect_evaluation import RULES, WholeImages
from rsfm_jax.training.validate import check_values
from tests.known_detector import padded


def whole_images(config):
    return WholeImages(config, make_mesh(config))


def test_known_objects_score_1_through_the_config(tmp_path):
    config = detect_tiny.get_config()
    config.eval.source, config.eval.batch_size = "synthetic:6", 4
    config.eval.scales, config.eval.tile_overlap = (1.0,), 0
    known = {
        image.pixels.tobytes(): image.objects
        for image in open_labelled_images("synthetic:6", "val", dota.CLASSES["2.0"])
    }

    def find(tile):
        objects = known[tile.tobytes()]
        count = len(objects.labels)
        return min_area_rectangle(np.float64(objects.polygons)), np.ones(count), objects.labels

    def predict(tiles):
        assert isinstance(tiles, jax.Array) and tiles.shape == (4, 128, 128, 3)
        rows = [padded(*find(tile)) for tile in np.asarray(tiles)]
        return Detections(*map(np.stack, zip(*rows, strict=True)))

    metrics = whole_images(config)(predict, tmp_path)
    assert metrics["mAP50"] == 1.0 and metrics["AP50/plane"] == 1.0
    assert (tmp_path / "figures" / "detections.png").exists()


@pytest.mark.parametrize("recipe", [detect_dota_v2, detect_dior_r, detect_tiny])
def test_recipes_keep_the_rules(recipe):
    config = recipe.get_config()
    check_values(config, RULES)
    tiling = whole_images(config).settings.tiling
    assert tiling.windows.size == config.data.image_size
    assert tiling.fill == (124, 116, 104)  # what data_prep fills DOTA's patches with


def test_dota_is_tested_in_its_training_patches():
    """1,024 pixels every 824, as in the names of the published patches."""
    tiling = whole_images(detect_dota_v2.get_config()).settings.tiling
    tiles = tiles_of(np.zeros((1024, 2000, 3), np.uint8), tiling)
    assert tiles == [Tile(1.0, x, 0) for x in (0, 824, 976)]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("protocol", "voc", "config.eval.protocol='voc' must be one of dota_v1, "),
        ("scales", (), "config.eval.scales=.* must be factors"),
        ("scales", (0.7,), "config.eval.scales=.* must be factors"),
        ("scales", (0.0, 1.0), "config.eval.scales=.* must be factors"),
        ("tile_overlap", -1, "config.eval.tile_overlap=-1 must be 0 or more"),
        ("min_score_shown", 2.0, "config.eval.min_score_shown=2.0 must be in"),
    ],
)
def test_bad_values_are_refused(key, value, message):
    config = detect_tiny.get_config()
    config.eval.unlock()
    with config.eval.ignore_type():
        config.eval[key] = value
    with pytest.raises(UserError, match=message):
        check_values(config, RULES)


def test_tiles_must_not_overlap_by_their_size():
    config = detect_tiny.get_config()
    config.eval.tile_overlap = 128
    with pytest.raises(UserError, match="config.eval.tile_overlap=128 must be less than config"):
        whole_images(config)


def test_a_wrong_source_stops_before_training():
    config = detect_tiny.get_config()
    config.eval.source = "nowhere"
    task = Detect(config, make_mesh(config))
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        task.batches(np.arange(config.batch_size), 0)
