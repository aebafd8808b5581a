"""Classes of whole images from the mean patch token: fine-tuned, or a linear probe.

Fine-tuning is that of MAE with `--global_pool` (reference `main_finetune.py`, `models_vit.py`):
mean of the patch tokens, layer norm, linear head. There the encoder's own last norm is left out;
here it stays, so that the encoder is the pretrained one and its mean token the feature that
probes see. The probe is that of MAE (`main_linprobe.py`) on the same mean token: batch norm
without weights, linear head.
"""

import dataclasses

import flax.linen as nn
import jax

from rsfm_jax.models.convolution import BatchNorm
from rsfm_jax.models.layers import LayerNorm, Linear
from rsfm_jax.models.vit import ViT, ViTConfig

# Deviation of the head's weights in `main_finetune.py` and `main_linprobe.py`.
FINE_TUNED_DEVIATION, PROBE_DEVIATION = 2e-5, 0.01


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Encoder and classes; `probe` says which of the two heads is trained on the mean token."""

    encoder: ViTConfig
    num_classes: int
    probe: bool


class Classifier(nn.Module):
    """Scores of whole images."""

    config: ClassifierConfig

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """Images [B, H, W, 3], normalised -> logits [B, num_classes] float32.

        `deterministic=False` drops paths (rng stream `drop_path`); a probe then normalises with
        the batch's statistics and updates the running ones (collection `batch_stats`).
        """
        config = self.config
        x = ViT(config.encoder, name="encoder").mean_token(images, deterministic)  # [B, D]
        if config.probe:
            # An epsilon of 1e-6, unlike torch's default.
            x = BatchNorm(epsilon=1e-6, affine=False, name="norm")(x, deterministic)
        else:
            x = LayerNorm(name="norm")(x)
        deviation = PROBE_DEVIATION if config.probe else FINE_TUNED_DEVIATION
        init = nn.initializers.truncated_normal(deviation)
        return Linear(config.num_classes, ("embed", None), kernel_init=init, name="head")(x)
