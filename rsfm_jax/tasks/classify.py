"""Scene classification: full fine-tuning, and with a frozen encoder the linear probe."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from sklearn.metrics import confusion_matrix

from rsfm_jax.data.device import normalize
from rsfm_jax.data.elements import subset
from rsfm_jax.data.labelled import open_labelled, refuse_other_classes, refuse_useless_labels
from rsfm_jax.data.loader import Loader
from rsfm_jax.evaluation.classification import accuracies, draw_confusion
from rsfm_jax.evaluation.features import map_batches
from rsfm_jax.models.classifier import Classifier, ClassifierConfig
from rsfm_jax.models.flops import classifier_flops
from rsfm_jax.sharding.rules import replicated
from rsfm_jax.tasks import encoder, images
from rsfm_jax.training.state import Batch, Metrics, Variables
from rsfm_jax.training.validate import NAMES, RATE, check_values

# What classification reads beyond `COMMON_RULES`.
RULES = (
    encoder.RULES
    | images.RULES
    | {
        "model.label_smoothing": RATE,
        "data.classes": (
            lambda x: NAMES[0](x) and len(x) == len(set(x)) != 1,
            "two or more different names, or () for those of the source",
        ),
    }
)


class Classify:
    """The `Task` of scene classification (see `rsfm_jax.training.state.Task`).

    Where `config.model.frozen` holds the encoder, the head is that of a linear probe.

    Raises:
      UserError: a value out of range, or a source without classes.
    """

    new_weights: tuple[str, ...] = ()
    class_layers: tuple[str, ...] = ("head/",)

    def __init__(self, config: Any, mesh: Mesh):
        check_values(config, RULES)
        self.config, self.mesh = config, mesh
        self.classes = tuple(config.data.classes) or self._training_source().class_names
        self.classifier = ClassifierConfig(
            encoder=encoder.encoder_config(config, mesh.devices.flat[0].platform),
            num_classes=len(self.classes),
            probe="encoder" in config.model.frozen,
        )
        self.model = Classifier(self.classifier)
        self.flops = classifier_flops(self.classifier, config.data.image_size)
        self.contract = encoder.image_contract(config) | {"classes": list(self.classes)}
        self._logits = jax.jit(self.logits, out_shardings=replicated(mesh))

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables, the weights boxed with their logical axes."""
        size = self.config.data.image_size
        return self.model.init(rng, jnp.zeros((1, size, size, 3)))

    def abstract_batch(self) -> Batch:
        """uint8 images [B, H, W, 3] and int32 labels [B]."""
        labels = jax.ShapeDtypeStruct((self.config.batch_size,), jnp.int32)
        return {"image": images.abstract_images(self.config), "label": labels}

    def prepare(self, batch: Batch, rng: jax.Array) -> Batch:
        """Flips."""
        return batch | {"image": images.flip(self.config, batch["image"], rng)}

    def loss(
        self, variables: Variables, inputs: Batch, rng: jax.Array
    ) -> tuple[jax.Array, Metrics, Any]:
        """Mean cross-entropy with smoothed labels, and the accuracy on this batch."""
        pixels = normalize(inputs["image"], self.config.data.mean, self.config.data.std)
        logits, updated = self.model.apply(
            variables, pixels, False, rngs={"drop_path": rng}, mutable=["batch_stats"]
        )
        labels = inputs["label"]
        targets = jax.nn.one_hot(labels, len(self.classes))
        targets = optax.smooth_labels(targets, self.config.model.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        accuracy = (logits.argmax(-1) == labels).mean()
        return loss, {"accuracy": accuracy}, updated.get("batch_stats", {})

    def batches(self, rows: np.ndarray, start_step: int) -> Loader:
        """Random resized crops and labels of this process's rows, from `start_step` on.

        Raises:
          UserError: other classes than the model's, unlabelled images, or a class without any.
        """
        config, source = self.config, self._training_source()
        where = f"config.data.source={config.data.source}"
        refuse_other_classes(source.class_names, self.classes, where)
        used = subset(len(source), config.data.fraction, config.seed)
        where += f" with config.data.fraction={config.data.fraction}"
        refuse_useless_labels(source.labels[used], self.classes, where)
        return images.crop_batches(config, source, rows, start_step)

    def logits(self, variables: Variables, batch: Batch) -> jax.Array:
        """Scores [B, C] float32 of uint8 images [B, H, W, 3] under `image`."""
        pixels = normalize(batch["image"], self.config.data.mean, self.config.data.std)
        return self.model.apply(variables, pixels)

    def predict(self, variables: Variables, pixels: np.ndarray) -> np.ndarray:
        """Probabilities [N, C] of uint8 images [N, S, S, 3] of `config.data.image_size`."""
        return np.asarray(jax.nn.softmax(self._all_logits(variables, pixels)))

    def evaluate(self, variables: Variables, step: int, workdir: Path) -> dict[str, float]:
        """Loss and accuracies on held-out images; draws the confusion matrix."""
        pixels, labels = self._held_out
        logits = self._all_logits(variables, pixels)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        numbers = range(len(self.classes))
        counts = confusion_matrix(labels, logits.argmax(-1), labels=numbers)
        if jax.process_index() == 0:
            draw_confusion(workdir / "figures" / "confusion.png", counts, self.classes)
        return {"loss": float(losses.mean())} | accuracies(counts, self.classes)

    def _training_source(self) -> Any:
        data = self.config.data
        return open_labelled(data.source, data.split, "config.data.source")

    @cached_property
    def _held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels to evaluate on; raises as `batches`."""
        settings = self.config.eval
        key = "config.eval.source" if settings.source else "config.data.source"
        name = settings.source or self.config.data.source
        source = open_labelled(name, settings.split, key)
        where = f"{key}={name}, split {settings.split}"
        refuse_other_classes(source.class_names, self.classes, where)
        pixels, labels = images.held_out(self.config, source, settings.images)
        where += f" with config.eval.images={settings.images}"
        assert labels is not None  # `open_labelled` takes no others
        refuse_useless_labels(labels, self.classes, where)
        return pixels, labels

    def _all_logits(self, variables: Variables, pixels: np.ndarray) -> np.ndarray:
        run = partial(self._logits, variables)
        return map_batches(run, {"image": pixels}, self.config.eval.batch_size, self.mesh)
