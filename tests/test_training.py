"""The step and the loop, on a task that compiles in no time."""

import json
import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import unbox
from rsfm_jax.training import loop
from rsfm_jax.training.checkpoints import Checkpoints
from rsfm_jax.training.optimizer import layer_factors, learning_rate, make_optimizer
from rsfm_jax.training.preemption import Preempted
from rsfm_jax.training.program import accumulate_gradients, build_program
from rsfm_jax.training.state import create_state
from rsfm_jax.training.transfer import load_initial
from tests.toy import ToyTask, toy_config


def run(workdir, config=None, **task_arguments):
    config = config or toy_config()
    task = ToyTask(config, **task_arguments)
    workdir.mkdir(exist_ok=True)
    loop.train(task, config, make_mesh(config), workdir)
    return task


def metrics_by_step(workdir):
    """Last line of every step, without timings."""
    timings = ("images_per_second", "data_wait", "seconds_left")
    result = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        kept = {key: value for key, value in line.items() if key not in timings}
        result.setdefault(line["step"], {}).update(kept)
    return result


def test_a_stopped_and_resumed_run_is_the_uninterrupted_run(tmp_path):
    whole = run(tmp_path / "whole")

    def stop_at(step):
        if step == 13:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="before step 13"):
        run(tmp_path / "cut", on_batch=stop_at)
    resumed = run(tmp_path / "cut")
    assert resumed.seen[0] == 13
    assert whole.evaluated == [0, 20]
    assert metrics_by_step(tmp_path / "cut") == metrics_by_step(tmp_path / "whole")
    assert len(metrics_by_step(tmp_path / "whole")) == 21
    # The signal's handlers are as they were.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_first_moment_can_be_kept_in_bfloat16():
    config = toy_config()
    config.optimizer.moment_dtype = "bfloat16"
    task = ToyTask(config)
    program = build_program(task, config, make_mesh(config))
    batch = {"x": next(task.batches(np.arange(config.batch_size), 0))["x"]}
    state, _ = program.train_step(program.init(), batch)
    first = optax.tree.get(state.opt_state, "mu")
    second = optax.tree.get(state.opt_state, "nu")
    assert {x.dtype for x in jax.tree.leaves(first)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves((second, state.params))} == {jnp.dtype("float32")}
    assert any(np.any(x != 0) for x in jax.tree.leaves(first))


def test_a_finished_run_stays_finished(tmp_path):
    run(tmp_path)
    again = run(tmp_path)
    assert again.seen == [] and again.evaluated == [20]
    with pytest.raises(UserError, match="step 20, past config.total_steps=10"):
        run(tmp_path, toy_config(total_steps=10))


def test_non_finite_steps_are_skipped_and_counted(tmp_path):
    run(tmp_path, poison=(4, 5))
    lines = metrics_by_step(tmp_path)
    assert [lines[step]["skipped"] for step in (4, 5, 6, 7, 20)] == [0, 1, 2, 2, 2]
    assert lines[6]["skipped_in_a_row"] == 2 and lines[7]["skipped_in_a_row"] == 0
    assert np.isfinite(lines[20]["loss"]) and lines[20]["loss"] < lines[1]["loss"]


def test_too_many_non_finite_steps_stop_with_the_examples(tmp_path):
    with pytest.raises(loop.NonFiniteError, match=r"step 7: 3 steps in a row.*\[600, 601, "):
        run(tmp_path, poison=(4, 5, 6))


def test_a_rollback_passes_over_the_batches_since_the_last_checkpoint(tmp_path):
    poison = (12, 13, 14)
    config = toy_config(nonfinite_rollbacks=1)
    config.checkpoint.every_steps = 5
    task = run(tmp_path / "run", config, poison=poison)
    assert task.seen == list(range(25))  # steps 10 to 14 twice, with other batches
    lines = metrics_by_step(tmp_path / "run")
    assert lines[20]["skipped"] == 0 and lines[20]["loss"] < lines[1]["loss"]

    def stop_at(step):
        if step == 22:  # of the data: step 17, and nothing was saved since the roll-back
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="before step 17"):
        run(tmp_path / "cut", config, poison=poison, on_batch=stop_at)
    again = run(tmp_path / "cut", config, poison=poison)
    assert again.seen == list(range(22, 25))
    assert metrics_by_step(tmp_path / "cut") == lines
    with pytest.raises(loop.NonFiniteError, match="step 19"):
        run(tmp_path / "twice", config, poison=(*poison, 21, 22, 23))


