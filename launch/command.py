"""What the commands share: exit statuses, bad input as one line, logging.

0 done; 2 bad config, arguments or data (one line says what); 75 stopped by a signal after saving;
1 anything else.
"""

import argparse
import errno
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rsfm_jax.errors import RunError, UserError

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_PREEMPTED = 75

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in the quota, in a file


class Parser(argparse.ArgumentParser):
    """Bad arguments are a `UserError`: one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake on the command line."""
        raise UserError(f"{message}; see --help")


def make_folder(folder: Path, argument: str) -> None:
    """Makes a folder to write to; raises `UserError` naming the argument where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{argument}: cannot write there ({error.strerror})") from error


def execute(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status; what the command returns, where it ends well."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from rsfm_jax.training.preemption import Preempted

    try:
        status = command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_PREEMPTED
    except Exception as error:
        if getattr(error, "errno", None) in NO_ROOM:
            print(f"error: {error}; free some space and start again", file=sys.stderr)
            return EXIT_FAILED
        traceback.print_exc()
        return EXIT_FAILED
    return status or 0
