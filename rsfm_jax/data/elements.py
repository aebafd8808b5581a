"""What training reads: a function of the element's number alone.

Element e is row e % batch_size of step e // batch_size. Of N examples it takes number e % N of
a shuffled order, drawn from the seed and the epoch e // N; its augmentation is drawn from the
seed and e. So a run resumed at step k, on other hosts or with other threads and workers, sees
the batches that an uninterrupted run sees.
"""

import functools
from collections.abc import Callable

import numpy as np

from rsfm_jax.data.decode import BadImage, decode_rgb
from rsfm_jax.data.sources import Source
from rsfm_jax.errors import UserError

# What a random stream is for; each is seeded with (seed, one of these, ...).
_ORDER, _AUGMENT, _SUBSET = range(3)

# A decoded example and a random generator -> the arrays that go into the batch, all of one shape.
# It may raise BadImage where a label is as unusable as an undecodable image.
Transform = Callable[[dict, np.random.Generator], dict[str, np.ndarray]]


class Elements:
    """The endless sequence of training examples.

    Args:
      ids: the examples in use, see `subset`.
      allowed_bad: how many of them may be unreadable.
    """

    def __init__(
        self, source: Source, transform: Transform, ids: np.ndarray, seed: int, allowed_bad: int
    ):
        self._source = source
        self._transform = transform
        self._ids = ids
        self._seed = seed
        self._allowed_bad = allowed_bad

    def read(self, element: int, bad: dict[int, str]) -> dict[str, np.ndarray]:
        """The element's example, or the next one by id that can be read.

        Adds id -> reason of what cannot be read to `bad`; gives up once there are more than
        allowed.

        Returns:
          what the transform gives, with "example_id"; {} when it gave up.
        """
        epoch, place = divmod(element, len(self._ids))
        position = int(_epoch_order(len(self._ids), self._seed, epoch)[place])
        while len(bad) <= self._allowed_bad:
            example_id = int(self._ids[position % len(self._ids)])
            rng = np.random.default_rng((self._seed, _AUGMENT, element))
            try:
                row = self._transform(read_example(self._source, example_id), rng)
            except (BadImage, OSError) as error:
                bad[example_id] = str(error)
                position += 1
                continue
            return row | {"example_id": np.array(example_id, np.int32)}
        return {}


def read_example(source: Source, example_id: int) -> dict:
    """The source's example with its image decoded.

    Raises:
      BadImage or OSError: it cannot be read.
    """
    example = source[example_id]
    if isinstance(example["image"], bytes):
        return example | {"image": decode_rgb(example["image"])}
    return example


def subset(examples: int, fraction: float, seed: int) -> np.ndarray:
    """Ids in use, ascending; of two fractions with one seed, the larger holds the smaller.

    Raises:
      UserError: a fraction outside (0, 1] or a negative seed.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"data.fraction is {fraction}, it must be in (0, 1]")
    if seed < 0:
        raise UserError(f"seed is {seed}, it must not be negative")
    kept = max(1, round(fraction * examples))
    return np.sort(np.random.default_rng((seed, _SUBSET)).permutation(examples)[:kept])


# Grain's own shuffle takes 2 ms an element on a set of 8 examples, 0.2 ms on one of 100.
@functools.lru_cache(maxsize=4)
def _epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(examples)."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(examples)