def test_a_source_that_shrank_is_refused(tmp_path, monkeypatch):
    config = toy_config()
    run(tmp_path, config)
    monkeypatch.setattr("tests.toy.ToyBatches.fingerprint", {"examples": 900})
    with pytest.raises(UserError, match=r"examples 1000, now there is examples 900"):
        run(tmp_path, config)


def test_a_signal_ends_an_evaluation_and_no_step_is_lost(tmp_path):
    class Slow(ToyTask):
        def evaluate(self, variables, step, workdir):
            if step:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            return super().evaluate(variables, step, workdir)

    config = toy_config()
    config.eval.every_steps = 7
    start = time.monotonic()
    with pytest.raises(Preempted, match="before step 7"):
        loop.train(Slow(config), config, make_mesh(config), tmp_path)
    assert time.monotonic() - start < 60
    again = run(tmp_path, config)
    assert again.seen[0] == 7 and again.evaluated == [7, 14, 20]


def test_keep_policy(tmp_path):
    config = toy_config()
    config.checkpoint.every_steps = 2
    config.checkpoint.keep_last = 2
    config.checkpoint.keep_every = 8
    run(tmp_path, config)
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {8, 16, 18, 20}


def test_a_checkpoint_describes_itself_and_refuses_another_model(tmp_path):
    config = toy_config()
    run(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(config.to_json())
    other = toy_config()
    other.model.mask_ratio = 0.5
    with pytest.raises(UserError, match=r"config\.model\.mask_ratio=0\.75, this run has 0\.5"):
        run(tmp_path, other)


def test_evaluating_leaves_a_checkpoint_that_another_process_writes(tmp_path):
    run(tmp_path)
    unfinished = tmp_path / "checkpoints" / "30.orbax-checkpoint-tmp"
    unfinished.mkdir()
    config = toy_config()
    task = ToyTask(config)
    loop.evaluate(task, config, make_mesh(config), tmp_path)
    assert unfinished.is_dir() and task.evaluated == [20]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[-1] == lines[-2]
    config.model.mask_ratio = 0.5
    with pytest.raises(UserError, match=r"config\.model\.mask_ratio=0\.75"):
        loop.evaluate(task, config, make_mesh(config), tmp_path)


def test_a_failing_evaluation_loses_no_training(tmp_path):
    class Failing(ToyTask):
        def evaluate(self, params, step, workdir):
            raise UserError("no such labels")

    config = toy_config()
    config.eval.every_steps = 0
    config.checkpoint.every_steps = 0
    with pytest.raises(UserError, match="no such labels"):
        loop.train(Failing(config), config, make_mesh(config), tmp_path)
    again = run(tmp_path, config)
    assert again.seen == [] and again.evaluated == [20]


def test_a_checkpoint_in_mid_run_is_the_state_of_its_step(tmp_path):
    run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "cut" / "checkpoints")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "20")
    assert run(tmp_path / "cut").seen[0] == 10
    whole, cut = metrics_by_step(tmp_path / "whole"), metrics_by_step(tmp_path / "cut")
    assert cut == {step: line for step, line in whole.items() if step > 10}


def test_a_signal_while_the_last_checkpoint_is_written_does_not_lose_it(tmp_path, monkeypatch):
    close = Checkpoints.close

    def interrupted_close(self):
        os.kill(os.getpid(), signal.SIGTERM)
        close(self)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "close", interrupted_close)
        run(tmp_path)
    assert run(tmp_path).seen == []


def test_init_from_takes_the_weights_alone(tmp_path):
    run(tmp_path / "first")
    config = toy_config(init_from=str(tmp_path / "first"))
    second = run(tmp_path / "second", config)
    first, second_lines = metrics_by_step(tmp_path / "first"), metrics_by_step(tmp_path / "second")
    assert second_lines[0]["eval/norm"] == first[20]["eval/norm"]
    assert second.seen[0] == 0


