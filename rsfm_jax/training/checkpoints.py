"""Orbax checkpoints of a run: asynchronous, self-describing, strictly restored.

The only module that knows Orbax. A checkpoint holds the weights (`params`), the rest of the
train state (`training`) and, as metadata, the resolved config and the input contract.
"""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from rsfm_jax.errors import UserError
from rsfm_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one work folder.

    Args:
      folder: where they lie, one numbered folder a step.
      keep_last: how many of the newest are kept.
      keep_every: steps whose multiples are kept for ever; 0 keeps none of them.
    """

    def __init__(self, folder: Path, keep_last: int, keep_every: int):
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep_last)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            # The loop decides when to save.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step; None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, step: int, metadata: dict[str, Any]) -> None:
        """Starts writing; returns once the state is copied off the devices."""
        if step == self.latest_step():
            return
        self._checkpointer.save_checkpointables_async(
            step, _split(state), force=True, custom_metadata=metadata
        )

    def restore(self, abstract_state: TrainState, config: dict[str, Any]) -> TrainState:
        """The newest state, laid out as `abstract_state` says.

        Raises:
          UserError: the checkpoint was written by a run of another task or model.
        """
        step = self.latest_step()
        folder = Path(self._checkpointer.directory) / str(step)
        refuse_other_model(written_config(folder), config, str(folder))
        parts = self._checkpointer.load_checkpointables(step, _split(abstract_state))
        return parts["training"].replace(params=parts["params"])

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()


def _split(state: TrainState) -> dict[str, Any]:
    """Weights apart from the rest, so that another run can load them alone."""
    return {"params": state.params, "training": state.replace(params=None)}


def written_config(folder: Path) -> dict[str, Any]:
    """The resolved config of the run that wrote this step's folder."""
    return ocp.checkpointables_metadata(folder).custom_metadata["config"]


def refuse_other_model(written: dict[str, Any], config: dict[str, Any], where: str) -> None:
    """Raises `UserError` naming the first key in which two configs mean another model."""
    for section in ("task", "model"):
        old, new = written.get(section), config.get(section)
        if not isinstance(old, dict):
            old, new = {"": old}, {"": new}
        for key in sorted(old.keys() | new.keys()):
            if key not in RUN_ONLY and old.get(key) != new.get(key):
                name = ".".join(part for part in ("config", section, key) if part)
                raise UserError(
                    f"{where} was trained with {name}={old.get(key)!r}, this run has "
                    f"{new.get(key)!r}; use that value or another --workdir"
                )


# Keys of config.model that change how a model runs, not what it is.
RUN_ONLY = ("remat", "attention", "dtype", "drop_path")


def load_params(source: str, abstract_params: Any) -> Any:
    """The weights of another run's newest checkpoint, for `config.init_from`.

    Args:
      source: a work folder, its checkpoints folder, or one step's folder.
      abstract_params: shapes and shardings of the weights to fill; all must be there.

    Raises:
      UserError: no checkpoint there, or weights that are missing or of another shape.
    """
    folder = find_checkpoint(Path(source))
    held = ocp.checkpointables_metadata(folder).metadata["params"]
    shapes = {jax.tree_util.keystr(k): v.shape for k, v in jax.tree.leaves_with_path(held)}
    for path, leaf in jax.tree.leaves_with_path(abstract_params):
        key = jax.tree_util.keystr(path)
        if shapes.get(key) != leaf.shape:
            raise UserError(
                f"config.init_from={source}: weight {key} is {shapes.get(key, 'missing')} there, "
                f"{leaf.shape} in this model"
            )
    return ocp.load_checkpointables(folder, {"params": abstract_params})["params"]


def find_checkpoint(path: Path) -> Path:
    """The newest step's folder at or under `path`; raises `UserError` where there is none."""
    for candidates in (path.glob("checkpoints/*"), path.glob("*"), [path]):
        steps = [folder.absolute() for folder in candidates if _is_whole(folder)]
        if steps:
            return max(steps, key=lambda p: int(p.name))
    raise UserError(f"{path}: no checkpoint there; give the --workdir of a run that saved one")


def _is_whole(path: Path) -> bool:
    """Whether this is one step's finished checkpoint: Orbax writes the marker last."""
    return path.absolute().name.isdigit() and (path / "commit_success.txt").is_file()
