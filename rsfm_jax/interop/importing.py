"""Foreign weights, or our own exported ones, as a work folder that `config.init_from` takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsfm_jax.errors import UserError
from rsfm_jax.files import write_text
from rsfm_jax.interop import check
from rsfm_jax.interop.comparisons import compare_encoder, compare_vitmae
from rsfm_jax.interop.exported import Exported
from rsfm_jax.interop.names import check_names, from_foreign
from rsfm_jax.interop.source import Source
from rsfm_jax.training.checkpoints import save_weights
from rsfm_jax.training.state import Variables

Report = Callable[[str], None]


def import_foreign(source: Source, report: Report) -> Variables:
    """The source's weights as our tree, checked against other libraries on the same weights.

    A source without a decoder gives the encoder alone.

    Raises:
      UserError: weights that do not fit, or outputs that differ.
    """
    layout, named, size = source.layout, source.named, source.image_size
    check_names(source.tensors, layout, check.abstract_params(layout), str(source.file))
    params = from_foreign(source.tensors, layout, str(source.file))
    report(compare_encoder(params["encoder"], named, layout, size))
    if source.from_hub:
        hub = source.stored, source.file.parent / "config.json"
        report(compare_vitmae(params, named, layout, size, hub))
    elif layout.decoder:
        report(compare_vitmae(params, named, layout, size))
    return {"params": params}


def import_exported(exported: Exported, report: Report) -> Variables:
    """Our own exported weights as the tree that they came from, checked in torch."""
    variables = exported.variables()
    for line in exported.check(variables["params"]):
        report(line)
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
    # First what fails in one line where nothing can be written.
    write_text(workdir / "config.json", json.dumps(metadata["config"], indent=2))
    save_weights(workdir / "checkpoints", variables, metadata)


def refuse_used_workdir(workdir: Path) -> None:
    """Raises `UserError` where the folder holds checkpoints already, or is a file."""
    if workdir.is_file() or any(workdir.glob("checkpoints/*")):
        raise UserError(f"--workdir={workdir}: holds checkpoints already; give a new folder")
