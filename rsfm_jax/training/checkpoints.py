"""Orbax checkpoints of a run: asynchronous, self-describing, strictly restored.

Only this module and `transfer` know Orbax. A checkpoint holds the weights (`params`), where
there are any their moving average (`average`) and the norms' running statistics
(`batch_stats`), the rest of the train state (`training`) and, as metadata, the resolved config
and the input contract.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rsfm_jax.errors import UserError
from rsfm_jax.training.state import TrainState, Variables, join_variables


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

    def restore(self, abstract_state: TrainState, metadata: dict[str, Any]) -> TrainState:
        """The newest state, laid out as `abstract_state` says.

        Raises:
          UserError: the checkpoint was written by a run of another task or model, or on images
            made ready in another way, than `metadata` (as for `save`) says.
        """
        step = self.latest_step()
        folder = Path(self._checkpointer.directory) / str(step)
        refuse_other_run(folder, metadata)
        if "training" not in ocp.checkpointables_metadata(folder).metadata:
            raise UserError(
                f"{folder} holds weights alone: start from it with config.init_from, in another "
                "--workdir"
            )
        parts = self._checkpointer.load_checkpointables(step, _split(abstract_state))
        rest = parts.pop("training")
        return rest.replace(**parts)

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()


APART = ("params", "average", "batch_stats")  # what other commands load without the rest


def _split(state: TrainState) -> dict[str, Any]:
    """Orbax's items. Those that the model has none of are left out."""
    apart = {name: getattr(state, name) for name in APART}
    items = {name: tree for name, tree in apart.items() if jax.tree.leaves(tree)}
    return items | {"training": state.replace(**dict.fromkeys(items))}


def load_variables(folder: Path, abstract_state: TrainState) -> Variables:
    """What the run that wrote this step's folder evaluates: the average where it kept one."""
    name = weights_item(folder)
    wanted = {name: abstract_state.params}
    if abstract_state.batch_stats:
        wanted["batch_stats"] = abstract_state.batch_stats
    parts = ocp.load_checkpointables(folder, wanted)
    return join_variables(parts[name], parts.get("batch_stats", {}))


def save_weights(folder: Path, variables: Variables, metadata: dict[str, Any]) -> None:
    """Writes weights without a training state as step 0, for `config.init_from` to take.

    Args:
      folder: the work folder's `checkpoints`.
      variables: numpy or JAX arrays: `params` and, where there are any, `batch_stats`.
      metadata: as for `Checkpoints.save`.
    """
    ocp.save_checkpointables(folder.absolute() / "0", variables, custom_metadata=metadata)


def read_weights(folder: Path) -> Variables:
    """What `load_variables` loads, as numpy arrays and whatever the model is."""
    item, held = weights_item(folder), ocp.checkpointables_metadata(folder).metadata
    names = {"params": item} | {name: name for name in ("batch_stats",) if name in held}
    wanted = {
        name: jax.tree.map(lambda x: np.empty(x.shape, x.dtype), held[name])
        for name in names.values()
    }
    loaded = ocp.load_checkpointables(folder, wanted)
    return {name: loaded[item] for name, item in names.items()}


def weights_item(folder: Path) -> str:
    """Which of Orbax's items holds the weights that the run evaluates."""
    return "average" if "average" in ocp.checkpointables_metadata(folder).metadata else "params"


def written_metadata(folder: Path) -> dict[str, Any]:
    """`config` and `contract` of the run that wrote this step's folder."""
    return ocp.checkpointables_metadata(folder).custom_metadata


def refuse_other_run(folder: Path, metadata: dict[str, Any]) -> None:
    """Raises `UserError` naming the first key in which a step's folder means another model.

    Args:
      folder: of one step.
      metadata: `config` and `contract` of this run, as `Checkpoints.save` takes them.
    """
    written = written_metadata(folder)
    _refuse_other_model(written["config"], metadata["config"], str(folder))
    contract = metadata["contract"]
    refuse_other_contract(written["contract"], contract, sorted(contract), str(folder))


def refuse_other_contract(
    written: dict[str, Any], contract: dict[str, Any], keys: Iterable[str], where: str
) -> None:
    """Raises `UserError` naming the first of `keys` in which two input contracts differ."""
    for key in keys:
        if written.get(key) != contract.get(key):
            raise UserError(
                f"{where} was trained on inputs with {key} {written.get(key)}, this run has "
                f"{contract.get(key)}; give it the same data and config.data"
            )


def _refuse_other_model(written: dict[str, Any], config: dict[str, Any], where: str) -> None:
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
