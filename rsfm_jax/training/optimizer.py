"""AdamW with warm-up, as MAE pretrains and plain ViTs are fine-tuned."""

import re
from collections.abc import Collection
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.rules import is_boxed, is_matrix

STEP_FACTOR = 0.1  # of the rate at every milestone, as mmdetection


def learning_rate(config: Any) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, base_lr * batch_size / base_batch_size, then a decay.

    `optimizer.schedule` names it: `cosine` is half a cosine to 0, `poly` a line to 0 (power 1),
    `step` a tenth at each of `optimizer.milestones`, shares of `total_steps`.
    """
    settings = config.optimizer
    warmup, total = settings.warmup_steps, config.total_steps
    if not 0 <= warmup < total:
        raise UserError(
            f"config.optimizer.warmup_steps={warmup} must lie in [0, config.total_steps={total})"
        )
    peak = settings.base_lr * config.batch_size / settings.base_batch_size
    left = total - warmup
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, left),
        "poly": lambda: optax.linear_schedule(peak, 0.0, left),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {round(share * total) - warmup: STEP_FACTOR for share in settings.milestones}
        ),
    }[settings.schedule]()
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(config: Any, boxed_params: Any) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then AdamW decaying matrices only, layer by layer.

    Frozen weights, whose gradients are 0, neither move nor decay and have no moments.

    Args:
      config: reads `optimizer.betas|weight_decay|clip_norm|moment_dtype|layer_decay`,
        `model.frozen` and the schedule's keys.
      boxed_params: the abstract weights with their logical axes.

    Raises:
      UserError: a part to freeze that the model does not have, or nothing left to train.
    """
    settings = config.optimizer
    decayed = jax.tree.map(is_matrix, boxed_params, is_leaf=is_boxed)
    factors = layer_factors(boxed_params, settings.layer_decay)
    b1, b2 = settings.betas
    adamw = optax.adamw(
        learning_rate(config),
        b1=b1,
        b2=b2,
        weight_decay=settings.weight_decay,
        mask=decayed,
        mu_dtype=settings.moment_dtype,
    )
    if config.model.frozen:
        adamw = optax.masked(adamw, trained_weights(boxed_params, config.model.frozen))
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        adamw,
        optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)),
    )


def trained_weights(boxed_params: Any, frozen: Collection[str]) -> Any:
    """Whether each weight trains: those below the top-level names `frozen` do not."""
    unknown = [name for name in frozen if name not in boxed_params]
    if unknown or not set(boxed_params) - set(frozen):
        problem = f"has no part {unknown[0]!r}" if unknown else "has nothing else to train"
        raise UserError(
            f"config.model.frozen={tuple(frozen)}: the model {problem}; its parts are "
            f"{', '.join(boxed_params)}"
        )
    return {
        name: jax.tree.map(lambda _, trains=name not in frozen: trains, part, is_leaf=is_boxed)
        for name, part in boxed_params.items()
    }


def layer_factors(boxed_params: Any, decay: float) -> Any:
    """Share of the learning rate that each weight gets: decay ** (layers above it).

    As BEiT and ViTDet count them: patch embedding and class token are layer 0, block i of the
    encoder is layer i + 1, everything else comes after the last block.

    Raises:
      UserError: a decay for weights that are in no layer of an encoder.
    """
    flat = flatten_dict(boxed_params, sep="/")
    layers = {name: _layer(name) for name in flat}
    last = max((layer for layer in layers.values() if layer is not None), default=0) + 1
    if decay != 1 and last == 1:
        raise UserError(
            f"config.optimizer.layer_decay={decay}: no weight is named encoder/blocks/block0/..."
        )
    factors = {
        name: 1.0 if layer is None else decay ** (last - layer) for name, layer in layers.items()
    }
    return unflatten_dict(factors, sep="/")


def _layer(name: str) -> int | None:
    """Layer of an encoder's weight such as `encoder/blocks/block3/...`; None for any other."""
    if name.startswith(("encoder/patch_embed", "encoder/cls_token")):
        return 0
    block = re.match(r"encoder/blocks/block(\d+)/", name)
    return int(block[1]) + 1 if block else None
