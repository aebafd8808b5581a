"""A plan as text to read and as JSON."""

import dataclasses
from typing import Any

from rsfm_jax.flops import Term
from rsfm_jax.plan.compile import Memory, Plan
from rsfm_jax.plan.targets import Target
from rsfm_jax.sharding.hardware import GIB


def as_json(plan: Plan, target: Target) -> dict[str, Any]:
    """Everything known of a plan; bytes, seconds and FLOPs without prefixes."""
    facts = plan.facts
    limits = facts.roofline if facts else None
    return dataclasses.asdict(plan) | {
        "flops": plan.flops,
        "fits": plan.memory.missing == 0,
        "missing_bytes": plan.memory.missing,
        "binds": limits.binds if limits else None,
        "step_seconds": limits.step if limits else None,
        "images_per_second": plan.images_per_second,
        "mfu": mfu(plan, target),
    }


def mfu(plan: Plan, target: Target) -> float | None:
    """Share of the chips' peak that analytic FLOPs reach at the roofline."""
    if plan.facts is None or plan.facts.roofline is None or target.chip is None:
        return None
    return plan.flops / plan.devices / plan.facts.roofline.step / target.chip.flops


def as_text(plan: Plan, target: Target) -> str:
    """The plan, a line for each question."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    shards = plan.mesh["data"] * plan.mesh["fsdp"]
    lines = [
        f"{plan.target}: {plan.devices} devices, mesh {mesh}, batch {plan.batch_size} "
        f"({plan.batch_size // shards} images a device), remat {plan.remat}",
        f"parameters   {plan.parameters:,}",
        *_memory(plan.memory),
        f"FLOPs        {plan.flops:.4e} a step, analytic; {plan.computed_flops:.4e} as traced, "
        "with recomputation and padding",
        *(_term(term) for term in plan.terms),
    ]
    return "\n".join(lines + _facts(plan, target))


def _term(term: Term) -> str:
    return f"  an image   {term.name}: {term.training:.3e} = {term.passes} x {term.formula}"


def _memory(memory: Memory) -> list[str]:
    parts = ("weights", "optimizer", "batch", "temporaries", "program")
    each = ", ".join(f"{part} {size(getattr(memory, part))}" for part in parts)
    verdict = f"peak {size(memory.peak)}"
    if memory.missing and memory.capacity:
        verdict += f" of {size(memory.capacity)}: does not fit, {size(memory.missing)} missing"
    elif memory.capacity:
        verdict += f" of {size(memory.capacity)}: fits"
    return [f"a device     {each}", f"memory       {verdict}"]


def size(count: int) -> str:
    """Bytes to read: GiB, below one MiB."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def _facts(plan: Plan, target: Target) -> list[str]:
    facts = plan.facts
    if facts is None:
        return []
    lines = [f"kernels      {facts.kernels:,} a step, {facts.bytes_moved / 1e9:.1f} GB moved"]
    for each in facts.traffic:
        lines.append(
            f"collective   {each.kind} {each.dtype} over {each.axes}: {each.count:,}, "
            f"{each.bytes / 1e9:.3f} GB, {each.sent / 1e9:.3f} GB sent a device"
        )
    limits = facts.roofline
    if limits is None:
        return lines
    lines.append(
        f"roofline     compute {limits.compute * 1e3:.1f} ms, memory {limits.memory * 1e3:.1f} ms, "
        f"network {limits.network * 1e3:.1f} ms: {limits.binds} binds, "
        f"{plan.images_per_second:,.0f} images/s, MFU {mfu(plan, target):.0%} at most"
    )
    if facts.compiler_seconds:
        lines.append(f"compiler     estimates {facts.compiler_seconds * 1e3:.0f} ms a step")
    return lines
