"""Attention of short sequences on TPUs in one kernel: some 50 visible patches, or 196.

XLA's attention pads every head of every image to the chip's tiles and lays queries, keys and
values out anew around its products. This kernel reads the fused product [B*N, 3*H*E] as it
lies. A program takes the columns of a few heads and the rows of several images; rows are padded
in fast memory only, where windows that start at whole tiles hold one image, or a few small ones
side by side whose scores of one another are masked. Lanes of other heads are zeroed rather than
cut away: the products are as wide as a tile anyway. Scores lie transposed, keys down, queries
across, so that softmax reduces along rows; the backward pass recomputes them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rsfm_jax.models.layers import add_bias
from rsfm_jax.sharding.rules import mesh_spec

LANES = 128
# Beyond it one tile of scores is too much for the registers, and XLA's attention does well.
MAX_TOKENS = 256
# Of a program: enough work to hide its start, small enough to be compiled in a second.
PROGRAM_ROWS, PROGRAM_LANES = 800, 256
# Bytes of one block; the backward pass holds a dozen.
BLOCK_BYTES = 5 * 2**18
VMEM_BYTES = 32 * 2**20
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How one device's queries, keys and values are cut.

    Attributes:
      tokens: of an image.
      head_dim: lanes of a head.
      images: of a program.
      lanes: of a program, whole heads and whole tiles.
      group: images of a window.
      window: rows of a window, whole tiles that hold a group wherever it starts.
      tile: rows of a tile.
    """

    tokens: int
    head_dim: int
    images: int
    lanes: int
    group: int
    window: int
    tile: int

    @property
    def rows(self) -> int:
        """Of a program."""
        return self.images * self.tokens


