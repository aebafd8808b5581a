"""The segmentation task: its loss against torch, its training, its evaluation, bad input."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from configs import segment_loveda, segment_potsdam
from rsfm_jax.data.formats import loveda
from rsfm_jax.errors import UserError
from rsfm_jax.flops import training_flops
from rsfm_jax.models.convolution import Conv, TransposedConv
from rsfm_jax.models.flops import vitdet_flops
from rsfm_jax.models.segmentation_losses import segmentation_loss
from rsfm_jax.models.upernet import SegmentationLogits
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import unbox
from rsfm_jax.tasks import make_task
from rsfm_jax.tasks.segment import Segment
from rsfm_jax.training import loop
from rsfm_jax.training.program import accumulate_gradients, build_program
from rsfm_jax.training.state import create_state
from rsfm_jax.training.transfer import load_initial
from tests import tiny, tiny_segment
from tests.conftest import run_python
from tests.test_segment_data import chart


def make(**overrides):
    config = tiny_segment.get_config()
    config.update(overrides)
    mesh = make_mesh(config)
    return config, mesh, Segment(config, mesh)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_is_torchs_and_finite_where_nothing_is_labelled():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    shapes = (2, 6, 5, 4), (2, 3, 3, 4)
    logits = SegmentationLogits(*(3 * rng.normal(size=x).astype(np.float32) for x in shapes))
    labels = rng.choice([0, 1, 2, 3, 255], (2, 12, 10)).astype(np.uint8)

    def reference(values, weight):
        scores = torch.tensor(values).permute(0, 3, 1, 2).requires_grad_()
        large = functional.interpolate(scores, (12, 10), mode="bilinear", align_corners=False)
        target = torch.tensor(labels.astype(np.int64))
        total = functional.cross_entropy(large, target, ignore_index=255, reduction="sum")
        (weight * total / labels.size).backward()
        right = (large.argmax(1) == target)[target != 255].float().mean()
        return total.item() / labels.size, scores.grad.permute(0, 2, 3, 1), right.item()

    main, main_gradient, right = reference(logits.main, 1.0)
    auxiliary, auxiliary_gradient, _ = reference(logits.auxiliary, 0.4)
    compute = jax.value_and_grad(lambda x, y: segmentation_loss(x, y), has_aux=True)
    (loss, metrics), gradients = compute(logits, labels)
    np.testing.assert_allclose(loss, main + 0.4 * auxiliary, rtol=1e-6)
    np.testing.assert_allclose(metrics["main_loss"], main, rtol=1e-6)
    np.testing.assert_allclose(metrics["auxiliary_loss"], auxiliary, rtol=1e-6)
    np.testing.assert_allclose(metrics["pixel_accuracy"], right, rtol=1e-6)
    np.testing.assert_allclose(gradients.main, main_gradient, atol=1e-8)
    np.testing.assert_allclose(gradients.auxiliary, auxiliary_gradient, atol=1e-8)

    (loss, metrics), gradients = compute(logits, np.full_like(labels, 255))
    assert loss == 0 and metrics["pixel_accuracy"] == 0
    assert not gradients.main.any() and not gradients.auxiliary.any()


def test_preparing_flips_image_and_mask_together_and_fills_padding():
    example = chart(32, 32)
    _, _, task = make()
    task.config.data.photometric = False
    batch = {
        "image": np.repeat(example["image"][None], 16, 0),
        "mask": np.repeat(example["mask"][None], 16, 0),
        "inside": np.int32([[20, 32]] * 16),
    }
    prepared = task.prepare(batch, jax.random.key(0))
    kinds = set()
    for image, mask in zip(*(np.asarray(prepared[key]) for key in ("image", "mask")), strict=True):
        matches = [
            (np.flip(mask, axes) == example["mask"]).all()
            and (np.flip(image, axes)[:20] == example["image"][:20]).all()
            and (np.flip(image, axes)[20:] == (124, 116, 104)).all()  # the means, in levels
            for axes in ((), (0,), (1,), (0, 1))
        ]
        assert sum(matches) == 1
        kinds.add(matches.index(True))
    assert kinds == {0, 1, 2, 3}


def test_parts_of_a_batch_pass_their_statistics_on():
    _, _, task = make()
    variables = unbox(task.init(jax.random.key(0)))
    state = create_state(variables, optimizer=_Nothing, averaged=False)
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.integers(0, 256, (8, 32, 32, 3), np.uint8),
        "mask": rng.integers(0, 10, (8, 32, 32), np.uint8),
    }
    key = jax.random.key(1)
    loss = jax.jit(jax.value_and_grad(lambda p, *rest: _loss(task, p, *rest), has_aux=True))
    statistics, total, gradients = variables["batch_stats"], 0.0, []
    for part, rng in enumerate(jax.random.split(key, 2)):
        rows = {name: x[part::2] for name, x in inputs.items()}  # row i * 2 + a is in part a
        (value, statistics), gradient = loss(variables["params"], statistics, rows, rng)
        total += value / 2
        gradients.append(gradient)
    accumulate = jax.jit(lambda s, x, r: accumulate_gradients(task.loss, s, x, r, 2))
    ours, metrics, new = accumulate(state, inputs, key)
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), new, statistics)
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a, (b + c) / 2, atol=2e-6), ours, *gradients
    )


class _Nothing:
    init = staticmethod(lambda params: ())


def _loss(task, params, statistics, rows, rng):
    value, _, new = task.loss({"params": params, "batch_stats": statistics}, rows, rng)
    return value, new


def test_eight_devices_train_as_one():
    # Flags as in test_upernet.
    flags = "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0"
    run = run_python("-m", "tests.sharded_segment", devices=8, XLA_FLAGS=flags)
    assert run.returncode == 0, run.stderr
    whole, sharded = json.loads(run.stdout)
    for one, eight in zip(whole["metrics"], sharded["metrics"], strict=True):
        for key, value in one.items():
            np.testing.assert_allclose(eight[key], value, rtol=1e-4, err_msg=key)
    for ours, expected in zip(sharded["statistics"], whole["statistics"], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A tiny MAE of a few steps."""
    workdir = tmp_path_factory.mktemp("mae")
    config = tiny.get_config()
    config.total_steps, config.optimizer.warmup_steps, config.eval.every_steps = 3, 1, 0
    mesh = make_mesh(config)
    loop.train(make_task(config, mesh), config, mesh, workdir)
    return workdir


