"""The least time a step can take: compute, memory and network, each as if alone."""

import dataclasses

from rsfm_jax.plan.collectives import Collective
from rsfm_jax.sharding.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step if only that limit existed; they overlap at best."""

    compute: float
    memory: float
    network: float

    @property
    def step(self) -> float:
        """Seconds: no step is faster."""
        return max(self.compute, self.memory, self.network)

    @property
    def binds(self) -> str:
        """The limit that the step meets first."""
        return max(("compute", "memory", "network"), key=lambda limit: getattr(self, limit))


def roofline(flops: float, moved: int, traffic: list[Collective], chip: Chip) -> Roofline:
    """Bounds for one device.

    Args:
      flops: of the products that one device computes in a step.
      moved: bytes to and from its main memory.
      traffic: the step's collectives.
      chip: its peaks; every link is taken to be busy all the time.
    """
    return Roofline(
        compute=flops / chip.flops,
        memory=moved / chip.memory_bandwidth,
        network=max(
            sum(each.sent for each in traffic) / chip.link_bandwidth,
            sum(each.sent_beyond for each in traffic) / chip.network_bandwidth,
        ),
    )
