"""Shared by all tests: one CPU device, cached compilations, the sample data's place."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data" / "real"

os.environ["JAX_PLATFORMS"] = "cpu"
# Commands under test compile the same small programs again and again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def declare_torchvision_operators():
    """Lets torchvision, which timm and transformers import, load beside a CPU build of torch.

    Its wheels are built for CUDA: elsewhere its compiled operators stay out, and its import
    fails for want of two names.
    """
    if not (find_spec("torch") and find_spec("torchvision")):
        return None
    import torch

    if torch.version.cuda:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # the names last as long as it does


TORCHVISION = declare_torchvision_operators()


@pytest.fixture
def real_data() -> Path:
    """The folder of real samples, which the project does not ship."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real samples are not at {REAL_DATA}")
    return REAL_DATA


def run_python(*arguments: object, devices: int = 1, timeout: float = 600, **environment: str):
    """Runs this Python on `arguments` in the checkout, with fake CPU devices."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
