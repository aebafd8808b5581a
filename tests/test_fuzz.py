"""The short form of `python -m tests.fuzz`."""

import pytest

from tests.fuzz import TARGETS, fuzz


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name):
    if name in ("torch", "rasterio"):
        pytest.importorskip(name)
    fuzz(name, examples=60)
