"""A task that compiles in no time: linear regression on numbers made from the step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rsfm_jax.flops import Term
from tests import tiny

WIDTH = 8


def toy_config(**overrides) -> ConfigDict:
    config = tiny.get_config()
    config.nonfinite_limit = 3
    config.optimizer.base_lr = 1.0
    config.update(overrides)
    return config


class ToyTask:
    """`poison`: steps whose batch holds a NaN. `seen`: steps whose batch was drawn."""

    new_weights = ()
    class_layers = ()

    flops = [Term("all", 1, "1")]
    contract = {"unit": "numbers"}

    def __init__(self, config, poison=(), on_batch=lambda step: None):
        self.config, self.poison, self.on_batch = config, poison, on_batch
        self.seen, self.evaluated = [], []

    def init(self, rng):
        def boxed(value, axes):
            return nn.LogicallyPartitioned(value, axes)

        params = {
            "w": boxed(jax.random.normal(rng, (WIDTH, WIDTH)), ("embed", "mlp")),
            "b": boxed(jnp.ones((WIDTH,)), ("vector",)),
        }
        return {"params": params, "batch_stats": {"mean": jnp.zeros((WIDTH,))}}

    def abstract_batch(self):
        return {"x": jax.ShapeDtypeStruct((self.config.batch_size, WIDTH), jnp.float32)}

    def prepare(self, batch, rng):
        noise = 0.1 * jax.random.normal(rng, batch["x"].shape)
        return {"x": batch["x"] + noise}

    def loss(self, variables, inputs, rng):
        params, mean = variables["params"], variables["batch_stats"]["mean"]
        error = inputs["x"] @ params["w"] + params["b"] - jnp.flip(inputs["x"], 1)
        mean = mean + 0.1 * (inputs["x"].mean(0) - mean)
        return jnp.square(error).mean(), {"largest": jnp.abs(error).max()}, {"mean": mean}

    def evaluate(self, variables, step, workdir):
        self.evaluated.append(step)
        means = variables["batch_stats"]["mean"]
        return {
            "norm": float(jnp.linalg.norm(variables["params"]["w"])),
            "mean": float(jnp.linalg.norm(means)),
        }

    def batches(self, rows, start_step):
        return ToyBatches(self, rows, start_step)


class ToyBatches:
    bad_examples = 0
    fingerprint = {"examples": 1000}

    def __init__(self, task, rows, start_step):
        self.task, self.rows, self.step = task, rows, start_step

    def __next__(self):
        step, self.step = self.step, self.step + 1
        self.task.on_batch(step)
        self.task.seen.append(step)
        shape = (self.task.config.batch_size, WIDTH)
        x = np.random.default_rng(step).normal(size=shape).astype(np.float32)
        if step in self.task.poison:
            x[3] = np.nan
        return {"x": x[self.rows], "example_id": step * 100 + self.rows}

    def close(self):
        pass
