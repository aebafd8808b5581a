"""Tries batch x remat x mesh on a target and ranks what fits by images a second."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from rsfm_jax.errors import UserError
from rsfm_jax.models.vit import REMAT_POLICIES
from rsfm_jax.plan.compile import Plan, make_plan
from rsfm_jax.plan.targets import Target, devices, islands

# Of the config's own; a larger batch shares the weights' traffic among more images.
BATCH_FACTORS = (1, 2, 0.5)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one attempt sets in the config."""

    batch_size: int
    remat: str
    data: int
    fsdp: int
    model: int

    @property
    def flags(self) -> str:
        """The choice as one would give it on a command line."""
        mesh = " ".join(f"--config.mesh.{axis}={getattr(self, axis)}" for axis in _AXES)
        return f"--config.batch_size={self.batch_size} --config.model.remat={self.remat} {mesh}"

    def apply(self, config: Any) -> Any:
        """A copy of the config with this choice."""
        config = copy.deepcopy(config)
        config.batch_size, config.model.remat = self.batch_size, self.remat
        for axis in _AXES:
            config.mesh[axis] = getattr(self, axis)
        return config


_AXES = ("data", "fsdp", "model")


def meshes(count: int, groups: int) -> list[tuple[int, int, int]]:
    """(data, fsdp, model) worth trying on `count` devices in `groups` slices or hosts.

    Weights split over everything, or within a group and copied to each; the same with the
    branches of the parallel blocks split over 4 (the paper's) devices.
    """
    found = []
    for model in (1, 4):
        for data in dict.fromkeys((1, groups)):
            if count % (data * model) == 0:
                found.append((data, count // data // model, model))
    return found


def search(config: Any, target: Target, report: Callable[[str], None]) -> list[tuple[Choice, Plan]]:
    """All attempts, the fastest that fits first, those that do not fit last.

    Recomputation is tried only where less of it does not fit, and a larger batch only where the
    smaller one fits: neither can win.

    Args:
      config: the run; its batch size, remat policy and mesh are replaced.
      target: what to compile for.
      report: takes a line about every attempt.

    Raises:
      UserError: no attempt could be compiled.
    """
    attempts: list[tuple[Choice, Plan]] = []
    refused = None
    for choice in _choices(config, target, attempts):
        try:
            plan = make_plan(choice.apply(config), target)
        except UserError as error:
            refused = error
            report(f"{choice.flags}: {error}")
            continue
        attempts.append((choice, plan))
        report(f"{choice.flags}: {outcome(plan)}")
    if not attempts:
        raise refused or UserError(f"--topology={target.text}: nothing to try")
    return sorted(attempts, key=_rank)


def outcome(plan: Plan) -> str:
    """One attempt in a few words."""
    gib = plan.memory.peak / 2**30
    if plan.memory.missing:
        return f"{gib:.1f} GiB, does not fit"
    if plan.images_per_second is None:
        return f"{gib:.1f} GiB"
    return f"{gib:.1f} GiB, {plan.images_per_second:,.0f} images/s at the roofline"


def _choices(config: Any, target: Target, attempts: list[tuple[Choice, Plan]]) -> Iterator[Choice]:
    """What to try next, given the attempts so far."""
    there = devices(target)
    groups = len(set(islands(target, there)))
    batches = sorted({int(config.batch_size * factor) for factor in BATCH_FACTORS})
    for data, fsdp, model in meshes(len(there), groups):
        for batch_size in batches:
            for remat in REMAT_POLICIES:  # from no recomputation to all of it
                choice = Choice(batch_size, remat, data, fsdp, model)
                yield choice
                plan = next((plan for tried, plan in attempts if tried == choice), None)
                if plan is None or not plan.memory.missing:
                    break
            else:
                break


def _rank(attempt: tuple[Choice, Plan]) -> tuple[bool, float, int]:
    _, plan = attempt
    return plan.memory.missing > 0, -(plan.images_per_second or 0), plan.memory.peak
