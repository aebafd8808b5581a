"""Reading compiled programs: lines as XLA prints them for GPUs, TPUs and the processor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.plan import hlo
from rsfm_jax.plan.collectives import collectives, device_groups, traffic, varying_axes
from rsfm_jax.plan.hlo import Instruction

MESH = {"data": 2, "fsdp": 4, "model": 2}

GPU = """HloModule jit_train_step, is_scheduled=true

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

ENTRY %main (param: f32[64,32], param.1: bf16[512,32]) -> bf16[64,32] {
  %param = f32[64,32]{1,0} parameter(0)
  %param.1 = bf16[512,32]{1,0} parameter(1)
  %convert = bf16[64,32]{1,0} fusion(%param), kind=kLoop, calls=%add
  %gather-start = ((bf16[64,32]{1,0}), (bf16[256,32]{1,0})) all-gather-start(%convert), \
channel_id=1, replica_groups=mesh['data'=2,'fsdp'=4,'model'=2] {'fsdp'}, dimensions={0}
  %gather-done = bf16[256,32]{1,0} all-gather-done(%gather-start)
  %product = bf16[512,32]{1,0} custom-call(%gather-done, %param.1), \
custom_call_target="__cublas$lt$matmul"
  ROOT %scattered = bf16[64,32]{1,0} reduce-scatter(%product), channel_id=2, \
replica_groups=[2,8]<=[16], dimensions={0}, to_apply=%add
}
"""

TPU = """HloModule jit_train_step, is_scheduled=true

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[]{:T(256)} parameter(0)
  %b = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%a, %b)
}

