"""Classification: the heads against torch, the real loop from MAE weights, scores, bad input."""

import json
from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, recall_score

from configs import classify_tiny
from rsfm_jax.data.device import normalize
from rsfm_jax.errors import UserError
from rsfm_jax.evaluation.classification import accuracies
from rsfm_jax.models.vit import ViT, patchify, sincos_positions
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import unbox
from rsfm_jax.tasks import make_task
from rsfm_jax.tasks.pretrain_evaluation import encode
from rsfm_jax.training import loop
from rsfm_jax.training.checkpoints import find_checkpoint, load_variables, read_weights
from rsfm_jax.training.program import build_program
from tests import tiny
from tests.conftest import run_python
from tests.data_prep_raw import build, raw_root


def small(recipe="finetune", **data):
    """`tests/tiny.py`'s encoder and images."""
    config = classify_tiny.get_config(recipe)
    config.batch_size = 16
    config.total_steps = 6
    config.log_every_steps = 1
    config.model.size = "vit_micro2x4"
    config.optimizer.warmup_steps = 1
    config.data.source = "synthetic:64"
    config.data.image_size = 32
    config.data.update(data)
    config.checkpoint.every_steps = 3
    config.eval.every_steps = 0
    config.eval.source = "synthetic:40"
    config.eval.batch_size = 16
    return config


def train(config, workdir):
    mesh = make_mesh(config)
    task = make_task(config, mesh)
    workdir.mkdir(exist_ok=True)
    loop.train(task, config, mesh, workdir)
    return task


def metrics(workdir):
    """Last training loss and last accuracy of every step that has one."""
    lines = list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))
    return {line["step"]: line["loss"] for line in lines if "loss" in line}, lines[-1]


def weights(workdir):
    return flatten_dict(read_weights(find_checkpoint(workdir))["params"], sep="/")


def mean_tokens(task, variables, pixels):
    """The features that pretraining's evaluation probes."""
    features = jax.jit(partial(encode, task.config, task.classifier.encoder))
    return np.asarray(features(variables["params"], {"image": pixels}))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A work folder of MAE pretraining."""
    config = tiny.get_config()
    config.total_steps = 6
    config.eval.every_steps = 0
    workdir = tmp_path_factory.mktemp("pretrained")
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def probed(pretrained, tmp_path_factory):
    """(task, work folder) of a linear probe of it."""
    config = small("linear")
    config.init_from = str(pretrained)
    config.optimizer.weight_decay = 0.1  # must not reach the encoder
    workdir = tmp_path_factory.mktemp("probed")
    return train(config, workdir), workdir


def test_a_probe_trains_its_head_and_leaves_the_encoder_alone(pretrained, probed):
    task, workdir = probed
    before, after = weights(pretrained), weights(workdir)
    encoder = [name for name in after if name.startswith("encoder/")]
    assert len(encoder) == len(after) - 2
    for name in encoder:
        np.testing.assert_array_equal(after[name], before[name])
    assert np.abs(after["head/bias"]).min() > 0
    state = build_program(task, task.config, task.mesh).abstract_state
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [after["head/kernel"].shape, after["head/bias"].shape])


def test_a_probe_sees_the_features_of_pretraining(probed):
    """Its scores by hand from `encode`, and those features from the encoder's tokens."""
    task, workdir = probed
    state = build_program(task, task.config, task.mesh).abstract_state
    variables = load_variables(find_checkpoint(workdir), state)
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    features = mean_tokens(task, variables, pixels)
    images = normalize(jnp.array(pixels), task.config.data.mean, task.config.data.std)
    tokens = jax.jit(ViT(task.classifier.encoder).apply)(
        {"params": params["encoder"]}, patchify(images, 8), sincos_positions((4, 4), 64)
    )
    np.testing.assert_allclose(features, tokens[:, 1:].mean(1), atol=1e-6)
    assert np.abs(stats["mean"]).max() > 0  # it has trained
    x = (features - stats["mean"]) / np.sqrt(stats["variance"] + 1e-6)
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    expected = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(task.predict(variables, pixels), expected, atol=1e-5)


@pytest.mark.parametrize("recipe", ["finetune", "linear"])
def test_head_and_loss_are_torchs(recipe):
    """Norm, running statistics and smoothed cross-entropy, given the same mean tokens."""
    torch = pytest.importorskip("torch")
    config = small(recipe)
    config.model.label_smoothing = 0.1
    task = make_task(config, make_mesh(config))
    variables = unbox(jax.jit(task.init)(jax.random.key(0)))
    kernel = jax.random.normal(jax.random.key(1), variables["params"]["head"]["kernel"].shape)
    variables["params"]["head"]["kernel"] = kernel
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 8, 16, np.int32),
    }
    loss, scores, stats = jax.jit(task.loss)(variables, batch, jax.random.key(2))

    features = mean_tokens(task, variables, batch["image"])
    x = torch.tensor(features)
    width = x.shape[1]
    if recipe == "linear":
        norm = torch.nn.BatchNorm1d(width, affine=False, eps=1e-6)
    else:
        norm = torch.nn.LayerNorm(width, eps=1e-6)
    logits = norm(x) @ torch.tensor(np.asarray(kernel))
    labels = torch.tensor(batch["label"]).long()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert float(loss) == pytest.approx(expected.item(), rel=1e-4)
    assert float(scores["accuracy"]) == (logits.argmax(1) == labels).float().mean().item()
    if recipe == "linear":
        np.testing.assert_allclose(stats["norm"]["mean"], norm.running_mean, atol=1e-5)
        np.testing.assert_allclose(stats["norm"]["variance"], norm.running_var, atol=1e-5)
    else:
        assert stats == {}