def test_init_from_refuses_other_shapes_and_empty_folders(tmp_path):
    run(tmp_path)
    config, task = toy_config(), ToyTask(toy_config())
    resolved = json.loads(config.to_json())
    fresh = unbox(task.init(jax.random.key(0)))["params"]
    with pytest.raises(UserError, match=r"weight b is \(8,\) there, \(3,\)"):
        load_initial(str(tmp_path), fresh | {"b": jnp.zeros(3)}, task, resolved)
    with pytest.raises(UserError, match=r"^config.init_from: .*: no checkpoint there"):
        load_initial(str(tmp_path / "nothing"), fresh, task, resolved)
    resolved["model"]["size"] = "vit_b12x1"
    with pytest.raises(UserError, match=r"size='vit_micro2x4', this run 'vit_b12x1'"):
        load_initial(str(tmp_path), fresh, task, resolved)
    resolved = json.loads(config.to_json())
    task.contract = task.contract | {"mean": [0.5]}
    with pytest.raises(UserError, match=r"with mean None, this run has \[0\.5\]"):
        load_initial(str(tmp_path), fresh, task, resolved)


def test_another_task_takes_the_encoder_and_says_so(tmp_path, caplog):
    """The encoder's own relative positions are new; anything else missing there is refused."""

    class WithEncoder(ToyTask):
        parts = ("kept",)

        def init(self, rng):
            variables = super().init(rng)
            leaves = {part: {"kernel": variables["params"]["w"]} for part in self.parts}
            variables["params"] |= {"encoder": leaves}
            return variables

    class Other(WithEncoder):
        parts = ("kept", "relative_rows")
        new_weights = ("kernel",)

    config = toy_config()
    loop.train(WithEncoder(config), config, make_mesh(config), tmp_path)
    written = unbox(WithEncoder(config).init(jax.random.key(1)))["params"]
    resolved = json.loads(config.to_json()) | {"task": "other"}
    with caplog.at_level("INFO"):
        loaded = load_initial(str(tmp_path), written, Other(config), resolved)
    resolved["task"] = config.task
    trained = load_initial(str(tmp_path), written, WithEncoder(config), resolved)
    resolved["task"] = "other"
    np.testing.assert_array_equal(
        loaded["encoder"]["kept"]["kernel"], trained["encoder"]["kept"]["kernel"]
    )
    np.testing.assert_array_equal(loaded["w"], written["w"])  # fresh
    assert "taken from there: 1 weights (encoder/kept)" in caplog.text
    fresh = unbox(Other(config).init(jax.random.key(1)))["params"]
    loaded = load_initial(str(tmp_path), fresh, Other(config), resolved)
    np.testing.assert_array_equal(
        loaded["encoder"]["relative_rows"]["kernel"], fresh["encoder"]["relative_rows"]["kernel"]
    )
    task = Other(config)
    task.new_weights = ()
    with pytest.raises(UserError, match="weight encoder/relative_rows/kernel is missing there"):
        load_initial(str(tmp_path), fresh, task, resolved)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    task = ToyTask(toy_config())
    variables = unbox(task.init(jax.random.key(0)))
    state = create_state(variables, optax.identity(), averaged=False)
    inputs = {"x": jax.random.normal(jax.random.key(1), (12, 8))}
    rng = jax.random.key(2)
    whole, metrics, _ = accumulate_gradients(task.loss, state, inputs, rng, 1)
    parts, part_metrics, stats = accumulate_gradients(task.loss, state, inputs, rng, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, whole)
    np.testing.assert_allclose(part_metrics["loss"], metrics["loss"], rtol=1e-5)
    mean = 0
    for part in range(4):  # row i * 4 + a goes to part a
        mean += 0.1 * (inputs["x"][part::4].mean(0) - mean)
    np.testing.assert_allclose(stats["mean"], mean, atol=1e-7)


