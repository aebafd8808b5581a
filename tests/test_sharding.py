"""Sharded = unsharded, and what the rules refuse."""

import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.mesh import AXES, _arrange, check_batch, make_mesh
from rsfm_jax.sharding.rules import mesh_spec, tree_shardings
from tests.conftest import run_python


def test_twenty_losses_agree_on_every_mesh():
    run = run_python("-m", "tests.sharded_losses", devices=8)
    assert run.returncode == 0, run.stderr
    losses = json.loads(run.stdout)
    unsharded = losses.pop("1x1x1")
    assert set(losses) == {"8x1x1", "1x8x1", "2x2x2", "1x2x4"}
    assert len(unsharded) == 20
    assert unsharded[-1] < 0.8 * unsharded[0]
    for mesh, sharded in losses.items():
        np.testing.assert_allclose(sharded, unsharded, atol=1e-5, err_msg=mesh)


def abstract_mesh(data=1, fsdp=1, model=1):
    return AbstractMesh((data, fsdp, model), AXES, axis_types=(AxisType.Auto,) * 3)


def weight(shape, axes):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), axes)


class TestRules:
    def test_known_axes(self):
        tree = {"w": weight((8, 3, 4, 2), ("embed", None, "heads", None)), "count": jnp.zeros(())}
        shardings = tree_shardings(tree, abstract_mesh(fsdp=4, model=2))
        assert shardings["w"].spec == P("fsdp", None, "model", None)
        assert shardings["count"].spec == P()

    def test_unmatched_axis_is_named(self):
        with pytest.raises(UserError, match=r"layer/w.*'colour'"):
            tree_shardings({"layer": {"w": weight((4, 4), ("colour", "embed"))}}, abstract_mesh())

    def test_two_dimensions_on_one_mesh_axis(self):
        with pytest.raises(UserError, match="w: .*model"):
            mesh_spec(("heads", "mlp"), "w")

    def test_indivisible_dimension_is_named(self):
        with pytest.raises(UserError, match=r"w: dimension 6 .*config\.mesh\.fsdp=4"):
            tree_shardings({"w": weight((6, 4), ("embed", "mlp"))}, abstract_mesh(fsdp=4))

    def test_unsharded_parameters_stop_the_run(self):
        tree = {
            "big": weight((100, 100), ("embed", None)),
            "forgotten": weight((30, 10), (None, None)),
        }
        with pytest.raises(UserError, match=r"2\.9% .*forgotten"):
            tree_shardings(tree, abstract_mesh(fsdp=4))
        tree_shardings(tree, abstract_mesh(data=4))


def config(data=1, fsdp=1, model=1, batch_size=8, accumulate_steps=1):
    mesh = {"data": data, "fsdp": fsdp, "model": model}
    return SimpleNamespace(mesh=mesh, batch_size=batch_size, accumulate_steps=accumulate_steps)


class TestMesh:
    @pytest.mark.parametrize("shape", [(2, 1, 1), (0, 1, 1), (-1, -1, 1), (3, -1, 1)])
    def test_refuses_what_the_devices_do_not_fit(self, shape):
        with pytest.raises(UserError, match=r"config\.mesh\.data"):
            make_mesh(config(*shape), jax.devices())

    def test_minus_one_takes_the_rest(self):
        assert dict(make_mesh(config(fsdp=-1)).shape) == {"data": 1, "fsdp": 1, "model": 1}

    def test_refuses_a_batch_that_does_not_divide(self):
        with pytest.raises(UserError, match=r"config\.batch_size=12.* = 2 x 4 x 1 = 8"):
            check_batch(config(batch_size=12), abstract_mesh(data=2, fsdp=4, model=3))
        check_batch(config(batch_size=16, accumulate_steps=2), abstract_mesh(data=2, fsdp=4))


class TestSlices:
    """Two TPU slices of four chips: the slow network is crossed by the data axis alone."""

    devices = [
        SimpleNamespace(
            id=i, slice_index=i // 4, process_index=i // 4, platform="cpu", device_kind="cpu"
        )
        for i in range(8)
    ]

    def arrange(self, *shape):
        grid = _arrange(list(shape), self.devices)
        return np.vectorize(lambda device: device.slice_index)(grid)

    def test_data_runs_between_slices(self):
        slices = self.arrange(4, 2, 1)
        assert slices.shape == (4, 2, 1)
        assert slices[:, 0, 0].tolist() == [0, 0, 1, 1]
        assert (slices == slices[:, :1, :1]).all()

    def test_other_axes_may_not(self):
        with pytest.raises(UserError, match="data=1 is not a multiple of the 2 slices"):
            self.arrange(1, 8, 1)
