"""Compiles a config's train step for hardware that is not there and says what it needs.

    python launch/plan.py --config=configs/mae_2p4b.py --topology=v5e:4x4
    python launch/plan.py --config=configs/mae_605m.py --topology=h200:8 --search

Topologies: v4, v5e, v5p and v6e slices (v5e:8x8; 2xv5e:16x16 is two slices), h200, h100 and
a100 (h200:8), cpu:8. The processor needs nothing more; for the others `pip install -e ".[plan]"`
brings the compilers, which need no device. docs/scaling.md explains every line printed.
Exit status: 0 it fits, 2 bad config or no compiler (one line says what), 3 it does not fit
(the last line says how much memory is missing), 1 anything else.
"""

import json
import sys

from absl import flags

from launch.command import execute
from launch.config_flag import read_config
from rsfm_jax.errors import UserError

TOPOLOGY = flags.DEFINE_string("topology", None, "What to compile for, as v5e:8x8 or h200:8")
JSON = flags.DEFINE_bool("json", False, "Print JSON")
PART = flags.DEFINE_enum(
    "part", "step", ["step", "gradients"], "The whole step, or its forward and backward pass"
)
SEARCH = flags.DEFINE_bool("search", False, "Try batch x remat x mesh; print the fastest that fits")

EXIT_DOES_NOT_FIT = 3


def run(arguments: list[str]) -> int:
    """Prints the plan; returns the exit status."""
    config = read_config(arguments)
    if TOPOLOGY.value is None:
        raise UserError("give hardware: --topology=v5e:8x8, h200:8 or cpu:8")
    # Imported here: --help and a bad command line need no jax.
    from rsfm_jax.plan.compile import make_plan
    from rsfm_jax.plan.report import as_json, as_text
    from rsfm_jax.plan.search import search
    from rsfm_jax.plan.targets import parse_target, without_devices

    target = parse_target(TOPOLOGY.value)
    without_devices(target)
    if SEARCH.value:
        choice, plan = search(config, target, lambda line: print(line, file=sys.stderr))[0]
        print(f"the fastest that fits: {choice.flags}", file=sys.stderr)
    else:
        plan = make_plan(config, target, PART.value)
    print(json.dumps(as_json(plan, target), indent=2) if JSON.value else as_text(plan, target))
    return EXIT_DOES_NOT_FIT if plan.memory.missing else 0


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status."""
    if {"--help", "-h"} & set(arguments):
        print(__doc__, flags.FLAGS.main_module_help(), sep="\n")
        return 0
    return execute(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
