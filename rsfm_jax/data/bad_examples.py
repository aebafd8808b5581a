"""The ledger of examples that cannot be read: each is named once, too many stop the run."""

import logging

from rsfm_jax.data.sources import Source
from rsfm_jax.errors import UserError

LISTED = 20

_log = logging.getLogger(__name__)


class BadExamples(dict[int, str]):
    """Example id -> reason, of the bad examples met so far.

    Args:
      examples: how many examples are in use.
      max_fraction: the share of them, in [0, 1), that may be bad.
    """

    def __init__(self, source: Source, examples: int, max_fraction: float):
        if not 0 <= max_fraction < 1:
            raise UserError(f"max_bad_fraction is {max_fraction}, it must be in [0, 1)")
        super().__init__()
        self._source = source
        self._examples = examples
        self.allowed = int(max_fraction * examples)

    def add(self, reasons: dict[int, str]):
        """Logs what is new.

        Raises:
          UserError: more bad examples than allowed; lists the first twenty.
        """
        for example_id, reason in reasons.items():
            if example_id not in self:
                self[example_id] = reason
                _log.warning(
                    "bad example %d of at most %d: %s",
                    len(self),
                    self.allowed,
                    self._line(example_id),
                )
        if len(self) > self.allowed:
            lines = [self._line(example_id) for example_id in list(self)[:LISTED]]
            more = [f"and {len(self) - LISTED} more"] if len(self) > LISTED else []
            raise UserError(
                f"{len(self)} of {self._examples} examples cannot be read, at most {self.allowed} "
                "may be; mend or remove: " + "; ".join(lines + more)
            )

    def _line(self, example_id: int) -> str:
        return f"{self._source.name(example_id)} ({self[example_id]})"
