"""Memory of a run on CPU: pages that one step freed serve the next."""

import ctypes
import sys

import jax

# Parameters of glibc's `mallopt` (malloc.h), and its values for "never".
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER_TRIM, NEVER_MMAP = -1, 0


def keep_freed_memory() -> None:
    """Keeps what malloc has freed, where the CPU is the device; elsewhere changes nothing.

    XLA takes a step's temporaries (1.2 GB for 16 images and 32M parameters) from malloc and
    frees them after it. glibc returns blocks of that size to the kernel, which clears every page
    of the next step's anew: 0.5 of 1.8 s a step. Kept are only blocks of the main thread, where
    XLA computes unless dispatch is asynchronous.

    To be called once, before the first use of a device. Linux with glibc only.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(M_MMAP_MAX, NEVER_MMAP)
        mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)
