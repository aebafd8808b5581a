"""Refuses a config whose values cannot work, before anything is read or compiled."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from rsfm_jax.errors import UserError

Rule = tuple[Callable[[Any], bool], str]

POSITIVE: Rule = (lambda x: x > 0, "greater than 0")
AT_LEAST_0: Rule = (lambda x: x >= 0, "0 or more")
AT_LEAST_1: Rule = (lambda x: x >= 1, "1 or more")
SHARE: Rule = (lambda x: 0 <= x <= 1, "in [0, 1]")
PART: Rule = (lambda x: 0 < x <= 1, "in (0, 1]")
RATE: Rule = (lambda x: 0 <= x < 1, "in [0, 1)")
OPEN_SHARE: Rule = (lambda x: 0 < x < 1, "in (0, 1)")
TEXT: Rule = (lambda x: isinstance(x, str), "text")
FLAG: Rule = (lambda x: isinstance(x, bool), "True or False")
CROP_SCALE: Rule = (
    lambda x: len(x) == 2 and 0 < x[0] <= x[1] <= 1,
    "(low, high) with 0 < low <= high <= 1",
)
NAMES: Rule = (
    lambda x: not isinstance(x, str) and all(isinstance(name, str) for name in x),
    "a tuple of texts",
)
INTEGER: Rule = (lambda x: isinstance(x, int), "a whole number")

# What the loop, the optimizer and the loader read, whatever the task.
COMMON_RULES: dict[str, Rule] = {
    "task": TEXT,
    "seed": AT_LEAST_0,
    "batch_size": AT_LEAST_1,
    "accumulate_steps": AT_LEAST_1,
    "total_steps": AT_LEAST_1,
    "init_from": TEXT,
    "model.frozen": NAMES,
    "nonfinite_limit": AT_LEAST_1,
    "nonfinite_rollbacks": AT_LEAST_0,
    "log_every_steps": AT_LEAST_0,
    "optimizer.base_lr": POSITIVE,
    "optimizer.base_batch_size": AT_LEAST_1,
    "optimizer.schedule": (lambda x: x in ("cosine", "poly", "step"), "cosine, poly or step"),
    "optimizer.milestones": (
        lambda x: all(0 < a < 1 for a in x) and list(x) == sorted(set(x)),
        "rising shares of total_steps in (0, 1)",
    ),
    "optimizer.layer_decay": PART,
    "optimizer.average_decay": RATE,
    "optimizer.betas": (lambda x: len(x) == 2 and all(0 <= b < 1 for b in x), "two in [0, 1)"),
    "optimizer.weight_decay": AT_LEAST_0,
    "optimizer.warmup_steps": AT_LEAST_0,
    "optimizer.clip_norm": POSITIVE,
    "optimizer.moment_dtype": (
        lambda x: x in ("float32", "bfloat16"),
        "float32 or bfloat16",
    ),
    "mesh.data": INTEGER,  # `make_mesh` knows which sizes fit
    "mesh.fsdp": INTEGER,
    "mesh.model": INTEGER,
    "data.source": TEXT,
    "data.split": TEXT,
    "data.fraction": PART,
    "data.threads": AT_LEAST_0,
    "data.workers": AT_LEAST_0,
    "data.max_bad_fraction": RATE,
    "data.statistics": TEXT,
    "checkpoint.every_steps": AT_LEAST_0,
    "checkpoint.keep_last": AT_LEAST_1,
    "checkpoint.keep_every": AT_LEAST_0,
    "eval.every_steps": AT_LEAST_0,
}


def check_values(config: Any, rules: Mapping[str, Rule]) -> None:
    """Holds every key of `rules` (without the leading `config.`) against its rule.

    Raises:
      UserError: names the first key that is missing or whose value breaks its rule.
    """
    for key, (holds, words) in rules.items():
        try:
            value = reduce(getattr, key.split("."), config)
        except AttributeError as error:
            raise UserError(f"config.{key} is missing; give it a value in the config") from error
        try:
            fits = holds(value)
        except TypeError:
            fits = False
        if not fits:
            raise UserError(f"config.{key}={value!r} must be {words}")
