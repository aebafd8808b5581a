"""Foreign weights, or our own exported ones, as a work folder that `config.init_from` takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.interop import check, huggingface, truths
from rsfm_jax.interop.exported import Exported
from rsfm_jax.interop.names import check_names, from_foreign
from rsfm_jax.interop.source import Source
from rsfm_jax.training.checkpoints import save_weights
from rsfm_jax.training.state import Variables

DECODER_NAMES = ("decoder_", "mask_token")

Report = Callable[[str], None]


def import_foreign(source: Source, report: Report) -> Variables:
    """The source's weights as our tree, checked against the library that they are from.

    A source without a decoder gives the encoder alone.

    Raises:
      UserError: weights that do not fit, or outputs that differ.
    """
    layout = source.layout
    check_names(source.tensors, layout, check.abstract_params(layout), str(source.file))
    params = from_foreign(source.tensors, layout, str(source.file))
    images = check.seeded_image(source.image_size)
    stored = {name: x for name, x in source.stored.items() if name not in source.left}
    if source.family == "mae":
        vitmae, config = huggingface.from_mae_names(stored), None
        encoder = {name: x for name, x in stored.items() if not name.startswith(DECODER_NAMES)}
        features = (
            lambda: truths.timm_features(encoder, layout, images),
            lambda: truths.torch_features(encoder, layout, images),
        )
    else:
        vitmae, config = stored, source.file.parent / "config.json"
        features = (lambda: truths.vitmae_features(vitmae, layout, images, config),)
    ours = check.our_features(params["encoder"], layout, images)
    report(check.compare("encoder's features", ours, *features))
    if layout.decoder:
        noise = check.seeded_noise((source.image_size // layout.patch_size) ** 2)
        pixels = check.our_pixels(params, layout, images, noise)
        report(
            check.compare(
                "reconstruction",
                pixels,
                lambda: truths.vitmae_pixels(vitmae, layout, images, noise, config),
            )
        )
    return {"params": params}


def import_exported(exported: Exported, report: Report) -> Variables:
    """Our own exported weights as the tree that they came from, checked in torch."""
    variables = exported.variables()
    report(exported.check(variables["params"]))
    return variables


def write_workdir(workdir: Path, variables: Variables, metadata: dict[str, Any]) -> None:
    """Writes config.json and a checkpoint of step 0 without training state.

    Args:
      workdir: may exist, but holds no checkpoints.
      variables: numpy arrays: `params` and, where there are any, `batch_stats`.
      metadata: `config`, `contract` and, where weights are foreign, `imported_from`.

    Raises:
      UserError: the folder holds checkpoints.
    """
    refuse_used_workdir(workdir)
    save_weights(workdir / "checkpoints", variables, metadata)
    write_text(workdir / "config.json", json.dumps(metadata["config"], indent=2))


def refuse_used_workdir(workdir: Path) -> None:
    """Raises `UserError` where the folder holds checkpoints already, or is a file."""
    if workdir.is_file() or any(workdir.glob("checkpoints/*")):
        raise UserError(f"--workdir={workdir}: holds checkpoints already; give a new folder")