def test_the_moving_average_is_what_is_evaluated_resumed_and_passed_on(tmp_path):
    config = toy_config()
    config.optimizer.average_decay = 0.9
    task = ToyTask(config, poison=(4,))
    program = build_program(task, config, make_mesh(config))
    state, average = program.init(), None
    batches = task.batches(np.arange(config.batch_size), 0)
    for _ in range(8):
        batch = {"x": next(batches)["x"]}
        average = state.params if average is None else average
        before = state.skipped
        decay = min(0.9, (1 + state.step - before) / (10 + state.step - before))
        state, _ = program.train_step(jax.tree.map(jnp.copy, state), batch)
        if state.skipped == before:
            average = optax.incremental_update(state.params, average, 1 - decay)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.evaluated["params"], average
    )
    assert state.skipped == 1 and np.isfinite(state.batch_stats["mean"]).all()

    run(tmp_path / "first", config)
    loop.evaluate(task, config, make_mesh(config), tmp_path / "first")
    lines = (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()
    assert lines[-1] == lines[-2]
    with pytest.raises(UserError, match="holds an average .* config.optimizer.average_decay above"):
        run(tmp_path / "first", toy_config(total_steps=config.total_steps + 1))
    run(tmp_path / "second", toy_config(init_from=str(tmp_path / "first")))
    first, second = metrics_by_step(tmp_path / "first"), metrics_by_step(tmp_path / "second")
    assert second[0]["eval/norm"] == first[20]["eval/norm"]


def test_layer_decay_and_schedules():
    """Factors by hand for two encoder blocks; rates at hand-computed steps."""
    names = ["patch_embed", "cls_token", "blocks/block0/a", "blocks/block1/b", "norm"]
    params = unflatten_dict({f"encoder/{name}": jnp.ones(1) for name in names}, sep="/")
    params |= {"heads": {"blocks": {"block7": jnp.ones(1)}}}
    factors = flatten_dict(layer_factors(params, 0.5), sep="/")
    assert [factors[f"encoder/{name}"] for name in names] == [0.125, 0.125, 0.25, 0.5, 1.0]
    assert factors["heads/blocks/block7"] == 1.0

    config = toy_config(total_steps=100, batch_size=8)
    settings = {"warmup_steps": 10, "base_lr": 2.0, "base_batch_size": 16, "milestones": (0.6, 0.9)}
    config.optimizer.update(settings)
    rates = {}
    for name in ("step", "poly"):
        config.optimizer.schedule = name
        rates[name] = [float(learning_rate(config)(step)) for step in (5, 10, 59, 60, 90)]
    np.testing.assert_allclose(rates["step"], [0.5, 1.0, 1.0, 0.1, 0.01], rtol=1e-5)
    np.testing.assert_allclose(rates["poly"], [0.5, 1.0, 41 / 90, 40 / 90, 10 / 90], rtol=1e-5)


def test_learning_rate_warms_up_and_falls_by_half_a_cosine():
    config = toy_config(batch_size=512, total_steps=100)
    config.optimizer.base_lr = 1e-3
    config.optimizer.warmup_steps = 20
    schedule = learning_rate(config)
    expected = {0: 0.0, 10: 1e-3, 20: 2e-3, 60: 1e-3, 100: 0.0}
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, abs=1e-9)
    config.optimizer.warmup_steps = 100
    with pytest.raises(UserError, match="warmup_steps"):
        learning_rate(config)


def test_only_matrices_decay_and_large_gradients_are_clipped():
    config = toy_config()
    config.optimizer.warmup_steps = 0
    config.optimizer.weight_decay = 0.1
    boxed = jax.eval_shape(ToyTask(config).init, jax.random.key(0))["params"]
    optimizer = make_optimizer(config, boxed)
    params = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    rate = float(learning_rate(config)(0))
    np.testing.assert_allclose(updates["w"], -0.1 * rate, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0.0)

    huge = {"w": jnp.full((8, 8), 1e6), "b": jnp.zeros(8)}
    _, state = optimizer.update(huge, optimizer.init(params), params)
    first_moment = state[1][0].mu["w"]
    assert jnp.linalg.norm(first_moment) == pytest.approx(0.1 * config.optimizer.clip_norm)
