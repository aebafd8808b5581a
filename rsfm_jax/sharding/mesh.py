"""The device mesh (data, fsdp, model) and how a global batch lies on it."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding

from rsfm_jax.errors import UserError

AXES = ("data", "fsdp", "model")


def make_mesh(config: Any, devices: list[Any] | None = None) -> Mesh:
    """The mesh of `config.mesh.data|fsdp|model`, where one -1 takes the devices left over.

    Args:
      config: the run's config.
      devices: the devices to use; all of them by default.

    Raises:
      UserError: sizes that are not positive, two -1, more devices asked for than there are, or
        sizes that do not use all of them.
    """
    devices = jax.devices() if devices is None else devices
    shape = [config.mesh[axis] for axis in AXES]
    asked = ", ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"{asked}: sizes are positive, and one may be -1 (the devices left over)")
    fixed = int(np.prod([size for size in shape if size != -1]))
    if fixed > len(devices) or len(devices) % fixed or (-1 not in shape and fixed != len(devices)):
        raise UserError(f"{asked}: does not fit the {len(devices)} devices there are")
    shape = [len(devices) // fixed if size == -1 else size for size in shape]
    # Auto axes: the compiler propagates shardings, as Linen modules need.
    return Mesh(_arrange(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(shape: list[int], devices: list[Any]) -> np.ndarray:
    """Devices in mesh order: neighbours on the links, TPU slices along the data axis."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, *within = shape
    if data % slices:
        raise UserError(
            f"config.mesh.data={data} is not a multiple of the {slices} slices, between which "
            "only the data axis can run"
        )
    return mesh_utils.create_hybrid_device_mesh(
        [data // slices, *within], [slices, 1, 1], devices, allow_split_physical_axes=True
    )


def check_batch(config: Any, mesh: Mesh) -> None:
    """Refuses a global batch that the mesh or the accumulation does not divide."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    parts = shards * config.accumulate_steps
    if config.batch_size % parts:
        raise UserError(
            f"config.batch_size={config.batch_size} is not divisible by data x fsdp x "
            f"config.accumulate_steps = {mesh.shape['data']} x {mesh.shape['fsdp']} x "
            f"{config.accumulate_steps} = {parts}"
        )


@dataclasses.dataclass(frozen=True)
class Placement:
    """Which rows of a global batch this process feeds, and how they become global arrays."""

    sharding: NamedSharding
    batch_size: int

    @property
    def rows(self) -> np.ndarray:
        """The sorted global rows that this process's devices hold."""
        indices = self.sharding.addressable_devices_indices_map((self.batch_size,)).values()
        return np.unique(np.concatenate([np.arange(self.batch_size)[index] for index in indices]))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Global arrays from local ones whose first axis follows `rows`."""
        rows = self.rows

        def place(local: np.ndarray) -> jax.Array:
            def shard(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None  # only of scalars
                start, stop, _ = index[0].indices(self.batch_size)
                first = np.searchsorted(rows, start)
                return local[first : first + stop - start]

            shape = (self.batch_size, *local.shape[1:])
            return jax.make_array_from_callback(shape, self.sharding, shard)

        return jax.tree.map(place, batch)
