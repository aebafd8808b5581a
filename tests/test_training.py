"""The step and the loop, on a task that compiles in no time."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.sharding.rules import unbox
from rsfm_jax.training import loop
from rsfm_jax.training.checkpoints import Checkpoints, load_params
from rsfm_jax.training.optimizer import learning_rate, make_optimizer
from rsfm_jax.training.preemption import Preempted
from rsfm_jax.training.program import accumulate_gradients, build_program
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

    with pytest.raises(Preempted, match="before step 14"):
        run(tmp_path / "cut", on_batch=stop_at)
    resumed = run(tmp_path / "cut")
    assert resumed.seen[0] == 14
    assert whole.evaluated == [0, 20]
    assert metrics_by_step(tmp_path / "cut") == metrics_by_step(tmp_path / "whole")
    assert len(metrics_by_step(tmp_path / "whole")) == 21
    # The signal's handlers are as they were.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


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
    program = build_program(ToyTask(toy_config()), toy_config(), make_mesh(toy_config()))
    wrong = program.abstract_state.params | {"b": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(UserError, match=r"'b'.*\(8,\) there, \(3,\)"):
        load_params(str(tmp_path), wrong)
    with pytest.raises(UserError, match="no checkpoint there"):
        load_params(str(tmp_path / "nothing"), wrong)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    task = ToyTask(toy_config())
    params = unbox(task.init(jax.random.key(0)))
    inputs = {"x": jax.random.normal(jax.random.key(1), (12, 8))}
    whole, metrics = accumulate_gradients(task.loss, params, inputs, jax.random.key(2), 1)
    parts, part_metrics = accumulate_gradients(task.loss, params, inputs, jax.random.key(2), 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), parts, whole)
    np.testing.assert_allclose(part_metrics["loss"], metrics["loss"], rtol=1e-5)


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
    boxed = jax.eval_shape(ToyTask(config).init, jax.random.key(0))
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
