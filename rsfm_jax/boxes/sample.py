"""Random subsets of a fixed number of positive and negative candidates, without sorting."""

import jax
import jax.numpy as jnp
from jax import lax


def sample(key, label, count, max_positive):
    """Draw a balanced subset: label [A] (1, 0, -1) -> positive [A] bool, negative [A] bool.

    At most `max_positive` of label 1, all equally likely; then label 0 fills up to `count` in all.
    Fewer are drawn only where there are no more.
    """
    key_positive, key_negative = jax.random.split(key)
    positive = choose(key_positive, label == 1, max_positive)
    negative = choose(key_negative, label == 0, count - jnp.sum(positive))
    return positive, negative


def choose(key, eligible, count):
    """Exactly `min(count, eligible.sum())` of the eligible, all equally likely: [A] -> [A] bool.

    Every candidate draws a random number; bisection finds the number with `count` draws below it.
    """
    draw = jax.random.bits(key, eligible.shape, jnp.uint32)
    number_below = lambda bound: jnp.sum(eligible & (draw < bound))  # noqa: E731

    def try_bit(i, bound):  # the largest bound with at most `count` draws below it
        higher = bound | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(number_below(higher) <= count, higher, bound)

    bound = lax.fori_loop(0, 32, try_bit, jnp.uint32(0))
    # Equal draws (1 in 10^4 calls) could all miss the bound: the first of them make up the number.
    below, equal = eligible & (draw < bound), eligible & (draw == bound)
    return below | (equal & (jnp.cumsum(equal) <= count - jnp.sum(below)))


def pack(positive, negative, count):
    """Indices of the sampled, positives first: [A], [A] -> index [count], used [count] bool.

    Slots beyond the number of sampled hold index 0 and are not used.
    """
    slot = jnp.where(positive, jnp.cumsum(positive), jnp.sum(positive) + jnp.cumsum(negative)) - 1
    slot = jnp.where(positive | negative, slot, count)
    index = jnp.arange(len(positive), dtype=jnp.int32)
    index = jnp.zeros(count, jnp.int32).at[slot].set(index, mode="drop")
    return index, jnp.arange(count) < jnp.sum(positive | negative)
