"""The three kinds of example, so that a task reads every data set of its family the same way.

Pictures and masks are stored encoded: skip TFDS decoding and use `rsfm_jax.data.decode`.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

_IMAGE = {
    "image": tfds.features.Image(shape=(None, None, 3)),  # JPEG or PNG, 8-bit RGB
    "image_id": tfds.features.Text(),
}


def classification(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """`label` is -1 for an unlabelled picture."""
    return tfds.features.FeaturesDict(
        {**_IMAGE, "label": tfds.features.ClassLabel(names=list(classes))}
    )


def detection(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """N objects: corners in pixels of the stored picture, labels, difficulty, cut or not.

    A truncated object reaches over the picture's edge; its corners are not clipped.
    """
    return tfds.features.FeaturesDict({**_IMAGE, **_objects(classes)})


def segmentation(classes: Sequence[str], domains: Sequence[str]) -> tfds.features.FeaturesDict:
    """`mask` is an 8-bit grey PNG of class indices, 255 = ignored; `domain` the kind of place."""
    domain = tfds.features.ClassLabel(names=list(domains))
    return tfds.features.FeaturesDict({**_IMAGE, "mask": _mask(classes), "domain": domain})


def scene(
    kinds: Sequence[str], classes: Sequence[str], cover: Sequence[str]
) -> tfds.features.FeaturesDict:
    """All three at once, as drawn scenes have them."""
    label = tfds.features.ClassLabel(names=list(kinds))
    return tfds.features.FeaturesDict(
        {**_IMAGE, "label": label, **_objects(classes), "mask": _mask(cover)}
    )


def _mask(classes: Sequence[str]) -> tfds.features.LabeledImage:
    return tfds.features.LabeledImage(
        labels=list(classes), shape=(None, None, 1), encoding_format="png"
    )


def _objects(classes: Sequence[str]) -> dict:
    return {
        "polygons": tfds.features.Tensor(shape=(None, 4, 2), dtype=np.float32),
        "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(classes))),
        "difficult": tfds.features.Tensor(shape=(None,), dtype=np.uint8),
        "truncated": tfds.features.Tensor(shape=(None,), dtype=np.uint8),
    }