def test_fine_tuning_resumes_to_the_same_losses_and_beats_chance(pretrained, tmp_path):
    """Eight kinds of drawn scenes; 80 steps in one go, and cut off after 60."""
    config = small()
    config.init_from = str(pretrained)
    config.total_steps = 80
    config.batch_size = 32
    config.optimizer.base_lr = 0.04
    config.optimizer.layer_decay = 1.0
    config.data.crop_scale = (0.5, 1.0)
    config.data.source = "synthetic:256"
    config.checkpoint.every_steps = 60
    train(config, tmp_path)
    losses, last = metrics(tmp_path)
    assert last["eval/accuracy"] > 0.4  # chance is 0.125
    confusion = np.asarray(Image.open(tmp_path / "figures" / "confusion.png").convert("RGB"))
    assert confusion.std() > 10
    before, after = weights(pretrained), weights(tmp_path)
    assert all((after[name] != before[name]).any() for name in after if name in before)

    newest = find_checkpoint(tmp_path)
    newest.rename(tmp_path / "apart")
    (tmp_path / "metrics.jsonl").rename(tmp_path / "earlier.jsonl")
    train(config, tmp_path)
    resumed, _ = metrics(tmp_path)
    assert resumed == {step: losses[step] for step in range(61, 81)}


def test_accuracies_are_scikit_learns():
    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    labels, predicted = rng.integers(0, 3, (2, 50))
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (labels, predicted), 1)
    scores = accuracies(counts, names)
    assert scores["accuracy"] == np.mean(labels == predicted)
    assert scores["mean_class_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    recalls = recall_score(labels, predicted, average=None)
    np.testing.assert_allclose([scores[f"accuracy/{name}"] for name in names], recalls)


@pytest.mark.parametrize(
    ("name", "size"), [("classify_finetune", "vit_l12x4"), ("classify_linear", "vit_g12x4")]
)
def test_the_recipes_build_at_the_papers_sizes(name, size):
    config = import_module(f"configs.{name}").get_config(size)
    config.data.classes = ("forest", "harbor")
    mesh = make_mesh(config)
    task = make_task(config, mesh)
    state = build_program(task, config, mesh).abstract_state
    width = task.classifier.encoder.size.width
    assert state.params["head"]["kernel"].shape == (width, 2)
    trained = sum(x.size for x in jax.tree.leaves(state.params))
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * (2 * width + 2 if name == "classify_linear" else trained)


def write_images(folder, counts):
    """One subfolder a class with that many images."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 40), (5 * number, 0, 0)).save(folder / name / f"{number}.png")
    return str(folder)


def test_labels_that_cannot_be_trained_on_are_refused(tmp_path):
    one = write_images(tmp_path / "one", {"only": 3})
    three = write_images(tmp_path / "three", {"a": 9, "b": 9, "c": 1})
    two = write_images(tmp_path / "two", {"a": 4, "b": 4})
    other = write_images(tmp_path / "other", {"a": 4, "b": 4, "d": 4})
    rows = np.arange(16)

    def refused(words, evaluated="", **data):
        config = small(**data)
        if evaluated:
            config.eval.source, config.eval.split = evaluated, "train"
        with pytest.raises(UserError, match=words) as error:
            task = make_task(config, make_mesh(config))
            if evaluated:
                task.evaluate({}, 0, tmp_path)
            else:
                task.batches(rows, 0)
        assert "\n" not in str(error.value)

    refused("config.data.source=.*one: images of two classes or more", source=one)
    refused("fraction=0.1: no image of class .* among the 2 in use", source=three, fraction=0.1)
    refused("other classes than the model's: has c besides", source=three, classes=("a", "b"))
    refused("classes=.'a',. must be", source=three, classes=("a",))
    refused("eval.source=.*two, split train: .*: lacks c$", evaluated=two, source=three)
    refused("lacks c and has d besides", evaluated=other, source=three)
    refused(
        "two, split train: .*the same in another order", evaluated=two, source=two,
        classes=("b", "a"),
    )  # fmt: skip
    refused("eval.source=.*one: images of two classes", evaluated=one, source=three)


def test_unlabelled_records_are_refused(tmp_path):
    """MillionAID's larger part has no labels."""
    folder = build("millionaid", raw_root() / "millionaid", tmp_path)
    config = small(source=str(folder))
    words = r"fraction=1.0: \d+ of \d+ images have no label \(-1\)"
    with pytest.raises(UserError, match=words):
        make_task(config, make_mesh(config)).batches(np.arange(16), 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.data.source={one}"], "one: images of two classes or more"),
        (["--config.model.frozen=('decoder',)"], "no part 'decoder'; its parts are encoder, "),
        (["--workdir={probed}", "--config.data.source={two}"], "with classes "),
    ],
)
def test_bad_input_to_the_command_is_one_line_and_exit_2(arguments, words, probed, tmp_path):
    """The last one resumes a probe of eight kinds of scenes on two."""
    folders = {
        "one": write_images(tmp_path / "one", {"only": 3}),
        "two": write_images(tmp_path / "two", {"a": 4, "b": 4}),
        "probed": probed[1],
    }
    arguments = [text.format(**folders) for text in arguments]
    shape = ("--config.model.size=vit_micro2x4", "--config.data.image_size=32")
    run = run_python(
        "launch/main.py", "--config=configs/classify_tiny.py:linear", *shape,
        f"--workdir={tmp_path / 'new'}", *arguments,
    )  # fmt: skip
    assert run.returncode == 2, run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and run.stderr.endswith(errors[0] + "\n")
    assert words in errors[0]
