"""One run at a time in a work folder."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from rsfm_jax.errors import UserError
from rsfm_jax.sharding.distributed import everywhere

log = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Holds the folder for this run; the kernel lets go of it when the last process is gone.

    Process i holds byte i of a file, and the first process all bytes before that, so that a run
    is refused while any process of another one lives, whatever became of its others.

    Raises:
      UserError: another run works there.
    """
    first = jax.process_index() == 0
    file = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not everywhere(not first or _lock(file, 0, 0)):  # 0 bytes: to the end
            holder = os.pread(file, 200, 0).decode(errors="replace").strip()
            raise UserError(
                f"another run works in {workdir} ({holder}); wait for it or give another --workdir"
            )
        if first:
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            fcntl.lockf(file, fcntl.LOCK_UN, 0, 1)
        everywhere(True)  # the others wait for the bytes to be free
        if not first:
            _lock(file, 1, jax.process_index())
        yield
    finally:
        os.close(file)


def _lock(file: int, length: int, start: int) -> bool:
    """Takes a range of bytes; False where somebody else has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
    except (BlockingIOError, PermissionError):  # which of them, depends on the system
        return False
    except OSError as error:
        log.warning("this file system has no locks (%s): start no second run there", error)
    return True
