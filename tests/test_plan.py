"""launch/plan.py on fake devices; on TPUs and GPUs where their compilers are installed."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from rsfm_jax.errors import UserError
from rsfm_jax.flops import training_flops
from rsfm_jax.models.flops import mae_flops
from rsfm_jax.models.mae import MAE, MAEConfig, draw_mask, reconstruction_loss, targets
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.plan import compile as compiling
from rsfm_jax.plan import search as searching
from rsfm_jax.plan.products import product_flops
from rsfm_jax.plan.report import as_text
from rsfm_jax.plan.roofline import Roofline
from rsfm_jax.plan.search import meshes
from rsfm_jax.plan.targets import parse_target
from rsfm_jax.sharding.hardware import CHIPS, GIB
from tests import tiny
from tests.conftest import run_python

# Weights of tests/tiny.py that are split over fsdp: two encoder and one decoder layer's four
# products, three embeddings and the prediction.
ENCODER_LAYER = 64 * 3 * 256 + 256 * 64 + 2 * 64 * 512
DECODER_LAYER = 4 * 64 * 64 + 2 * 64 * 256
SPLIT = 2 * ENCODER_LAYER + DECODER_LAYER + 192 * 64 + 64 * 64 + 64 * 192


def plan(*arguments: str):
    return run_python("launch/plan.py", "--config=tests/tiny.py", *arguments)


def row_sums(tokens: int, width: int, depth: int) -> int:
    """Of an image's blocks: gradients of output biases and norms, each a product with 8 ones."""
    return (6 * depth + 2) * 2 * 8 * tokens * width


class TestOnFakeDevices:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls):
        run = plan("--topology=cpu:8", "--json", "--config.mesh.fsdp=4", "--config.mesh.data=2")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    def test_weights_and_moments_of_a_device(self, found):
        small = found["parameters"] - SPLIT
        weights = 4 * (SPLIT // 4 + small)
        assert found["memory"]["weights"] == weights
        counters = 5 * 4  # step, two of skipped steps, two of the optimizer's
        assert found["memory"]["optimizer"] == 2 * weights + counters
        assert found["memory"]["batch"] == 16 // 8 * 32 * 32 * 3
        assert found["fits"] and found["missing_bytes"] == 0

    def test_each_weight_is_gathered_once_a_pass(self, found):
        gathers = [each for each in found["facts"]["traffic"] if each["kind"] == "all-gather"]
        assert {each["axes"] for each in gathers} == {"fsdp"}
        carried = sum(each["bytes"] for each in gathers)
        assert SPLIT * 4 <= carried <= 2 * SPLIT * 4

    def test_gradients_are_summed_over_both_axes(self, found):
        axes = "+".join(
            sorted(
                each["axes"] for each in found["facts"]["traffic"] if each["kind"] != "all-gather"
            )
        )
        assert {"data", "fsdp"} <= set(axes.split("+"))

    def test_flops(self, found):
        assert found["devices"] == 8
        terms = sum(term["passes"] * term["forward"] for term in found["terms"])
        assert found["flops"] == 16 * terms
        # Beyond the model's own products: putting visible tokens back in place, and sums of rows.
        unshuffle = 16 * 2 * 2 * 16 * 4 * 64
        sums = 16 * (row_sums(5, 64, depth=2) + row_sums(17, 64, depth=1))
        assert found["computed_flops"] <= found["flops"] + unshuffle + sums
        assert found["computed_flops"] >= found["flops"]


def test_gradients_alone_are_less():
    step, gradients = (
        compiling.make_plan(tiny.get_config(), parse_target("cpu:1"), part)
        for part in ("step", "gradients")
    )
    assert gradients.facts.kernels < step.facts.kernels
    assert gradients.flops == step.flops
    assert gradients.memory.weights == step.memory.weights


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--topology=v5e"], "write v5e:8x8"),
        (["--topology=v9:2x2"], "unknown chip"),
        (["--topology=v5e:2x2x2"], "2 dimensions"),
        (["--topology=h200:12"], "multiple of 8"),
        (["--topology=cpu:0"], "at least one device"),
        (["--topology=cpu:3"], "not divisible"),
        ([], "--topology"),
        (["--topology=cpu:2", "--config.mesh.fsdp=4"], "does not fit"),
    ],
)
def test_bad_input_is_one_line(arguments, says):
    run = plan(*arguments)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and says in run.stderr


