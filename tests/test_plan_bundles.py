"""Cycles of Pallas's kernels from the TPU compiler's schedule."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from rsfm_jax.models.short_attention import short_attention
from rsfm_jax.plan import hlo
from rsfm_jax.plan.bundles import kernel_cycles, schedule_cycles
from rsfm_jax.plan.targets import parse_target

# As the compiler writes them, shortened: two bundles before a loop of 10 turns, in it three of
# its own, one of them after an inner loop of 8 turns of two bundles, and another of 4 turns of
# one; a bundle at the end.
SCHEDULE = """
= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = inlined_call_operand.hbm [shape: bf16[6400,12288], index: 0] }
   0x1   :  { %9 = vsyncpa [#allocation4], 0  ;;  %s2 = smov 0 }
   0x2 LB: > { %s3 = sadd.s32 1, %s2 }
   0x3   : > { %p4 = scmp.ge.s32.totalorder %s3, 3 }
   0x4 LB: >> { %s5 = smul.u32 100, %s6  ;;  %v7 = vlaneseq }
   0x5   : >> { %p8 = scmp.ge.s32.totalorder %s5, 8 /* loop exit test */  ;;  %v1 = vlaneseq }
base_bounds: (800, 96)
   0x6 LB: >> { %p8 = scmp.ge.s32.totalorder %s9, 4 /* loop exit test */ }
   0x7 PF: > { %p10 = scmp.ge.s32.totalorder %s11, 10 /* loop exit test */ }
   0x8   :  { %12 = vsyncpa [#allocation5], 1 }
"""


def test_bundles_count_as_often_as_their_loops_turn():
    assert schedule_cycles(SCHEDULE) == 3 + 10 * (3 + 8 * 2 + 4 * 1)


def test_a_kernel_without_an_estimate_counts_its_schedule():
    module = hlo.parse(
        """HloModule step

ENTRY %main (x: bf16[64,128]) -> bf16[64,128] {
  %x = bf16[64,128] parameter(0)
  %a = bf16[64,128] fusion(%x), kind=kLoop, backend_config={"estimated_cycles":"100"}
  %k = bf16[64,128] custom-call(%a, %a), metadata={op_name="jit(f)/jvp/flash/pallas_call"}
  ROOT %l = bf16[64,128] custom-call(%k), metadata={op_name="jit(f)/jvp/flash/pallas_call"}
}
"""
    )
    assert hlo.estimated_cycles(module) == 100
    assert hlo.estimated_cycles(module, {("flash", (64, 128)): 7}) == 114
    # What a kernel is given twice it reads once.
    assert hlo.bytes_moved(module) == 3 * 2 * 64 * 128 * 2


def test_a_step_without_kernels_starts_no_compiler():
    traced = jax.jit(jnp.sin).trace(jnp.ones(3))
    assert kernel_cycles(traced.jaxpr.jaxpr, parse_target("v5e:2x2")) == {}


def test_kernels_of_a_step_on_a_compiler_that_is_installed():
    if not importlib.util.find_spec("libtpu"):
        pytest.skip('libtpu is not installed: pip install -e ".[plan]"')

    def loss(qkv):
        return short_attention(qkv, jnp.zeros((3, 2, 64), qkv.dtype)).astype(float).sum()

    qkv = jax.ShapeDtypeStruct((16, 50, 3, 2, 64), jnp.bfloat16)
    traced = jax.jit(jax.grad(loss)).trace(qkv)
    found = kernel_cycles(traced.jaxpr.jaxpr, parse_target("v5e:2x2"))
    ahead, back = (found[f"short_attention_{name}", shape] for name, shape in (
        ("forward", (800, 128)), ("backward", (800, 384))
    ))  # fmt: skip
    assert 2_000 < ahead < back < 40_000
