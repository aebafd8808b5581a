"""AdamW with warm-up and half-cosine, as MAE pretrains (reference `main_pretrain.py`)."""

from typing import Any

import jax
import optax

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.rules import is_boxed, is_matrix


def learning_rate(config: Any) -> optax.Schedule:
    """Linear warm-up from 0 to base_lr * batch_size / 256, then half a cosine to 0."""
    warmup, total = config.optimizer.warmup_steps, config.total_steps
    if not 0 <= warmup < total:
        raise UserError(
            f"config.optimizer.warmup_steps={warmup} must lie in [0, config.total_steps={total})"
        )
    peak = config.optimizer.base_lr * config.batch_size / 256
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total, 0.0)


def make_optimizer(config: Any, boxed_params: Any) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW decaying matrices only.

    Args:
      config: reads `optimizer.betas|weight_decay|clip_norm|moment_dtype` and the schedule's keys.
      boxed_params: the abstract weights with their logical axes.
    """
    settings = config.optimizer
    decayed = jax.tree.map(is_matrix, boxed_params, is_leaf=is_boxed)
    b1, b2 = settings.betas
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            learning_rate(config),
            b1=b1,
            b2=b2,
            weight_decay=settings.weight_decay,
            mask=decayed,
            mu_dtype=settings.moment_dtype,
        ),
    )
