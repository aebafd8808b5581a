"""Weights of another run as the start of this one, with a report of what became of each."""

import logging
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import v1 as ocp

from rsfm_jax.errors import UserError
from rsfm_jax.training.checkpoints import (
    find_checkpoint,
    refuse_other_contract,
    weights_item,
    written_metadata,
)
from rsfm_jax.training.state import Params, Task

log = logging.getLogger(__name__)

# What two runs must agree on to mean the same by an image.
CONTRACT_KEYS = ("bands", "unit", "mean", "std", "patch_size")

Shapes = dict[str, tuple[int, ...]]  # by a weight's path, such as encoder/patch_embed/kernel


def load_initial(source: str, params: Params, task: Task, config: dict[str, Any]) -> Params:
    """Puts the weights of another run in the place of fresh ones.

    From a run of the same task all weights are taken, but `task.class_layers` from one of other
    classes. From one of another task those of the encoder are, and each of them has to be there
    but for `task.new_weights`. Everything else stays fresh. The log says what was taken, what is
    fresh and what was left.

    Args:
      source: `config.init_from`: a work folder, its checkpoints folder, or one step's folder.
      params: fresh weights, laid out over the mesh.
      task: of this run.
      config: of this run, resolved.

    Raises:
      UserError: no checkpoint there, weights that are missing or of another shape, or images that
        were made ready in another way.
    """
    try:
        folder = find_checkpoint(Path(source))
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    written = written_metadata(folder)
    where = f"config.init_from={source}"
    _refuse_other_encoder(written["config"], config, where)
    refuse_other_contract(written["contract"], task.contract, CONTRACT_KEYS, where)
    item = weights_item(folder)
    held = _shapes(ocp.checkpointables_metadata(folder).metadata[item])
    fresh = flatten_dict(params, sep="/")
    if written["config"]["task"] != config["task"]:
        taken = {name for name in fresh if _is_encoders(name, fresh[name].shape, held, task)}
    elif written["contract"].get("classes") != task.contract.get("classes"):
        taken = {name for name in fresh if not name.startswith(task.class_layers)}
        layers = ", ".join(layer.rstrip("/") for layer in task.class_layers)
        log.info("init_from %s: other classes there, so %s: fresh", source, layers)
    else:
        taken = set(fresh)
    for name in sorted(taken):
        if held.get(name) != fresh[name].shape:
            raise UserError(
                f"{where}: weight {name} is {held.get(name, 'missing')} there, "
                f"{fresh[name].shape} in this model"
            )
    _report(source, held, _shapes(params), taken)
    loaded = _load(folder, item, {name: fresh[name] for name in taken})
    return unflatten_dict(fresh | loaded, sep="/")


def _is_encoders(name: str, shape: tuple[int, ...], held: Shapes, task: Task) -> bool:
    """Whether another task's run has to have this weight: all of the encoder's but new ones.

    New ones are taken too where they fit: a detector's relative positions serve another.
    """
    new = name.rsplit("/", 1)[-1] in task.new_weights
    return name.startswith("encoder/") and (not new or held.get(name) == shape)


def pretrained_image_size(config: dict[str, Any]) -> int:
    """Side in pixels of the images whose position embedding a run's encoder has learnt."""
    return config["model"].get("pretrained_image_size", config["data"]["image_size"])


def _refuse_other_encoder(written: dict[str, Any], config: dict[str, Any], where: str) -> None:
    theirs, ours = written["model"], config["model"]
    if "pretrained_image_size" in ours:  # a dense backbone, which stretches those positions
        theirs = theirs | {"pretrained_image_size": pretrained_image_size(written)}
    for key in ("size", "patch_size", "pretrained_image_size"):
        if key in ours and theirs[key] != ours[key]:
            raise UserError(
                f"{where} has config.model.{key}={theirs[key]!r}, this run {ours[key]!r}"
            )


def _load(folder: Path, item: str, wanted: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Only the named weights, laid out like the given ones."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), wanted
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = ocp.load_checkpointables(folder, {item: unflatten_dict(abstract, sep="/")})
    return flatten_dict(loaded[item], sep="/")


def _shapes(tree: Any) -> Shapes:
    return {name: tuple(leaf.shape) for name, leaf in flatten_dict(tree, sep="/").items()}


def _report(source: str, held: Shapes, fresh: Shapes, taken: set[str]) -> None:
    """Three lines: what was taken, what starts fresh, what was left there, by top-level parts."""
    groups = (
        ("taken from there", {name: fresh[name] for name in taken}),
        ("new in this model", {name: fresh[name] for name in fresh.keys() - taken}),
        ("not used", {name: held[name] for name in held.keys() - taken}),
    )
    for words, shapes in groups:
        parts = sorted({_part(name) for name in shapes})
        log.info(
            "init_from %s: %s: %d weights%s",
            source,
            words,
            len(shapes),
            f" ({', '.join(parts)})" if parts else "",
        )


def _part(name: str) -> str:
    """Where a weight belongs, in few words: `heads`, `encoder/norm`, `encoder/*/relative_rows`."""
    top, *rest = name.split("/")
    if top != "encoder":
        return top
    if rest[0] != "blocks":
        return f"encoder/{rest[0]}"
    if rest[1] == "norm":
        return "encoder/blocks/norm"
    return f"encoder/blocks/*/{rest[-1]}" if rest[-1].startswith("relative") else "encoder/blocks"