@pytest.mark.parametrize(
    ("module", "topology"), [("libtpu", "v5e:2x2"), ("jax_plugins.xla_cuda13", "h200:2")]
)
def test_a_missing_compiler_is_named(module, topology):
    if installed(module):
        pytest.skip(f"{module} is installed")
    run = plan(f"--topology={topology}")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1 and "pip install" in run.stderr


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


@pytest.mark.parametrize(
    ("module", "topology"), [("libtpu", "v5e:2x2"), ("jax_plugins.xla_cuda13", "h200:4")]
)
def test_compilers_that_are_installed(module, topology):
    if not installed(module):
        pytest.skip(f'{module} is not installed: pip install -e ".[plan]"')
    run = plan(f"--topology={topology}", "--json", "--config.model.dtype=bfloat16")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    kinds = {(each["kind"], each["dtype"]) for each in found["facts"]["traffic"]}
    assert any("gather" in kind and dtype == "bf16" for kind, dtype in kinds)
    assert 0 < found["mfu"] <= 1
    assert found["memory"]["capacity"] == parse_target(topology).chip.memory


class Refused:
    """What libtpu says of a program that does not fit."""

    def __init__(self, message: str):
        self.message = message

    def compile(self, compiler_options):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (16.87G) exceeds available HBM (15.75G).",
            16.87 * GIB,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 24.48G of 15.75G hbm. Exceeded hbm capacity by 8.73G.",
            24.48 * GIB,
        ),
    ],
)
def test_a_refused_program_tells_what_it_needs(message, needed):
    found = compiling._compile(Refused(message), parse_target("v5e:2x2"))
    assert found == pytest.approx(needed, abs=1)


def test_what_does_not_fit_says_by_how_much():
    target = parse_target("v5e:2x2")
    memory = compiling.Memory(GIB, 2 * GIB, 0, 14 * GIB, 0, 17 * GIB, target.chip.memory)
    found = compiling.Plan(
        target=target.text,
        devices=4,
        mesh={"data": 1, "fsdp": 4, "model": 1},
        batch_size=64,
        remat="none",
        parameters=7,
        terms=[],
        computed_flops=0,
        memory=memory,
        facts=None,
    )
    assert "does not fit, 1.25 GiB missing" in as_text(found, target)


class TestFlops:
    """The formulas against two counts that nobody here wrote by hand."""

    config = MAEConfig(
        ViTConfig(ViTSize(256, 3, 4, 512, num_branches=2), patch_size=16),
        decoder=ViTSize(128, 2, 4, 512),
    )

    @classmethod
    def loss(cls, params, images, noise):
        mask = draw_mask(noise, cls.config.mask_ratio)
        predicted = MAE(cls.config).apply({"params": params}, images, mask)
        return reconstruction_loss(predicted, targets(images, cls.config), mask)

    @pytest.fixture(scope="class")
    @classmethod
    def traced(cls):
        images, noise = jnp.zeros((2, 160, 160, 3)), jnp.zeros((2, 100))
        mask = draw_mask(noise, cls.config.mask_ratio)
        shapes = jax.eval_shape(MAE(cls.config).init, jax.random.key(0), images, mask)
        return jax.jit(jax.grad(cls.loss)).trace(shapes["params"], images, noise)

    def test_equal_the_traced_products(self, traced):
        # `unshuffle` is a product, forward and backward, but none of the model's.
        placing = 2 * 2 * 2 * 100 * 25 * 128
        sums = 2 * (row_sums(26, 256, depth=3) + row_sums(101, 128, depth=2))
        expected = 2 * training_flops(mae_flops(self.config, 160))
        assert product_flops(traced.jaxpr.jaxpr) == expected + placing + sums

    def test_agree_with_the_compilers_count(self, traced):
        # It adds elementwise work: a few operations a number, each in 256 and more multiply-adds.
        counted = traced.lower().compile().cost_analysis()["flops"]
        assert counted == pytest.approx(2 * training_flops(mae_flops(self.config, 160)), rel=0.05)


