"""Greedy non-maximum suppression, exact, with static shapes.

Greedy NMS is the only set that keeps a box exactly when no kept box of higher rank overlaps it by
more than the threshold. Within a block that set is the fixed point of applying the rule to all
boxes at once; the blocks follow each other in order of rank, each compared with the boxes kept so
far only. The work shrinks with what is suppressed.

Rank is the score, higher first; equal scores in order of index. Suppression is strict: an overlap
equal to the threshold keeps both (as mmcv's CUDA operator; its CPU operator uses >=). Boxes that
are not `is_valid` and scores that are NaN are never kept and suppress nothing.
"""

import jax.numpy as jnp
from jax import lax

from rsfm_jax.boxes.geometry import is_valid
from rsfm_jax.boxes.iou import hbb_iou, pairwise, rotated_iou

# Smaller blocks waste less work (measured on CPU: 64 beats 128 and 256 twofold), larger ones
# take fewer steps one after the other.
BLOCK = 64


def rotated_nms(boxes, scores, threshold, classes=None):
    """Which boxes to keep: [N, 5], [N] -> [N] bool, in the order given.

    `threshold`: IoU in [0, 1] above which the lower-ranked box goes. `classes` [N] int: only boxes
    of one class suppress each other.
    """
    return _nms(rotated_iou, boxes, scores, threshold, classes)


def hbb_nms(boxes, scores, threshold, classes=None):
    """`rotated_nms` for horizontal boxes [N, 4]."""
    return _nms(hbb_iou, boxes, scores, threshold, classes)


def multiclass_nms(boxes, scores, threshold, score_threshold):
    """NMS of every class over the same boxes: [N, 5], [N, C] -> [N, C] bool.

    Only scores above `score_threshold` take part. The overlaps are computed once for all classes.
    """
    boxes = jnp.asarray(boxes)
    over = pairwise(rotated_iou, boxes, boxes) > threshold  # [N, N]
    valid = is_valid(boxes)

    def look_up(i, j):
        return over.at[i[:, None], j].get(mode="fill", fill_value=False)

    def one_class(score):  # [N]
        return _greedy(look_up, score, valid & (score > score_threshold))

    return lax.map(one_class, jnp.asarray(scores).T).T


def top_kept(keep, scores, count):
    """The kept boxes of highest score: [N], [N] -> indices [count] int32, used [count] bool.

    Slots that are not used (fewer kept than `count`) hold index 0.
    """
    order = _by_rank(scores, keep)[:count]
    order = jnp.pad(order, (0, count - len(order)))
    used = jnp.arange(count) < jnp.sum(keep)
    return jnp.where(used, order, 0), used


def _nms(overlap, boxes, scores, threshold, classes):
    boxes, scores = jnp.asarray(boxes), jnp.asarray(scores)
    classes = jnp.zeros(len(boxes), jnp.int32) if classes is None else jnp.asarray(classes)

    def compare(i, j):
        (boxes_i, class_i), (boxes_j, class_j) = (
            (boxes.at[k].get(mode="fill"), classes.at[k].get(mode="fill")) for k in (i, j)
        )
        return (pairwise(overlap, boxes_i, boxes_j) > threshold) & (class_i[:, None] == class_j)

    return _greedy(compare, scores, is_valid(boxes) & ~jnp.isnan(scores))


def _greedy(suppresses, scores, candidate):
    """Greedy NMS of the candidates: [N], [N] bool -> [N] bool.

    `suppresses(i, j)`: indices [BLOCK], [BLOCK] -> [BLOCK, BLOCK] bool, whether i overlaps j too
    much; False for an index of N, which stands for no box.
    """
    n, total = len(scores), jnp.sum(candidate)
    if n == 0:
        return candidate
    room = n + -n % BLOCK
    order = jnp.pad(_by_rank(scores, candidate), (0, room - n))
    order = jnp.where(jnp.arange(room) < total, order, n)

    def next_block(step, carry):
        kept, count = carry  # indices kept so far, followed by `n`s
        block = lax.dynamic_slice_in_dim(order, step * BLOCK, BLOCK)

        def against_kept(i, alive):
            by = lax.dynamic_slice_in_dim(kept, i * BLOCK, BLOCK)
            return alive & ~jnp.any(suppresses(by, block), axis=0)

        alive = lax.fori_loop(0, _blocks(count), against_kept, block < n)
        keep = _fixed_point(jnp.triu(suppresses(block, block), 1), alive)
        slot = jnp.where(keep, count + jnp.cumsum(keep) - 1, room)
        return kept.at[slot].set(block, mode="drop"), count + jnp.sum(keep)

    kept, _ = lax.fori_loop(0, _blocks(total), next_block, (jnp.full(room, n, order.dtype), 0))
    return jnp.zeros(n, bool).at[kept].set(True, mode="drop")


def _blocks(count):
    return (count + BLOCK - 1) // BLOCK


def _by_rank(scores, candidate):
    """Indices by falling score, equal scores by rising index, those that are no candidates last."""
    return jnp.argsort(jnp.where(candidate, -scores, jnp.inf), stable=True)


def _fixed_point(suppresses, alive):
    """The one set where a box of `alive` is kept if and only if no kept box suppresses it.

    suppresses[i, j]: i ranks before j and overlaps it too much. Every round settles at least the
    first box not yet settled, so the loop ends.
    """

    def improve(carry):
        keep, _ = carry
        new = alive & ~jnp.any(suppresses & keep[:, None], axis=0)
        return new, jnp.any(new != keep)

    return lax.while_loop(lambda carry: carry[1], improve, (alive, jnp.array(True)))[0]
