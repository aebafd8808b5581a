"""A step's memory is used again by the next."""

import sys

import pytest

from tests.conftest import run_python

SCRIPT = """
import resource, sys
import jax, jax.numpy as jnp
from rsfm_jax.training.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
x = jnp.ones((1000, 10_000))
step = jax.jit(lambda x: (jnp.sort(jnp.sin(x)) * x[::-1]).sum())
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc of glibc")
def test_later_steps_ask_the_kernel_for_no_memory():
    faults = {}
    for choice in ("leave", "keep"):
        run = run_python("-c", SCRIPT, choice)
        assert run.returncode == 0, run.stderr
        faults[choice] = [int(line) for line in run.stdout.split()]
    pages = 4 * 1000 * 10_000 // 4096  # of one array: otherwise every step faults in at least it
    assert faults["leave"][-1] > pages
    assert faults["keep"][-1] < pages / 100
