"""Sources whose images each have a class: opened, and refused where labels cannot be trained on."""

from collections.abc import Sequence

import numpy as np

from rsfm_jax.data.sources import Source, open_source
from rsfm_jax.errors import UserError


def open_labelled(source: str, split: str, key: str) -> Source:
    """The source that the config's `key` names; raises `UserError` where it has no classes."""
    opened = open_source(source, split)
    if len(opened.class_names) < 2:
        raise UserError(
            f"{key}={source}: images of two classes or more are needed, either one subfolder a "
            f"class with no image beside them, or a TFDS feature `label`; found "
            f"{len(opened.class_names) or 'no'} class{'' if opened.class_names else 'es'}"
        )
    return opened


def refuse_other_classes(names: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Raises `UserError` naming what two class lists, whose order counts, differ in."""
    if tuple(names) == tuple(expected):
        return
    lacks = sorted(set(expected) - set(names))
    more = sorted(set(names) - set(expected))
    differences = [f"lacks {', '.join(lacks)}"] * bool(lacks)
    differences += [f"has {', '.join(more)} besides"] * bool(more)
    raise UserError(
        f"{where}: other classes than the model's: "
        f"{' and '.join(differences) or 'the same in another order'}"
    )


def refuse_useless_labels(labels: np.ndarray, names: Sequence[str], where: str) -> None:
    """Raises `UserError` where some of the labels [N] are -1, or a class has none of them."""
    unlabelled = np.count_nonzero(labels < 0)
    if unlabelled:
        raise UserError(
            f"{where}: {unlabelled} of {len(labels)} images have no label (-1) or cannot be read; "
            "use a set or a split of labelled images alone"
        )
    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        raise UserError(
            f"{where}: no image of class {', '.join(empty)} among the {len(labels)} in use"
        )