@pytest.fixture(scope="module")
def finished(pretrained, tmp_path_factory):
    """Six steps of segmentation from the MAE's weights."""
    workdir = tmp_path_factory.mktemp("segment")
    config, mesh, task = make(init_from=str(pretrained))
    loop.train(task, config, mesh, workdir)
    return workdir


def test_training_starts_from_the_maes_encoder_and_shows_itself(finished, pretrained):
    config, mesh, task = make()
    fresh = unbox(task.init(jax.random.key(0)))["params"]
    metadata = loop.run_metadata(task, config)["config"]
    taken = flatten_dict(load_initial(str(pretrained), fresh, task, metadata), sep="/")
    for name, value in flatten_dict(fresh, sep="/").items():
        is_new = "relative" in name or not name.startswith("encoder/")
        if value.ndim > 1:  # biases and scales start alike everywhere
            assert is_new == (np.asarray(taken[name]) == np.asarray(value)).all(), name

    assert [line["step"] for line in lines(finished) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    last = lines(finished)[-1]
    assert {"eval/miou", "eval/mf1", "eval/oa"} <= last.keys() and 0 <= last["eval/miou"] <= 1
    for figure in ("tiles", "confusion"):
        picture = np.asarray(Image.open(finished / "figures" / f"{figure}.png").convert("RGB"))
        assert picture.std() > 10


def test_a_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    workdir = tmp_path / "resumed"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "metrics.jsonl").unlink()
    config, mesh, task = make()
    loop.train(task, config, mesh, workdir)
    # `eval/` sees the running statistics too.
    wanted = ("loss", "grad_norm", "eval/miou", "eval/oa")
    later = [line for line in lines(finished) if line["step"] > 3]
    assert [line["step"] for line in lines(workdir)] == [line["step"] for line in later]
    for ours, expected in zip(lines(workdir), later, strict=True):
        for key in wanted:
            assert ours.get(key) == expected.get(key)


