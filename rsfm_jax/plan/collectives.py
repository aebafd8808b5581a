"""What devices say to one another in a compiled step: kind, axis of the mesh, bytes."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from rsfm_jax.plan.hlo import Array, Instruction, Module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# XLA splits a product whose weight is gathered, or whose result is reduced and scattered, into
# a ring: a loop of this name that multiplies one part while a permute sends the next.
_RING = {"_ag": "all-gather by ring", "_rs": "reduce-scatter by ring"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind, type and axis in one step of one device.

    Attributes:
      kind: XLA's name; `... by ring` where permutes inside a product do that work.
      dtype: of what is sent.
      axes: the mesh axes whose devices take part, `data+fsdp`.
      count: how many run.
      bytes: what they carry, whole: an all-gather's result, a reduce-scatter's or all-reduce's
        argument.
      sent: bytes that one device sends at least: (n-1)/n of `bytes` among n devices, and twice
        that for an all-reduce.
      sent_beyond: what of it has to leave the slice or host, shared out over the devices there.
    """

    kind: str
    dtype: str
    axes: str
    count: int
    bytes: int
    sent: int
    sent_beyond: int


def collectives(
    module: Module, mesh: dict[str, int], islands: np.ndarray | None = None
) -> list[Collective]:
    """Every collective of a step, grouped, the largest first.

    Args:
      module: a program compiled for the devices of `mesh`, in its order.
      mesh: sizes of the mesh's axes, in order.
      islands: [devices] which slice or host each lies in; None for a single one.
    """
    if islands is None:
        islands = np.zeros(int(np.prod(list(mesh.values()))), int)
    groups: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(4, int))
    for instruction, operands, kind, times in _found(module):
        participants = device_groups(instruction, list(mesh.values()))
        axes = varying_axes(participants, mesh)
        for dtype in sorted({array.dtype for array in operands}):
            payload = sum(array.bytes for array in operands if array.dtype == dtype)
            first = dtype == operands[0].dtype
            amounts = (first, *traffic(kind, payload, islands[participants]))
            groups[kind, dtype, axes] += times * np.array(amounts)
    found = [Collective(*key, *map(int, total)) for key, total in groups.items()]
    return sorted(found, key=lambda collective: -collective.sent)


def traffic(kind: str, payload: int, islands: np.ndarray) -> tuple[int, int, int]:
    """(bytes carried, bytes one device sends, of those beyond its island).

    Args:
      kind: of the collective.
      payload: bytes that one device puts in.
      islands: [groups, size] where the participants lie; groups are alike.
    """
    size, count = islands.shape[1], len(np.unique(islands[0]))
    if "permute" in kind or "ring" in kind:
        crosses = (islands != islands[:, :1]).any()
        return payload, payload, int(crosses) * payload
    whole = payload * size if kind == "all-gather" else payload
    rounds = 2 if kind == "all-reduce" else 1
    inside = size // count  # devices of one island share what leaves it
    beyond = rounds * whole * (count - 1) // count // inside
    return whole, rounds * whole * (size - 1) // size, beyond


def _found(module: Module) -> Iterator[tuple[Instruction, list[Array], str, int]]:
    """Each collective once: asynchronous fusions on TPU repeat one under the same channel."""
    seen = set()
    for computation, instruction, times in module.everything():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS or instruction.opcode.endswith("-done"):
            continue
        channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
        if channel in seen:
            continue
        seen.add(channel)
        operands = module.operand_arrays(computation, instruction)
        yield instruction, operands, _ring(computation) or kind, times


def _ring(computation: str) -> str | None:
    found = re.search(r"windowed_dot_general_body(_ag|_rs)", computation)
    return _RING[found[1]] if found else None


def device_groups(instruction: Instruction, mesh_shape: list[int]) -> np.ndarray:
    """[groups, size] positions in the mesh of the devices that a collective joins."""
    pairs = instruction.attribute(r"source_target_pairs=\{(\{.*?\})\}")
    if pairs:
        return _braces(pairs)
    text = instruction.attribute(r"replica_groups=(.*)$") or ""
    devices = int(np.prod(mesh_shape))
    if text.startswith("mesh["):
        return _named_groups(text, devices)
    if text.startswith("["):  # [2,4]<=[4,2]T(1,0)
        shape, _, source = text.partition("<=")
        return _iota(source, devices).reshape(_integers(shape.strip("[]")))
    if text.startswith("{{"):
        return _braces(text.partition("}}")[0] + "}")
    return np.arange(devices)[None]  # {}: all of them


def _named_groups(text: str, devices: int) -> np.ndarray:
    """Of `mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}`; the order is left out when plain.

    A part of an axis, `'a':(2)2`, is the axis split in (2, 2, rest) and of these the second.
    """
    order = re.match(r"[^{]*device_ids=\((.*?)\) \{", text)
    grid = _iota(order[1], devices) if order else np.arange(devices)
    sizes = {name: [int(n)] for name, n in re.findall(r"'(\w+)'=(\d+)", text.partition("]")[0])}
    joined = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", text.partition(" {")[2].partition("}")[0])
    for name, before, size in joined:
        if size:
            whole = int(np.prod(sizes[name]))
            sizes[name] = [int(before), int(size), whole // int(before) // int(size)]
    axes = [(name, part) for name, parts in sizes.items() for part in range(len(parts))]
    grid = grid.reshape([size for parts in sizes.values() for size in parts])
    inner = [axes.index((name, 1 if size else 0)) for name, _, size in joined]
    outer = [axis for axis in range(grid.ndim) if axis not in inner]
    count = int(np.prod([grid.shape[axis] for axis in inner]))
    return grid.transpose(outer + inner).reshape(-1, count)


def _iota(text: str, devices: int) -> np.ndarray:
    """Flat device numbers of `[4,2]T(1,0)`: counted up in that shape, then transposed."""
    shape, axes = re.findall(r"^\[([\d,]+)\](?:T\(([\d,]+)\))?", text)[0]
    grid = np.arange(devices).reshape(_integers(shape))
    return (grid.transpose(_integers(axes)) if axes else grid).flatten()


def varying_axes(groups: np.ndarray, mesh: dict[str, int]) -> str:
    """Names of the axes along which a group's devices differ, joined by `+`."""
    places = np.stack(np.unravel_index(groups, list(mesh.values())))  # [axes, groups, size]
    differs = (places != places[:, :, :1]).any((1, 2))
    return "+".join(name for name, along in zip(mesh, differs, strict=True) if along) or "none"


def _integers(text: str) -> list[int]:
    return [int(x) for x in text.split(",")]


def _braces(text: str) -> np.ndarray:
    return np.array([_integers(group) for group in re.findall(r"\{([\d,]+)\}", text)])