def cut(shape: tuple[int, ...], itemsize: int) -> Blocks | None:
    """Blocks of one device's array [B, N, 3, H, E]; None where none are whole tiles that fit."""
    images, tokens, _, heads, head_dim = shape
    unit = math.lcm(head_dim, LANES)
    if tokens > MAX_TOKENS or heads * head_dim % unit:
        return None
    widths = range(unit, max(unit, PROGRAM_LANES) + 1, unit)
    lanes = max(width for width in widths if heads * head_dim % width == 0)
    tile, group = 32 // itemsize, max(1, LANES // tokens)
    beyond = tile - math.gcd(group * tokens, tile)  # how far into a tile a group can start
    window = -(-(group * tokens + beyond) // tile) * tile
    fitting = [
        count
        for count in range(1, images + 1)
        if images % count == 0
        and count * tokens % tile == 0
        and count * tokens >= window
        and count * tokens * lanes * itemsize <= BLOCK_BYTES
    ]
    if not fitting:
        return None
    small = [count for count in fitting if count * tokens <= PROGRAM_ROWS]
    count = max(small) if small else min(fitting)
    return Blocks(tokens, head_dim, count, lanes, group, window, tile)


def fits(shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether `short_attention` takes qkv [B, N, 3, H, E] on the mesh that is set."""
    part = _device_shape(shape)
    return part is not None and cut(part, jnp.dtype(dtype).itemsize) is not None


def as_matrix(weight: jax.Array) -> jax.Array:
    """The weight of queries, keys and values [D, 3, H, E] as [D, 3*H*E], where heads are whole.

    The product of the one is laid out as the kernel reads it. That of the other has its rows
    last, which spares padding E to a tile, and would have to be laid out anew.
    """
    mesh = jax.sharding.get_abstract_mesh()
    split = not mesh.empty and mesh.shape["model"] > 1
    return weight if split else weight.reshape(len(weight), -1)


def short_attention(qkv: jax.Array, bias: jax.Array) -> jax.Array:
    """Bidirectional attention on a TPU, softmax in float32 of scores over sqrt(E).

    Args:
      qkv: [B, N, 3, H, E] queries, keys and values that `fits`, not yet biased.
      bias: [3, H, E].

    Returns:
      [B, N, H, E].
    """
    if jax.sharding.get_abstract_mesh().empty:
        return _one_device(qkv, bias)
    # Each device its own images and heads: the compiler cannot split a kernel.
    columns = (None, "heads", None)
    return jax.shard_map(
        _one_device,
        in_specs=(mesh_spec(("batch", None, *columns), "qkv"), mesh_spec(columns, "bias")),
        out_specs=mesh_spec(("batch", None, "heads", None), "mixed"),
        check_vma=False,
    )(qkv, bias)


def _device_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What of [B, N, 3, H, E] one device has; None where the mesh does not divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return shape
    images, tokens, three, heads, head_dim = shape
    rows, columns = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["model"]
    if images % rows or heads % columns:
        return None
    return images // rows, tokens, three, heads // columns, head_dim


def _one_device(qkv: jax.Array, bias: jax.Array) -> jax.Array:
    blocks = cut(qkv.shape, qkv.dtype.itemsize)
    assert blocks is not None
    images, tokens, _, heads, head_dim = qkv.shape
    # Biased as the product lies, too: in five dimensions XLA lays it out anew.
    rows = add_bias(qkv.reshape(images * tokens, -1), bias.reshape(1, -1))
    return _attend(blocks, rows).reshape(images, tokens, heads, head_dim)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(blocks: Blocks, qkv: jax.Array) -> jax.Array:
    """[B*N, 3*H*E] -> [B*N, H*E]."""
    rows, width = qkv.shape[0], qkv.shape[1] // 3
    steps = width // blocks.lanes

    def spec(part: int) -> pl.BlockSpec:
        shape = (blocks.rows, blocks.lanes)
        return pl.BlockSpec(shape, lambda i, j: (i, j + part * steps))

    return pl.pallas_call(
        partial(_forward_kernel, blocks=blocks),
        grid=(rows // blocks.rows, steps),
        in_specs=[spec(0), spec(1), spec(2)],
        out_specs=spec(0),
        out_shape=jax.ShapeDtypeStruct((rows, width), qkv.dtype),
        compiler_params=_compiler_params("parallel", "parallel"),
        cost_estimate=_cost(blocks, rows, width, qkv.dtype, products=2, arrays=4),
        name="short_attention_forward",
    )(qkv, qkv, qkv)


def _attend_backward(blocks: Blocks, qkv: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    rows, width = gradient.shape
    steps = width // blocks.lanes
    shape = (blocks.rows, blocks.lanes)

    def spec(part: int) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda i, j: (i, j + part * steps))

    gradients = pl.pallas_call(
        partial(_backward_kernel, blocks=blocks, steps=steps),
        grid=(rows // blocks.rows, steps),
        in_specs=[spec(0), spec(1), spec(2), spec(0)],
        out_specs=pl.BlockSpec(memory_space=pl.ANY),
        out_shape=jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        scratch_shapes=[
            pltpu.VMEM((2, 3, *shape), qkv.dtype),
            pltpu.SemaphoreType.DMA((2, 3)),
        ],
        compiler_params=_compiler_params("parallel", "arbitrary"),
        cost_estimate=_cost(blocks, rows, width, qkv.dtype, products=5, arrays=7),
        name="short_attention_backward",
    )(qkv, qkv, qkv, gradient)
    return (gradients,)


_attend.defvjp(lambda blocks, qkv: (_attend(blocks, qkv), qkv), _attend_backward)


def _forward_kernel(q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, *, blocks: Blocks) -> None:
    def one_window(here: Any, same_image: jax.Array, own: jax.Array) -> None:
        mixed = _Columns()
        for columns, load in _heads(blocks):
            q, k, v = (load(ref, here) for ref in (q_ref, k_ref, v_ref))
            weights = _weights(q, k, same_image, blocks).astype(v.dtype)
            mixed.add(columns, _product(weights, v, 0, 0))
        mixed.store(out_ref, here, own)

    _each_window(blocks, one_window)


def _backward_kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, gradient_ref: Any,
    out_ref: Any, buffer: Any, semaphores: Any, *, blocks: Blocks, steps: int,
) -> None:  # fmt: skip
    """Gradients of queries, keys and values go to three places of one array, so copied here.

    A program's copies run beside the next one's work, from the other half of `buffer`.
    """
    row, step = pl.program_id(0), pl.program_id(1)
    half = jax.lax.rem(step, 2)

    def copies(half: jax.Array, step: jax.Array) -> list[Any]:
        rows = pl.ds(row * blocks.rows, blocks.rows)
        columns = (pl.ds((part * steps + step) * blocks.lanes, blocks.lanes) for part in range(3))
        return [
            pltpu.make_async_copy(
                buffer.at[half, part], out_ref.at[rows, to], semaphores.at[half, part]
            )
            for part, to in enumerate(columns)
        ]

    def wait(half: jax.Array, step: jax.Array) -> None:
        for copy in copies(half, step):
            copy.wait()

    def one_window(here: Any, same_image: jax.Array, own: jax.Array) -> None:
        to_q, to_k, to_v = _Columns(), _Columns(), _Columns()
        for columns, load in _heads(blocks):
            q, k, v, gradient = (load(ref, here) for ref in (q_ref, k_ref, v_ref, gradient_ref))
            weights = _weights(q, k, same_image, blocks)
            to_weights = _product(v, gradient, 1, 1)  # [keys, queries]
            mean = (weights * to_weights).sum(0, keepdims=True)
            to_scores = weights * (to_weights - mean) * blocks.head_dim**-0.5
            weights, to_scores = weights.astype(q.dtype), to_scores.astype(q.dtype)
            to_q.add(columns, _product(to_scores, k, 0, 0))
            to_k.add(columns, _product(to_scores, q, 1, 0))
            to_v.add(columns, _product(weights, gradient, 1, 0))
        for part, gradients in enumerate((to_q, to_k, to_v)):
            gradients.store(buffer.at[half, part], here, own)

    pl.when(step >= 2)(lambda: wait(half, step - 2))
    _each_window(blocks, one_window)
    for copy in copies(half, step):
        copy.start()

    @pl.when(step == steps - 1)
    def _() -> None:
        wait(half, step)
        if steps > 1:
            wait(1 - half, step - 1)


def _each_window(blocks: Blocks, body: Callable[[Any, jax.Array, jax.Array], None]) -> None:
    """Calls `body` with a window's rows, which of its pairs share an image, which rows are its.

    A window starts at a whole tile at or before its first image's first row, and holds rows of
    neighbouring images, too, which it leaves alone.
    """
    group, tokens, window = blocks.group, blocks.tokens, blocks.window

    def one(index: jax.Array, _: int) -> int:
        first = index * (group * tokens)
        start = jnp.minimum(jax.lax.div(first, blocks.tile) * blocks.tile, blocks.rows - window)
        start = pl.multiple_of(start, blocks.tile)

        def image(shape: tuple[int, int], axis: int) -> jax.Array:
            """Which image a row belongs to: 1 to `group`, 0 before and `group` + 1 after."""
            row = start - first + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
            passed = ((row >= i * tokens).astype(jnp.int32) for i in range(group + 1))
            return sum(passed, jnp.zeros(shape, jnp.int32))

        square = (window, window)
        own = image((window, LANES), 0)
        body(
            pl.ds(start, window),
            image(square, 0) == image(square, 1),
            (own >= 1) & (own <= group),
        )
        return 0

    jax.lax.fori_loop(0, -(-blocks.images // group), one, 0)


def _heads(blocks: Blocks) -> Iterator[tuple[slice, Callable[[Any, Any], jax.Array]]]:
    """Of each head the tiles that it lies in, and how to load them with other heads zeroed."""
    for head in range(blocks.lanes // blocks.head_dim):
        first, end = head * blocks.head_dim, (head + 1) * blocks.head_dim
        start, stop = first // LANES * LANES, -(-end // LANES) * LANES
        lane = start + jax.lax.broadcasted_iota(jnp.int32, (blocks.window, stop - start), 1)
        inside = (lane >= first) & (lane < end)
        columns = slice(start, stop)
        alone = stop - start == blocks.head_dim

        def load(
            ref: Any, here: Any, columns: slice = columns, inside: jax.Array | None = None
        ) -> jax.Array:
            block = ref[here, columns]
            return block if inside is None else jnp.where(inside, block, 0)

        yield columns, load if alone else partial(load, inside=inside)


class _Columns:
    """Sums of heads' results [window, lanes] by the tile that they lie in."""

    def __init__(self) -> None:
        self.tiles: dict[int, jax.Array] = {}

    def add(self, columns: slice, result: jax.Array) -> None:
        """Adds a head's, which is zero in other heads' lanes."""
        for tile in range(columns.start, columns.stop, LANES):
            part = result[:, tile - columns.start :][:, :LANES]
            self.tiles[tile] = self.tiles[tile] + part if tile in self.tiles else part

    def store(self, ref: Any, here: Any, own: jax.Array) -> None:
        """Writes the rows that are the window's `own` [window, LANES]."""
        for tile, result in self.tiles.items():
            columns = slice(tile, tile + LANES)
            ref[here, columns] = jnp.where(own, result.astype(ref.dtype), ref[here, columns])


def _weights(q: jax.Array, k: jax.Array, same_image: jax.Array, blocks: Blocks) -> jax.Array:
    """Softmax over keys: [keys, queries] float32."""
    scores = _product(k, q, 1, 1) * blocks.head_dim**-0.5
    scores = jnp.where(same_image, scores, MASKED)
    weights = jnp.exp(scores - scores.max(0, keepdims=True))
    return weights * (1 / weights.sum(0, keepdims=True))


def _product(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """Contracts one axis of each, summed in float32."""
    contracted = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, contracted, preferred_element_type=jnp.float32)


def _compiler_params(*semantics: Any) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES)


def _cost(
    blocks: Blocks, rows: int, width: int, dtype: Any, products: int, arrays: int
) -> pl.CostEstimate:
    """Without padding: `products` of N x N x E a head, `arrays` of [rows, width]."""
    scores = rows * width * blocks.tokens
    return pl.CostEstimate(
        flops=products * 2 * scores,
        transcendentals=scores // blocks.head_dim,
        bytes_accessed=arrays * rows * width * dtype.itemsize,
    )
