"""The table of plans in docs/plans.md: shipped configs on common hardware."""

from typing import Any

from rsfm_jax.sharding.hardware import GIB

TARGETS = ("v5e:4x4", "v5p:2x2x4", "v6e:4x4", "h200:1", "h200:8", "h100:8")
CONFIGS = (
    "mae_86m",
    "mae_605m",
    "mae_1p3b",
    "mae_2p4b",
    "detect_dota_v2",
    "detect_dior_r",
    "segment_potsdam",
    "segment_loveda",
)
# From none to all: a cell takes the first that fits.
REMAT = ("none", "dots", "full")

_HEAD = """# Plans

What every shipped config needs on common hardware, as compiled; nothing here was run. Regenerated
by

    python launch/plan_table.py

on a machine without accelerators, with the compilers of `pip install -e ".[plan]"`.
A cell takes the least recomputation that fits; batch sizes are the configs' own. Collectives are
GB a device sends, by mesh axis. The roofline is the largest of three bounds, each as if alone
(products as traced, every operand of a kernel read once, every link busy): no step is faster, and
real ones are slower. `compiler` is the TPU compiler's own estimate, of the attention kernel the
bundles of its schedule: to rank, not to promise.
"""
_COLUMNS = (
    "hardware", "batch", "remat", "state GiB", "temporaries GiB", "peak GiB", "sent GB", "kernels",
    "GB moved", "compute / memory / network ms", "images/s", "MFU", "compiler ms",
)  # fmt: skip


def render(cells: dict[str, dict[str, Any]]) -> str:
    """The page, from plans as JSON by config and target."""
    parts = [_HEAD, *_overview(cells)]
    for config in CONFIGS:
        found = cells.get(config, {})
        rows = [_row(target, found[target]) for target in TARGETS if target in found]
        if rows:
            parts += [f"\n## {config}\n\n", _line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *rows]
    return "".join(parts)


def _overview(cells: dict[str, dict[str, Any]]) -> list[str]:
    """What fits where: the policy, and the memory of a device that it takes."""
    rows = [
        _line([config, *(_fit(found.get(target)) for target in TARGETS)])
        for config in CONFIGS
        if (found := cells.get(config))
    ]
    heads = (_line(["config", *TARGETS]), _line(["---"] * (1 + len(TARGETS))))
    return ["\n## What fits where\n\nRemat and the peak of a device in GiB.\n\n", *heads, *rows]


def _fit(plan: dict[str, Any] | None) -> str:
    if plan is None:
        return ""
    if not plan.get("fits"):
        return "no"
    return f"{plan['remat']}, {plan['memory']['peak'] / GIB:.1f}"


def _row(target: str, plan: dict[str, Any]) -> str:
    if "error" in plan:
        return _line([target, plan["error"], *[""] * (len(_COLUMNS) - 2)])
    memory, facts = plan["memory"], plan["facts"]
    peak = f"{memory['peak'] / GIB:.1f} of {memory['capacity'] / GIB:.1f}"
    if not plan["fits"]:
        peak += ", **does not fit**"
    cells = [
        target,
        str(plan["batch_size"]),
        plan["remat"],
        f"{(memory['weights'] + memory['optimizer']) / GIB:.1f}",
        f"{memory['temporaries'] / GIB:.1f}",
        peak,
    ]
    if facts is None:
        return _line(cells + [""] * (len(_COLUMNS) - len(cells)))
    limits = facts["roofline"]
    bounds = [
        f"**{limits[name] * 1e3:.0f}**" if name == plan["binds"] else f"{limits[name] * 1e3:.0f}"
        for name in ("compute", "memory", "network")
    ]
    estimate = facts["compiler_seconds"]
    return _line(
        cells
        + [
            _sent(facts["traffic"]),
            f"{facts['kernels']:,}",
            f"{facts['bytes_moved'] / 1e9:.0f}",
            " / ".join(bounds),
            f"{plan['images_per_second']:,.0f}",
            f"{plan['mfu']:.0%}",
            f"{estimate * 1e3:.0f}" if estimate else "",
        ]
    )


def _sent(traffic: list[dict[str, Any]]) -> str:
    """Kinds that carry at least a hundredth of all bytes, in GB."""
    total: dict[str, int] = {}
    for each in traffic:
        kind = f"{each['kind'].removesuffix(' by ring')} {each['axes']}"
        total[kind] = total.get(kind, 0) + each["sent"]
    enough = sum(total.values()) / 100
    return "<br>".join(
        f"{kind} {sent / 1e9:.2f}" for kind, sent in sorted(total.items()) if sent > enough
    )


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |\n"
