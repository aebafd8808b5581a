"""Which ground truth each candidate box answers for (max-IoU assignment of Faster R-CNN)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from rsfm_jax.boxes.geometry import is_valid
from rsfm_jax.boxes.iou import hbb_iou, pairwise, rotated_iou

CHUNK = 32  # ground truths compared at once: bounds the memory to 32 overlaps a candidate


class Rule(NamedTuple):
    """Thresholds of IoU: positive from `positive`, negative below `negative`, ignored between.

    `low_quality`: each ground truth whose best overlap reaches it also claims every candidate with
    exactly that overlap; None for no such claims.
    """

    positive: float
    negative: float
    low_quality: float | None


RPN_RULE = Rule(positive=0.7, negative=0.3, low_quality=0.3)  # Oriented R-CNN, first stage
ROI_RULE = Rule(positive=0.5, negative=0.5, low_quality=None)  # second stage


class Assignment(NamedTuple):
    """For each candidate: label 1 positive, 0 negative, -1 ignored; its truth; their overlap."""

    label: jnp.ndarray  # [A] int8
    truth: jnp.ndarray  # [A] int32, index of the ground truth, meaningful where label == 1
    overlap: jnp.ndarray  # [A] float32, the largest over all ground truths


def assign(candidates, truths, rule, usable=True):
    """Assign ground truths to candidates, both [A, 4] and [G, 4] or both [A, 5] and [G, 5].

    Invalid rows of `truths` (padding) claim nothing; with no valid one all candidates are negative.
    Candidates that are invalid or not `usable` ([A] bool) are ignored and claimed by nobody. Equal
    overlaps go to the first truth, contested low-quality claims to the last, as in mmdetection.
    """
    overlap = hbb_iou if candidates.shape[-1] == 4 else rotated_iou
    usable = usable & is_valid(candidates)
    candidates = jnp.where(usable[:, None], candidates, 0)
    rows = max(1, -(-len(truths) // CHUNK)) * CHUNK
    padded = jnp.pad(truths, ((0, rows - len(truths)), (0, 0)))
    # Padding comes last, and most images fill a small part of the rows: the rest is not compared.
    end = jnp.max(jnp.where(is_valid(truths), 1 + jnp.arange(len(truths)), 0), initial=0)

    def compare(step, carry):
        best, truth, claim = carry
        first = step * CHUNK
        chunk = lax.dynamic_slice_in_dim(padded, first, CHUNK)
        overlaps = pairwise(overlap, candidates, chunk)  # [A, CHUNK]
        index = first + jnp.arange(CHUNK, dtype=jnp.int32)
        chunk_best = jnp.max(overlaps, axis=1)
        chunk_truth = first + jnp.argmax(overlaps, axis=1).astype(jnp.int32)
        truth = jnp.where(chunk_best > best, chunk_truth, truth)
        if rule.low_quality is not None:
            # One chunk sees all candidates, so the best overlap of its truths is known here. It
            # must be found again to the bit: the compiler may not compute the overlaps twice.
            overlaps = lax.optimization_barrier(overlaps)
            reach = jnp.max(overlaps, axis=0, initial=0)
            claims = (overlaps == reach) & (reach >= rule.low_quality)
            claim = jnp.maximum(claim, jnp.max(jnp.where(claims, index, -1), axis=1))
        return jnp.maximum(best, chunk_best), truth, claim

    nothing = jnp.zeros(len(candidates), jnp.int32)
    start = (nothing.astype(jnp.float32), nothing, nothing - 1)
    best, truth, claim = lax.fori_loop(0, -(-end // CHUNK), compare, start)
    label = jnp.where(best < rule.negative, 0, -1)
    label = jnp.where((best >= rule.positive) | (claim >= 0), 1, label)
    truth = jnp.where(claim >= 0, claim, truth)
    return Assignment(jnp.where(usable, label, -1).astype(jnp.int8), truth, best)
