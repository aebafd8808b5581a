"""FLOPs of the products in a traced step, recomputation and padding included."""

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

# Products of one head's attention, each 2 N M E: scores and mixing; their four gradients and
# the scores once more, as cuDNN's kernels compute them.
_CUDNN_PRODUCTS = {
    "dot_product_attention_fwd_wrapper": 2,
    "dot_product_attention_bwd_wrapper": 5,
}


def product_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products and convolutions, 2 a multiply-add, over all devices.

    A loop of known length counts that often, any other once; of a branch the larger side. A
    kernel counts what it says of itself.

    Args:
      jaxpr: of a traced function, `jax.jit(f).trace(...).jaxpr`.
    """
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name in _CUDNN_PRODUCTS:
        query, key = (var.aval.shape for var in equation.invars[:2])  # [B, N, H, E], [B, M, H, E]
        return _CUDNN_PRODUCTS[name] * 2 * math.prod(query) * key[1]
    if name == "pallas_call" and params["cost_estimate"]:
        return params["cost_estimate"].flops
    inner = [product_flops(each) for each in inner_jaxprs(params)]
    if name == "cond":
        return max(inner, default=0)
    return _times(name, params) * sum(inner)


def _times(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":  # inside, shapes are one device's
        axes = params["newly_manual_axes"]
        return math.prod(params["mesh"].shape[axis] for axis in axes)
    return 1


def inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    """What an equation with these parameters calls: loops' bodies, branches, functions."""
    found = []
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                each = each.jaxpr
            if isinstance(each, Jaxpr):
                found.append(each)
    return found


def _dot(equation: Any) -> int:
    left, right = (var.aval.shape for var in equation.invars)
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    shared = math.prod(left[axis] for axis in contracted) * math.prod(left[axis] for axis in batch)
    return 2 * math.prod(left) * math.prod(right) // shared


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // out_channels
