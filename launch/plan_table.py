"""Regenerates docs/plans.md, the table of what shipped configs need on common hardware.

    python launch/plan_table.py                            # every cell: an hour on two cores
    python launch/plan_table.py --configs=mae_605m --targets=h200:8,v5e:4x4
    python launch/plan_table.py --missing                  # only what docs/plans.json lacks

Every cell is kept in docs/plans.json as it is found. Needs the compilers that launch/plan.py
names. Exit status: 0 done, 2 bad arguments or no compiler (one line says what), 1 anything else.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.command import EXIT_BAD_INPUT, Parser, execute
from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.plan.table import CONFIGS, REMAT, TARGETS, render

ROOT = Path(__file__).parents[1]
CELLS, PAGE = ROOT / "docs" / "plans.json", ROOT / "docs" / "plans.md"
EXIT_DOES_NOT_FIT = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return execute(lambda: run(arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Finds the cells asked for and writes the page."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configs", default=",".join(CONFIGS), help="names, by comma")
    parser.add_argument("--targets", default=",".join(TARGETS), help="topologies, by comma")
    parser.add_argument("--missing", action="store_true", help="leave known cells as they are")
    options = parser.parse_args(arguments)
    cells = json.loads(CELLS.read_text()) if CELLS.is_file() else {}
    for target in chosen("--targets", options.targets, TARGETS):
        for config in chosen("--configs", options.configs, CONFIGS):
            known = cells.setdefault(config, {})
            if options.missing and target in known:
                continue
            print(f"{config} on {target}", flush=True)
            known[target] = cell(config, target)
            write_text(CELLS, json.dumps(cells, indent=1, sort_keys=True) + "\n")
            write_text(PAGE, render(cells))


def chosen(argument: str, text: str, known: Sequence[str]) -> list[str]:
    """The names in `text`; raises `UserError` on one that is not known."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"{argument}: unknown {name!r}; choose from {', '.join(known)}")
    return names


def cell(config: str, target: str) -> dict[str, Any]:
    """The plan of the first remat policy that fits, else of the last."""
    plan: dict[str, Any] = {}
    for remat in REMAT:
        command = [sys.executable, "launch/plan.py", "--json", f"--config=configs/{config}.py"]
        command += [f"--topology={target}", f"--config.model.remat={remat}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        line = done.stderr.strip().rpartition("\n")[2]
        if done.returncode == EXIT_BAD_INPUT and "not divisible" in line:
            return {"error": line.removeprefix("error: ")}
        if done.returncode == EXIT_BAD_INPUT:
            raise UserError(line.removeprefix("error: "))
        if done.returncode not in (0, EXIT_DOES_NOT_FIT):
            raise RuntimeError(done.stderr)
        plan = json.loads(done.stdout)
        if plan["fits"]:
            break
    return {key: value for key, value in plan.items() if key != "terms"}


if __name__ == "__main__":
    sys.exit(main())
