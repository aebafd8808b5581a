"""Oriented R-CNN against a slow transcription, by overfitting, in hard cases and on 8 devices."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsfm_jax.boxes.iou import rotated_iou
from rsfm_jax.boxes.roi_align import roi_align
from rsfm_jax.boxes.truths import Truths, pad_truths
from rsfm_jax.models.oriented_rcnn import DetectionHeads, OrientedRCNN
from rsfm_jax.models.oriented_rpn import OrientedRPN, RPNConfig, anchor_targets
from rsfm_jax.models.roi_head import RegionScores, RoIConfig, RoIHead, detect, region_targets
from rsfm_jax.models.sizes import vit_size
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.models.vitdet import ViTDetConfig
from rsfm_jax.sharding.rules import tree_shardings, unbox
from tests import slow_detector as slow
from tests.conftest import run_python
from tests.test_sharding import abstract_mesh

# 64 px images, four a batch. Of the coarse level no anchor lies inside. No object that claims
# anchors lies inside several, which would tie or not as float32 rounds.
SIDE, BATCH, ROOM, CLASSES, CHANNELS, STRIDES = 64, 4, 4, 3, 16, (4, 8)
RPN = RPNConfig(STRIDES, samples=256, proposals_per_level=24, proposals=32)
ROI = RoIConfig(CLASSES, hidden=64, extend_factor=(1.4, 1.2), samples=80, max_detections=16)
HEADS = DetectionHeads(RPN, ROI)
BOXES = (
    [(22.3, 24.1, 30, 14, 0.5), (44.2, 42.7, 26, 20, -0.9)],
    [],
    [(33.4, 30.6, 40, 18, -0.3), (33.9, 31.2, 37, 19, -0.25), (12.7, 50.1, 17, 9, 1.2)],
    [(20.2, 40.4, 34, 13, -0.6), (45.8, 18.3, 31, 28, 0.1)],
)
LABELS = ([0, 2], [], [1, 0, 2], [2, 1])


def stack(rows):
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


TRUTHS = stack([pad_truths(b, c, ROOM) for b, c in zip(BOXES, LABELS, strict=True)])


@pytest.fixture(scope="module")
def start():
    """Weights, and maps that are trained like weights."""
    rng = np.random.default_rng(0)
    sides = [SIDE // stride for stride in STRIDES]
    maps = [jnp.float32(rng.normal(size=(BATCH, side, side, CHANNELS))) for side in sides]
    pooled = jnp.zeros((1, 1, 7, 7, CHANNELS))

    @jax.jit
    def weights(key):  # stage by stage, which compiles neither proposals nor detections
        first, second = OrientedRPN().init(key, maps), RoIHead(ROI).init(key, pooled)
        return unbox({"first_stage": first["params"], "second_stage": second["params"]})

    return {"weights": weights(jax.random.key(0)), "maps": maps}


@jax.jit
@partial(jax.value_and_grad, has_aux=True)
def loss_and_gradient(state, truths, key):
    variables = {"params": state["weights"]}
    return HEADS.apply(variables, state["maps"], truths, method="loss", rngs={"sample": key})


@jax.jit
def predict(state):
    return HEADS.apply({"params": state["weights"]}, state["maps"])


def test_losses_equal_the_slow_ones(start):
    # So large that no two stages agree by saying nothing.
    weights, maps = jax.tree.map(lambda x: 4 * x, start["weights"]), start["maps"]
    scores = OrientedRPN().apply({"params": weights["first_stage"]}, maps)
    logits, offsets = (np.asarray(x, np.float64) for x in scores)
    stage1, rows = [], []
    for image in range(BATCH):
        boxes = np.array(BOXES[image]).reshape(-1, 5)
        stage1.append(slow.first_stage(logits[image], offsets[image], boxes, SIDE, STRIDES))
        found = slow.proposals(logits[image], offsets[image], SIDE, STRIDES, 24, 32)
        assert 24 < len(found) <= 32
        rows.append(slow.regions(found, boxes, LABELS[image], CLASSES))
    objectness, regression, count, positive = np.sum(stage1, axis=0)

    regions = np.zeros((BATCH, max(map(len, rows)), 5), np.float32)
    for image, row in enumerate(rows):
        regions[image, : len(row)] = [box for box, _, _ in row]
    pooled = jax.jit(roi_align, static_argnames="strides")(
        maps, jnp.asarray(regions * [1, 1, 1.4, 1.2, 1]), STRIDES
    )
    scores = RoIHead(ROI).apply({"params": weights["second_stage"]}, pooled)
    logits, deltas = (np.asarray(x, np.float64) for x in scores)
    stage2 = [slow.second_stage(logits[i], deltas[i], rows[i]) for i in range(BATCH)]
    classification, box = np.sum(stage2, axis=0)
    positive_regions = sum(target is not None for row in rows for _, _, target in row)
    num_regions = sum(map(len, rows))

    state = {"weights": weights, "maps": maps}
    (total, metrics), _ = loss_and_gradient(state, TRUTHS, jax.random.key(0))
    expected = {
        "rpn_objectness_loss": objectness / count,
        "rpn_offset_loss": regression / count,
        "roi_class_loss": classification / num_regions,
        "roi_box_loss": box / num_regions,
        "positive_anchors_per_image": positive / BATCH,
        "positive_regions_per_image": positive_regions / BATCH,
        "truncated_objects_per_image": 0,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(total, sum(v for k, v in metrics.items() if "loss" in k), rtol=1e-6)
    # Neither kind of positive is there by its objects alone.
    assert positive > 7 and positive_regions > 7


def test_fresh_layers_are_the_references(start):
    first, second = start["weights"]["first_stage"], start["weights"]["second_stage"]
    layers = [first[name] for name in ("conv", "objectness", "offsets")]
    layers += [second[name] for name in ("fc1", "fc2", "classes", "deltas")]
    assert all(jnp.all(layer["bias"] == 0) for layer in layers)
    stds = [jnp.std(layer["kernel"]) for layer in layers]
    uniform = [(2 / (fan_in + ROI.hidden)) ** 0.5 for fan_in in (49 * CHANNELS, ROI.hidden)]
    np.testing.assert_allclose(stds, [0.01, 0.01, 0.01, *uniform, 0.01, 0.001], rtol=0.25)


def test_training_finds_the_boxes(start):
    first, second = start["weights"]["first_stage"], start["weights"]["second_stage"]
    # Steps as large as these need a start that is not surprised by background: else the few
    # hidden units all learn to say it, and die on objects.
    classes = second["classes"] | {"bias": jnp.zeros(CLASSES + 1).at[-1].set(3)}
    first = jax.tree.map(lambda x: 4 * x, first)
    weights = {"first_stage": first, "second_stage": second | {"classes": classes}}
    state = {"weights": weights, "maps": start["maps"]}
    truths = TRUTHS._replace(valid=TRUTHS.valid.at[2, 1:].set(False))  # overlap, and too small
    optimizer = optax.adam(3e-3)
    moments = optimizer.init(state)

    @jax.jit
    def update(gradient, state, moments):
        change, moments = optimizer.update(gradient, moments, state)
        return optax.apply_updates(state, change), moments

    for step in range(90):
        _, gradient = loss_and_gradient(state, truths, jax.random.key(step))
        state, moments = update(gradient, state, moments)
    found = predict(state)
    for image in range(BATCH):
        sure = np.asarray(found.valid[image] & (found.scores[image] > 0.5))
        valid = np.asarray(truths.valid[image])
        assert sure.sum() == valid.sum()
        for box, label in zip(truths.boxes[image][valid], truths.classes[image], strict=False):
            of_class = sure & np.asarray(found.classes[image] == label)
            overlap = rotated_iou(found.boxes[image], box)
            assert np.max(overlap, where=of_class, initial=0) > 0.9
    assert jnp.all(jnp.diff(found.scores) <= 0)
    assert jnp.all(jnp.where(found.valid[..., None], 0, found.boxes) == 0)


HARD = {
    "no objects at all": [[]] * BATCH,
    "partly and wholly outside": [[(0, 0, 60, 20, 0.7)], [(70, 30, 40, 20, 0)],
                                  [(200, -90, 30, 10, 1)], [(32, 32, 400, 300, 0.2)]],
    "one pixel, and thinner": [[(30, 30, 1, 1, 0)], [(31.5, 20, 40, 1, 0.3)],
                               [(10, 10, 1e-4, 1e-5, 0)], [(32, 32, 64, 1e-3, -1.5)]],
    "parallel, square, twice the same": [[(32, 32, 20, 20, 0)] * 2, [(32, 32, 30, 10, -np.pi / 2)],
                                         [(16, 16, 32, 32, 0)], [(32, 32, 64, 64, 0)]],
    "not boxes": [[(np.nan, 30, 10, 10, 0)], [(30, 30, np.inf, 10, 0)], [(30, 30, -5, 4, 0)],
                  [(1e30, 0, 10, 10, 0)]],
}  # fmt: skip


def unchecked_truths(boxes):
    """As given, also what `pad_truths` would leave out."""
    count = len(boxes)
    boxes = np.pad(np.float32(boxes).reshape(-1, 5), ((0, ROOM - count), (0, 0)))
    return Truths(boxes, np.zeros(ROOM, np.int32), np.arange(ROOM) < count, np.int32(0))


@pytest.mark.parametrize("case", HARD)
def test_hard_objects_leave_everything_finite(start, case):
    truths = stack([unchecked_truths(boxes) for boxes in HARD[case]])
    (total, metrics), gradient = loss_and_gradient(start, truths, jax.random.key(0))
    assert np.isfinite(total)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    if case in ("no objects at all", "not boxes"):
        assert metrics["positive_anchors_per_image"] == metrics["roi_box_loss"] == 0
        assert metrics["rpn_objectness_loss"] > 0 and metrics["roi_class_loss"] > 0
    else:
        assert metrics["roi_box_loss"] > 0


def test_masked_objects_are_as_if_absent(start):
    masked = TRUTHS._replace(valid=TRUTHS.valid.at[2].set(False))
    absent = masked._replace(boxes=TRUTHS.boxes.at[2].set(0))
    (a, _), _ = loss_and_gradient(start, masked, jax.random.key(0))
    (b, _), _ = loss_and_gradient(start, absent, jax.random.key(0))
    (c, _), _ = loss_and_gradient(start, TRUTHS, jax.random.key(0))
    assert a == b != c


def test_truncated_objects_are_counted(start):
    many = [(20 + i, 30, 12, 8, 0) for i in range(7)]
    dropped = [(30, 30, 1.9, 1, 0), (np.nan, 30, 10, 10, 0)]
    full = pad_truths(dropped + many, [2, 2, *range(7)], ROOM)
    np.testing.assert_array_equal(full.boxes, np.float32(many[:ROOM]))
    assert full.classes.tolist() == [0, 1, 2, 3]
    assert full.valid.all() and full.truncated == 3
    truths = stack([full, *[pad_truths([], [], ROOM)] * (BATCH - 1)])
    (_, metrics), _ = loss_and_gradient(start, truths, jax.random.key(0))
    assert metrics["truncated_objects_per_image"] == 3 / BATCH


class TestSampling:
    def test_anchors(self):
        config = RPNConfig((4,), samples=6)
        draw = jax.jit(partial(anchor_targets, image_size=(SIDE, SIDE), config=config))
        truths = jax.tree.map(lambda x: x[2], TRUTHS)
        drawn = [draw(jax.random.key(seed), truths) for seed in (0, 0, 1)]
        for targets in drawn:
            assert targets.used.all()
            assert targets.positive.tolist() == [True] * 3 + [False] * 3  # of 11 positives
            assert len(set(targets.index.tolist())) == 6
        assert drawn[0].index.tolist() == drawn[1].index.tolist() != drawn[2].index.tolist()

    def test_regions(self):
        truths = jax.tree.map(lambda x: x[0], TRUTHS)
        proposals = jnp.tile(truths.boxes[:1], (10, 1)).at[:, 0].add(jnp.arange(10) * 0.1)
        background = jnp.array([[50.0, 10, 8, 4, 0]])
        proposals = jnp.concatenate([proposals, background, jnp.zeros((3, 5))])
        config = RoIConfig(CLASSES, samples=16)
        targets = jax.jit(partial(region_targets, config=config))(
            jax.random.key(0), proposals, truths
        )
        # A quarter may be positive, one proposal is background, and the rest is padding.
        assert targets.positive.sum() == 4 and targets.used.sum() == 5
        assert set(targets.classes[:4].tolist()) <= {0, 2}
        assert targets.classes[4:].tolist() == [CLASSES] * 12
        np.testing.assert_array_equal(targets.boxes[4], [50, 10, 8, 4, 0])
        assert jnp.all(targets.boxes[5:] == 0)


def test_detections_of_a_hand_made_case():
    """Three proposals, the second nearly the first, and padding; two classes."""
    proposals = np.zeros((5, 5), np.float32)
    proposals[:3] = [(20, 20, 20, 10, 0.5), (21, 20, 20, 10, 0.5), (50, 70, 10, 4, 0)]
    probability = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.94, 0.04, 0.02],
                            [0.9, 0.05, 0.05], [0.9, 0.05, 0.05]])  # fmt: skip
    deltas = np.zeros((5, 5), np.float32)
    deltas[2, 4] = 10 * (np.pi / 2 + 0.1)  # encoded with a deviation of 0.1
    config = RoIConfig(2, max_detections=4)
    found = jax.jit(partial(detect, image_size=(64, 64), config=config))(
        RegionScores(jnp.float32(np.log(probability)), deltas), proposals
    )
    assert found.valid.tolist() == [True, True, True, False]
    np.testing.assert_allclose(found.scores, [0.94, 0.6, 0.4, 0], atol=1e-6)
    assert found.classes.tolist() == [0, 0, 1, 0]
    # The centre is kept in the image, the angle in [-pi/2, pi/2).
    expected = [(50, 63, 10, 4, 0.1 - np.pi / 2), proposals[0], proposals[1], np.zeros(5)]
    np.testing.assert_allclose(found.boxes, np.stack(expected), atol=1e-5)


def test_training_on_eight_devices_equals_one():
    # Compiling takes all the time here; the first flag is explained in `test_upernet`.
    flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
    run = run_python("-m", "tests.sharded_oriented_rcnn", devices=8, XLA_FLAGS=flags)
    assert run.returncode == 0, run.stderr
    whole, sharded = json.loads(run.stdout)
    assert whole["positive_regions_per_image"] > 2
    assert whole.keys() == sharded.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(sharded[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("size", ["vit_b12x1", "vit_l12x4", "vit_h12x4", "vit_g12x4"])
def test_full_sizes_shard_and_answer_in_float32(size):
    encoder = ViTConfig(vit_size(size), dtype=jnp.bfloat16)
    model = OrientedRCNN(ViTDetConfig(encoder, grid=(64, 64)), RoIConfig(num_classes=18))
    images = jnp.zeros((2, 1024, 1024, 3))
    found, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert found.boxes.shape == (2, 2000, 5)
    assert found.boxes.dtype == found.scores.dtype == jnp.float32
    tree_shardings(variables, abstract_mesh(fsdp=8, model=4))  # refuses more than 2 % whole
    truths = jax.tree.map(lambda x: x[:2], TRUTHS)
    rngs = {"sample": jax.random.key(1), "drop_path": jax.random.key(2)}
    total, _ = jax.eval_shape(
        lambda v: model.apply(v, images, truths, method="loss", rngs=rngs), variables
    )
    assert total.shape == () and total.dtype == jnp.float32
