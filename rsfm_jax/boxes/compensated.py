"""Rotations in more precision than float32 holds, for the pose of one box relative to another.

The ends of a box 1000 times longer than wide move by a thousandth of its width when its angle
changes by 2e-6, so that plain float32 sines leave errors of 3e-5 in its IoU. Here each number is a
pair `(high, low)` whose sum is the value and whose `high` has 12 significant bits: the product of
two highs is exact. Errors stay near 1e-10, at the price of a few more additions.

`lax.reduce_precision` cuts the high part: unlike the classic multiply-and-subtract it survives
compilers that fuse multiplications into additions.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

HIGH_BITS = 12
STEP = np.pi / 64  # table spacing: small enough for the remainders below


def split(x):
    """`x` as (high, low), exactly."""
    high = lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, HIGH_BITS - 1)
    return high, x - high


def add(a, b):
    """`a + b` rounded and the rounding error, exactly (Knuth's two-sum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def difference(a, b):
    """`a - b` of two plain numbers as (high, low)."""
    total, error = add(a, -b)
    high, low = split(total)
    return high, low + error


def negative(a):
    """`-a` of a pair."""
    return -a[0], -a[1]


def dot(a, b, c, d):
    """`a * b + c * d` of four pairs, rounded once at the end."""
    total, error = add(a[0] * b[0], c[0] * d[0])
    small = a[0] * b[1] + a[1] * (b[0] + b[1]) + (c[0] * d[1] + c[1] * (d[0] + d[1]))
    return total + (error + small)


def cos_sin(angle):
    """Cosine and sine as pairs, for |angle| up to 50 radians.

    The nearest of 128 tabled directions is turned by the small remaining angle, whose sine and
    cosine are short power series.
    """
    index = jnp.round(angle / STEP)
    rest = angle - index * _STEP_HIGH  # exact: _STEP_HIGH has few bits
    rest_low = -index * _STEP_LOW
    square = rest * rest
    cos_minus_1 = square * (-1 / 2 + square * (1 / 24 - square / 720)) - rest * rest_low
    sine_rest = rest * square * (-1 / 6 + square * (1 / 120 - square / 5040))
    high, low = split(rest)
    sine = high, low + (sine_rest + rest_low * (1 + cos_minus_1))
    row = jnp.mod(index, len(_TABLE)).astype(jnp.int32)
    table_high = jnp.asarray(_TABLE_HIGH, angle.dtype)[row]
    table_low = jnp.asarray(_TABLE_LOW, angle.dtype)[row]
    cos, sin = ((table_high[..., i], table_low[..., i]) for i in range(2))
    return _turn(cos, negative(sin), cos_minus_1, sine), _turn(sin, cos, cos_minus_1, sine)


def _turn(a, b, cos_minus_1, sine):
    """`a * (1 + cos_minus_1) + b * sine` as a pair."""
    total, error = add(a[0], b[0] * sine[0])
    low = a[1] + (a[0] + a[1]) * cos_minus_1 + (b[0] * sine[1] + b[1] * (sine[0] + sine[1]))
    high, rest = split(total)
    return high, rest + (error + low)


def _round_to_bits(x, bits):
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


_STEP_HIGH = float(_round_to_bits(STEP, 14))
_STEP_LOW = STEP - _STEP_HIGH
_TABLE = np.stack([np.cos(np.arange(128) * STEP), np.sin(np.arange(128) * STEP)], axis=-1)
_TABLE_HIGH = _round_to_bits(_TABLE, HIGH_BITS)
_TABLE_LOW = _TABLE - _TABLE_HIGH
