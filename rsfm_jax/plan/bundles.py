"""Cycles of Pallas's kernels, which the TPU compiler does not estimate, read off their schedule.

The compiler writes down a kernel as it scheduled it, a bundle of instructions a line, where a
flag asks for it as it is loaded. That would be all kernels of a step, so a process of its own
(`python -m rsfm_jax.plan.bundles`) compiles these few alone.

    0x58 LB: >> { %s3 = smul.u32 100, %s1  ;;  %v328 = vlaneseq }

`LB` opens a loop's body, the arrows count the loops around a bundle, and every loop compares its
counter with a constant, `scmp.ge.s32.totalorder %s31, 4 /* loop exit test */`.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import SingleDeviceSharding

from rsfm_jax.plan.products import inner_jaxprs
from rsfm_jax.plan.targets import Target, devices, parse_target, without_devices

# A kernel's name and the shape of what it makes.
Kernel = tuple[str, tuple[int, ...]]

_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+([A-Z]{2})?\s*: (>*) *\{(.*)")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder %\w+, (\d+) /\* loop exit test \*/")


def kernel_cycles(jaxpr: Any, target: Target) -> dict[Kernel, int]:
    """Cycles that one call of each Pallas kernel in a traced step takes on one device."""
    equations = {_key(equation): equation for equation in _pallas_calls(jaxpr)}
    if not equations:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        for number, equation in enumerate(equations.values()):
            Path(folder, f"{number}.kernel").write_bytes(_exported(equation))
        flags = "--xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
        flags = f"--xla_jf_dump_to={folder}/schedules {flags}"
        done = subprocess.run(
            [sys.executable, "-m", "rsfm_jax.plan.bundles", target.text, folder],
            env=os.environ | {"LIBTPU_INIT_ARGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(zip(equations, json.loads(done.stdout), strict=True))


def schedule_cycles(text: str) -> int:
    """Cycles to issue all bundles of a schedule; waiting for memory is not among them.

    What a branch can skip counts as taken, and a loop without a constant end as one turn.
    """
    loops = [_Loop(None)]
    at_depth = dict(enumerate(loops))  # the latest
    for line in text.splitlines():
        found = _BUNDLE.match(line)
        if not found:
            continue
        mark, arrows, instructions = found.groups()
        depth = len(arrows)
        if mark == "LB":
            loops.append(_Loop(at_depth[depth - 1]))
            at_depth[depth] = loops[-1]
        at_depth[depth].bundles += 1
        exit_test = _EXIT.search(instructions)
        if exit_test:
            at_depth[depth].turns = int(exit_test[1])
    return sum(loop.bundles * loop.runs for loop in loops)


@dataclasses.dataclass
class _Loop:
    around: "_Loop | None"
    bundles: int = 0
    turns: int = 1

    @property
    def runs(self) -> int:
        """How often a bundle of its body is issued."""
        return self.turns * (self.around.runs if self.around else 1)


def _pallas_calls(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for inner in inner_jaxprs(equation.params):
            yield from _pallas_calls(inner)


def _key(equation: Any) -> Kernel:
    return equation.params["name"], equation.outvars[0].aval.shape


def _exported(equation: Any) -> bytes:
    """The kernel as a program of its own, for another process."""

    def kernel(*arguments: jax.Array) -> Any:
        return equation.primitive.bind(*arguments, **equation.params)

    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in equation.invars]
    # A kernel's form may change between versions of JAX; this one stays within one.
    allowed = [export.DisabledSafetyCheck.custom_call("tpu_custom_call")]
    exported = export.export(jax.jit(kernel), platforms=["tpu"], disabled_checks=allowed)
    return bytes(exported(*shapes).serialize())


def main(target_text: str, folder: str) -> None:
    """Compiles the kernels that lie in `folder` and prints the cycles of each as JSON."""
    target = parse_target(target_text)
    without_devices(target)
    sharding = SingleDeviceSharding(devices(target)[0])
    found = []
    for exported in sorted(Path(folder).glob("*.kernel"), key=lambda path: int(path.stem)):
        kernel = export.deserialize(bytearray(exported.read_bytes()))
        shapes = (
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in kernel.in_avals
        )
        jax.jit(kernel.call).lower(*shapes).compile()
        found.append(0)
        for path in Path(folder, "schedules").iterdir():
            if path.name.endswith("-final_bundles.txt") and "-TLP-" not in path.name:
                found[-1] += schedule_cycles(path.read_text())
            path.unlink()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