%windowed_dot_general_body_rs (p: (bf16[8,128], u32[])) -> (bf16[8,128], u32[]) {
  %p = (bf16[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %part = bf16[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=0
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %next = u32[]{:T(128)} add(%i, %two)
  %send = (bf16[8,128]{1,0:T(8,128)}, bf16[8,128]{1,0:T(8,128)S(1)}) \
collective-permute-start(%part), channel_id=7, \
source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %sent = bf16[8,128]{1,0:T(8,128)S(1)} collective-permute-done(%send)
  %dot = bf16[8,128]{1,0:T(8,128)} fusion(%sent), kind=kOutput, calls=%add, \
backend_config={"estimated_cycles":"100"}
  ROOT %out = (bf16[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) tuple(%dot, %next)
}

%windowed_dot_general_cond_rs (q: (bf16[8,128], u32[])) -> pred[] {
  %q = (bf16[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) parameter(0)
  %bound = u32[]{:T(128)} constant(4)
  %j = u32[]{:T(128)} get-tuple-element(%q), index=1
  ROOT %less = pred[]{:T(512)} compare(%j, %bound), direction=LT
}

%start (x: bf16[8,128]) -> bf16[32,128] {
  %x = bf16[8,128]{1,0:T(8,128)} parameter(0)
  %all-gather.1 = bf16[32,128]{1,0:T(8,128)} all-gather(%x), channel_id=3, \
replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %begun = bf16[32,128]{1,0:T(8,128)} custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%done (y: bf16[8,128]) -> bf16[32,128] {
  %y = bf16[8,128]{1,0:T(8,128)} parameter(0)
  %all-gather.2 = bf16[32,128]{1,0:T(8,128)} all-gather(%y), channel_id=3, \
replica_groups=mesh['axis_0'=4,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %ended = bf16[32,128]{1,0:T(8,128)} custom-call(%all-gather.2), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (param: bf16[8,128]) -> bf16[8,128] {
  %param = bf16[8,128]{1,0:T(8,128)} parameter(0)
  %zero = u32[]{:T(128)} constant(0)
  %first = bf16[32,128]{1,0:T(8,128)} fusion(%param), kind=kCustom, calls=%start
  %last = bf16[32,128]{1,0:T(8,128)} fusion(%param), kind=kCustom, calls=%done
  %init = (bf16[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) tuple(%param, %zero)
  %loop = (bf16[8,128]{1,0:T(8,128)}, u32[]{:T(128)}) while(%init), \
condition=%windowed_dot_general_cond_rs, body=%windowed_dot_general_body_rs
  ROOT %result = bf16[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=0
}
"""


class TestGpu:
    module = hlo.parse(GPU)

    def test_kernels_are_what_is_launched(self):
        assert hlo.kernels(self.module) == 4  # the cast, the product and two collectives

    def test_bytes_are_operands_and_results(self):
        small, large, other = 64 * 32, 256 * 32, 512 * 32
        cast = 4 * small + 2 * small
        gather = 2 * small + 2 * (small + large)
        product = 2 * (large + other + other)
        scatter = 2 * (other + small)
        assert hlo.bytes_moved(self.module) == cast + gather + product + scatter

    def test_collectives(self):
        scatter, gather = collectives(self.module, MESH)
        assert (gather.kind, gather.dtype, gather.axes) == ("all-gather", "bf16", "fsdp")
        assert (gather.count, gather.bytes) == (1, 256 * 32 * 2)
        assert gather.sent == 192 * 32 * 2
        # The groups 0-7 and 8-15: all but the first axis.
        assert (scatter.kind, scatter.axes) == ("reduce-scatter", "fsdp+model")
        assert (scatter.bytes, scatter.sent) == (512 * 32 * 2, 448 * 32 * 2)


class TestTpu:
    module = hlo.parse(TPU)

    def test_a_loop_runs_from_bound_and_stride(self):
        assert hlo.estimated_cycles(self.module) == 2 * 100

    def test_vector_memory_is_no_traffic(self):
        part = 8 * 128 * 2
        dot, permute = part, 2 * part
        fusions = 2 * (part + 32 * 128 * 2)
        assert hlo.bytes_moved(self.module) == 2 * (dot + permute) + fusions

    def test_collectives(self):
        gather, ring = collectives(self.module, {"data": 1, "fsdp": 4, "model": 4})
        assert (ring.kind, ring.axes) == ("reduce-scatter by ring", "model")
        assert (ring.count, ring.bytes) == (2, 2 * 8 * 128 * 2)
        # Start and end of one asynchronous gather.
        assert (gather.kind, gather.count, gather.bytes) == ("all-gather", 1, 32 * 128 * 2)


def instruction(groups: str) -> Instruction:
    return Instruction("x", "f32[8]", "all-reduce", f"%y), channel_id=1, {groups}, to_apply=%add")


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},{14,15}}", "model"),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1)", "fsdp"),
        ("replica_groups=[8,2]<=[2,8]T(1,0)", "data"),
        ("replica_groups=[2,8]<=[2,4,2]T(2,0,1)", "data+fsdp"),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a','c'}", "data+model"),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=4], device_ids=([2,4,2]T(1,0,2)) {'a'}", "fsdp"),
        ("replica_groups=mesh['a'=16] {'a':(2)4}", "fsdp"),
        ("replica_groups={}", "data+fsdp+model"),
    ],
)
def test_axes_of_replica_groups(groups, axes):
    found = device_groups(instruction(groups), list(MESH.values()))
    assert sorted(found.flatten()) == list(range(16))
    assert varying_axes(found, MESH) == axes


class TestTraffic:
    within, across = np.zeros((1, 8), int), np.arange(8)[None] // 4

    def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(self):
        whole, scattered, _ = traffic("reduce-scatter", 800, self.within)
        gathered_whole, gathered, _ = traffic("all-gather", 100, self.within)
        assert (whole, gathered_whole) == (800, 800)
        assert traffic("all-reduce", 800, self.within) == (800, scattered + gathered, 0)

    def test_what_leaves_an_island_is_shared_by_its_devices(self):
        # Each island of 4 needs the other's 400 of 800 bytes, 100 through every device.
        assert traffic("all-gather", 100, self.across)[2] == 100

    def test_permutes(self):
        pairs = np.array([[0, 1], [1, 2]])
        assert traffic("collective-permute", 5, pairs) == (5, 5, 5)
        assert traffic("collective-permute", 5, np.zeros((2, 2), int)) == (5, 5, 0)


def test_the_processors_own_programs():
    # Not recorded: whatever the installed XLA prints. A loop of 5 products of 64^3.
    def f(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ x), x)

    text = jax.jit(f).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile().as_text()
    module = hlo.parse(text)
    dots = sum(times for _, each, times in module.everything() if each.opcode == "dot")
    assert dots == 5
    assert hlo.bytes_moved(module) >= 5 * 3 * 64 * 64 * 4
