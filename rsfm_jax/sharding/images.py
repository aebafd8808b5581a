"""Work on whole images that needs no other device's images."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from rsfm_jax.sharding.rules import RULES


def per_device(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of arrays with a leading batch axis, each device on its own images.

    The compiler would otherwise gather all images wherever a loop's end or an index depends on
    them. Every argument and result has the batch axis first, and no result may mix images. With
    no mesh set, or a batch that does not divide over it, this is `f`.
    """
    axes = RULES["batch"]
    assert isinstance(axes, tuple)

    def run(*batched: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        images = jax.tree.leaves(batched)[0].shape[0]
        if mesh.empty or images % math.prod(mesh.shape[axis] for axis in axes):
            return f(*batched)
        # The model axis is left to the compiler, which knows that gradients are the same along
        # it. The check would ask loops in `f` to mark their starting values as varying.
        return jax.shard_map(
            f, in_specs=P(axes), out_specs=P(axes), axis_names=set(axes), check_vma=False
        )(*batched)

    return run
