"""Races of train steps: one process a contestant, one block of steps at a time, in turn.

Every contestant starts from the same weights and sees the same images and mask noise, which
`contestant_jax` writes; a race whose losses differ is void.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def host_memory() -> int:
    """Most bytes of main memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(
    step: Callable[[], Any],
    warmup: int,
    about: Mapping[str, Any],
    peak_memory: Callable[[], int] = host_memory,
) -> None:
    """A contestant's side: answers each line, a number of steps, with how long they took.

    `step` starts one step and returns its loss; reading the loss waits for it.
    """
    start = time.perf_counter()
    losses = [float(step()) for _ in range(warmup)]
    answer(**about, warmup_seconds=time.perf_counter() - start, losses=losses)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        pending = [step() for _ in range(int(line))]
        losses = [float(loss) for loss in pending]
        answer(
            seconds=(time.perf_counter() - wall) / len(losses),
            cpu_seconds=(time.process_time() - cpu) / len(losses),
            losses=losses,
            memory=peak_memory(),
        )


def answer(**values: Any) -> None:
    """One line of JSON for the race."""
    print(json.dumps(values), flush=True)


class Contestant:
    """A running process that steps when told; a context manager."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]):
        self.name = name
        self.blocks: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def run(self, steps: int) -> None:
        """One block."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        self.blocks.append(self._read())

    def median(self, key: str) -> float:
        """Over the blocks."""
        return statistics.median(block[key] for block in self.blocks)

    @property
    def losses(self) -> list[float]:
        """Of every step, those of the warm-up first."""
        return self.about["losses"] + [loss for block in self.blocks for loss in block["losses"]]

    def close(self) -> None:
        """Ends the process, which frees its memory."""
        self._process.communicate()

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}")


def alternate(contestants: Sequence[Contestant], rounds: int, steps: int) -> None:
    """A block of each a round; who begins rotates."""
    for number in range(rounds):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            contestant.run(steps)


def check_losses(contestants: Sequence[Contestant], tolerance: float) -> None:
    """Exits where first or last losses differ: such a race compares nothing."""
    ours = contestants[0].losses
    for other in contestants[1:]:
        for step in (0, -1):
            difference = abs(other.losses[step] - ours[step])
            if not difference <= tolerance:
                sys.exit(
                    f"void: {other.name} has loss {other.losses[step]:.6f}, {contestants[0].name} "
                    f"{ours[step]:.6f} ({'first' if step == 0 else 'last'} step)"
                )


def ratio(contestant: Contestant, base: Contestant, key: str) -> float:
    """How many times as fast as `base`, the median over rounds."""
    pairs = zip(base.blocks, contestant.blocks, strict=True)
    return statistics.median(theirs[key] / ours[key] for theirs, ours in pairs)


def record(contestant: Contestant) -> dict[str, Any]:
    """What a JSON record keeps of a contestant."""
    return {"name": contestant.name, **contestant.about, "blocks": contestant.blocks}