def test_whole_tiles_and_a_submission(tmp_path):
    """LoveDA's layout, tiles smaller and larger than the crop, one all ignored, test unlabelled."""
    rng = np.random.default_rng(0)
    sizes = {"Val": ((20, 24), (50, 70)), "Test": ((40, 33),)}
    for split, shapes in sizes.items():
        for domain in loveda.DOMAINS:
            for number, shape in enumerate(shapes):
                folder = tmp_path / "raw" / split / domain
                name = f"{domain[0]}{number}"
                image = rng.integers(0, 256, (*shape, 3), np.uint8)
                mask = rng.integers(0, 8, shape, np.uint8) if number else np.zeros(shape, np.uint8)
                for part, pixels in (("images_png", image), ("masks_png", mask)):
                    if split == "Val" or part == "images_png":
                        (folder / part).mkdir(parents=True, exist_ok=True)
                        Image.fromarray(pixels).save(folder / part / f"{name}.png")
    config = tiny_segment.get_config()
    config.data.classes, config.data.colours = loveda.CLASSES, loveda.COLOURS
    config.eval.source, config.eval.submission_split = str(tmp_path / "raw"), "test"
    mesh = make_mesh(config)
    task = Segment(config, mesh)
    variables = unbox(jax.jit(task.init)(jax.random.key(0)))
    metrics = task.evaluate(variables, 0, tmp_path)
    assert 0 < metrics["oa"] < 1 and metrics["miou"] <= metrics["mf1"]
    shutil.unpack_archive(tmp_path / "submission.zip", tmp_path / "sent")
    for name in ("U0", "R0"):
        classes = np.asarray(Image.open(tmp_path / "sent" / f"{name}.png"))
        assert classes.shape == (40, 33) and classes.max() <= 6
    image = np.asarray(Image.open(tmp_path / "raw/Test/Rural/images_png/R0.png"))
    alone = task.predict(variables, image[None, :32, :32])[0]
    assert alone.shape == (32, 32, 7)  # the only window over the upper left corner's first pixel
    assert classes[0, 0] == alone[0, 0].argmax()

    config.data.classes = loveda.CLASSES[:6]
    config.data.colours = ()
    with pytest.raises(UserError, match="classes are not LoveDA's"):
        Segment(config, mesh)


@pytest.mark.parametrize("size", ["vit_b12x1", "vit_l12x4", "vit_h12x4", "vit_g12x4"])
def test_the_published_recipes_trace_at_full_size(size):
    config = segment_loveda.get_config(size)
    mesh = make_mesh(config)
    task = make_task(config, mesh)
    program = build_program(task, config, mesh)
    with jax.set_mesh(mesh):
        state, metrics = jax.eval_shape(
            program.train_step, program.abstract_state, task.abstract_batch()
        )
    assert metrics["loss"].shape == () and state.params["head"]["classifier"]["conv"]["bias"].shape
    assert config.optimizer.base_lr * config.batch_size / config.optimizer.base_batch_size == 6e-5
    for variant, count in ((size, 5), (f"{size},5", 5), (f"{size},6", 6)):
        protocol = Segment(segment_potsdam.get_config(variant), mesh).protocol
        assert len(protocol.classes) == count and (5 in protocol.ignored) == (count == 5)
    with pytest.raises(UserError, match="5 or 6"):
        segment_potsdam.get_config(f"{size},7")


def test_flops_count_every_convolution_of_the_model():
    """Kernel x outputs of each convolution in the traced model, two FLOPs each, three passes."""
    config = segment_potsdam.get_config("vit_b12x1,6")
    task = Segment(config, make_mesh(config))
    images = jnp.zeros((1, 512, 512, 3))

    def trace():
        kinds = (Conv, TransposedConv)
        return task.model.init_with_output(
            jax.random.key(0), images, capture_intermediates=lambda module, _: type(module) in kinds
        )

    _, variables = jax.eval_shape(trace)
    kernels = flatten_dict(unbox(variables["params"]), sep="/")
    total = 0
    for name, (output,) in flatten_dict(variables["intermediates"], sep="/").items():
        kernel = kernels[name.replace("__call__", "kernel")]
        pixels = output.shape[1] * output.shape[2]
        if kernel.shape[1:3] == (2, 2):
            pixels //= 4  # transposed: every input pixel meets the whole kernel
        total += 2 * pixels * kernel.size
    backbone = training_flops(vitdet_flops(task.model.backbone))
    assert training_flops(task.flops) == backbone + 3 * total