def test_recomputation_is_counted():
    def f(w, x):
        layer = jax.checkpoint(lambda y: jnp.tanh(y @ w))
        return layer(layer(x)).sum()

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    flops = product_flops(jax.jit(jax.grad(f)).trace(shape, shape).jaxpr.jaxpr)
    # Two products forward, both again, two gradients of the weight and one of the input.
    assert flops == 7 * 2 * 64**3


@pytest.mark.parametrize("devices", [1, 4])
def test_every_devices_share_of_a_mapped_product_is_counted(devices):
    mesh = AbstractMesh((devices, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def f(x, w):
        rows = jax.shard_map(
            jnp.matmul,
            mesh=mesh,
            in_specs=(PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec("data"),
            axis_names={"data"},
        )
        return rows(x, w)

    x, w = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 16), (16, 32)))
    assert product_flops(jax.jit(f).trace(x, w).jaxpr.jaxpr) == 2 * 8 * 16 * 32


def test_meshes_to_try():
    assert meshes(8, 1) == [(1, 8, 1), (1, 2, 4)]
    assert meshes(32, 2) == [(1, 32, 1), (2, 16, 1), (1, 8, 4), (2, 4, 4)]


def test_every_chip_has_a_name_that_parses():
    for chip in CHIPS:
        shape = {"v4": "2x2x1", "v5p": "2x2x1"}.get(chip.name, "2x2" if chip.is_tpu else "2")
        assert parse_target(f"{chip.name}:{shape}").chip is chip
    with pytest.raises(UserError, match="one number"):
        parse_target("2xh200:8")


class TestSearch:
    """On plans made up from a rule: 1 GiB an image, half of it with dots, a quarter with full."""

    @pytest.fixture
    def tried(self, monkeypatch):
        tried = []

        def make_plan(config, target, part="step"):
            share = {"none": 1, "dots": 0.5, "full": 0.25}[config.model.remat]
            peak = int(config.batch_size * share * GIB)
            tried.append((config.batch_size, config.model.remat, config.mesh.model))
            memory = compiling.Memory(0, 0, 0, peak, 0, peak, target.chip.memory)
            limits = Roofline(2 - share + 1 / config.batch_size, 0, 0)
            facts = compiling.Facts([], 0, 0, limits, None)
            mesh = dict(config.mesh)
            return compiling.Plan(
                target.text, 4, mesh, config.batch_size, config.model.remat, 0, [], 0, memory, facts
            )

        monkeypatch.setattr(searching, "make_plan", make_plan)
        monkeypatch.setattr(searching, "devices", lambda target: [None] * 4)
        monkeypatch.setattr(searching, "islands", lambda target, there: [0] * 4)
        return tried

    def test_tries_what_can_win(self, tried):
        config = tiny.get_config()
        config.batch_size = 30
        (best, plan), *_ = searching.search(config, parse_target("v5e:2x2"), lambda line: None)
        # 15 images fit as they are; 30 with dots, 60 with full recomputation.
        assert [each[:2] for each in tried if each[2] == 1] == [
            (15, "none"), (30, "none"), (30, "dots"), (60, "none"), (60, "dots"), (60, "full"),
        ]  # fmt: skip
        assert (best.batch_size, best.remat) == (60, "full")
        assert plan.memory.missing == 0

    def test_nothing_larger_than_what_does_not_fit(self, tried):
        config = tiny.get_config()
        config.batch_size = 200
        ranked = searching.search(config, parse_target("v5e:2x2"), lambda line: None)
        assert {batch for batch, *_ in tried} == {100}
        assert all(plan.memory.missing for _, plan in ranked)


def test_tiny_config_is_what_the_counts_above_assume():
    config = tiny.get_config()
    assert (config.model.size, config.model.decoder_width) == ("vit_micro2x4", 64)
