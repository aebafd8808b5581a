"""What both stages of the detector train alike: balanced samples and the loss of boxes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rsfm_jax.boxes.sample import pack, sample


class Samples(NamedTuple):
    """Candidates drawn for training in S slots, positives first."""

    index: jax.Array  # type: ignore[assignment]  # [S] int32, 0 in unused slots
    used: jax.Array  # [S] bool
    positive: jax.Array  # [S] bool


def draw_samples(key: jax.Array, label: jax.Array, count: int, positive_share: float) -> Samples:
    """Draws `count` of the candidates with label [A] 1 or 0, at most a share of them positive."""
    positive, negative = sample(key, label, count, int(count * positive_share))
    index, used = pack(positive, negative, count)
    return Samples(index, used, used & positive[index])


def box_loss(
    predicted: jax.Array, target: jax.Array, positive: jax.Array, beta: float
) -> jax.Array:
    """Sum of smooth L1 over the positives' numbers: [..., D], [..., D], [...] bool -> scalar.

    Quadratic up to an error of `beta`, with slope 1 beyond.
    """
    errors = optax.huber_loss(predicted, target, delta=beta) / beta
    return jnp.sum(jnp.where(positive[..., None], errors, 0))
