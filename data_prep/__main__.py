"""`python -m data_prep build|verify|stats NAME`: prepares data sets; see docs/data.md.

Exit codes: 0 done; 2 bad input, with one line that names the file or option.
"""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.build import build
from data_prep.contact_sheet import write_contact_sheet
from data_prep.dataset import Dataset
from data_prep.datasets import DATASETS
from data_prep.prepared import Prepared, find_prepared
from data_prep.stats import write_stats
from data_prep.units import Runner, beam_runner, local_runner
from data_prep.verify import verify
from rsfm_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    options, others = _parser().parse_known_args(arguments)
    if others and not getattr(options, "beam_runner", ""):
        _parser().error(f"unknown arguments: {' '.join(others)}")
    try:
        return options.run(options, _runner(options, others))
    except UserError as error:
        print(f"data_prep: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full or read-only disk
        print(f"data_prep: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data_prep: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _build(options: argparse.Namespace, runner: Runner) -> int:
    kind: type[Dataset] = DATASETS[options.name]
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
    folder = build(kind(**fields), options.data_dir, runner, options.on_bad)
    prepared = Prepared(folder)
    for split, numbers in prepared.manifest["splits"].items():
        print(f"{split}: {numbers['examples']:,} examples of {numbers['images']:,} images")
    for key in ("bad", "duplicates"):
        if prepared.manifest[key]:
            print(f"{len(prepared.manifest[key]):,} {key} left out, see manifest.json")
    print(folder)
    return 0


def _verify(options: argparse.Namespace, runner: Runner) -> int:
    faults: list[str] = []
    for prepared in find_prepared(options.name, options.data_dir):
        lines, found = verify(prepared, runner)
        print("\n".join(lines))
        faults += found
        if not found:
            for split in prepared.info.splits:
                print(f"  {write_contact_sheet(prepared, split)}")
            print("  every record is sound")
    if faults:
        more = f"; {len(faults) - 1} more faults" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)
    return 0


def _stats(options: argparse.Namespace, runner: Runner) -> int:
    for prepared in find_prepared(options.name, options.data_dir):
        print(write_stats(prepared, options.split, runner))
        print(write_contact_sheet(prepared, options.split))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    commands = parser.add_subparsers(required=True)
    building = commands.add_parser("build", help="raw download -> array_record shards")
    names = building.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, kind in DATASETS.items():
        text = str(kind.__doc__)
        one = names.add_parser(name, help=text.splitlines()[0], description=text)
        for field in dataclasses.fields(kind):
            one.add_argument(
                f"--{field.name}",
                type=field.type,
                default=field.default,
                choices=field.metadata["choices"] or None,
                help=f"{field.metadata['help']} (default: {field.default or 'none'})",
                required=field.name == "source" and name != "synthetic",
            )
        _common(one)
        one.add_argument(
            "--on_bad",
            choices=("stop", "skip"),
            default="stop",
            help="stop at the first bad input, or leave it out and list it (default: stop)",
        )
        one.add_argument(
            "--beam_runner",
            default="",
            help="run on Apache Beam, such as DirectRunner; unknown --flags go to it",
        )
        one.set_defaults(run=_build)
    for command, run, help in (
        ("verify", _verify, "re-read and check every record"),
        ("stats", _stats, "means, deviations, percentiles and class counts to JSON"),
    ):
        one = commands.add_parser(command, help=help)
        one.add_argument("name", choices=tuple(DATASETS), metavar="NAME", help=", ".join(DATASETS))
        _common(one)
        one.set_defaults(run=run)
        if command == "stats":
            one.add_argument("--split", default="train", help="(default: train)")
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data_dir", type=Path, required=True, help="where prepared data sets are")
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="local processes; results do not depend on it (default: all cores)",
    )


def _runner(options: argparse.Namespace, others: Sequence[str]) -> Runner:
    if options.workers < 1:
        raise UserError(f"--workers={options.workers}: at least 1")
    if getattr(options, "beam_runner", ""):
        return beam_runner(options.beam_runner, others)
    return local_runner(options.workers)


if __name__ == "__main__":
    sys.exit(main())
