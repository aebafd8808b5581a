"""Orbax checkpoints of a run: asynchronous, self-describing, checked, strictly restored.

Only this module, `integrity` (which checkpoints are whole?) and `transfer` know Orbax. A
checkpoint holds the weights (`params`), where there are any their moving average (`average`) and
the norms' running statistics (`batch_stats`), the rest of the train state (`training`) and, as
metadata, the resolved config and the input contract.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from rsfm_jax.errors import RunError, UserError
from rsfm_jax.sharding.distributed import everywhere
from rsfm_jax.training.integrity import newest_whole, set_aside, step_folders, write_checksums
from rsfm_jax.training.state import TrainState, Variables, first_non_finite, join_variables


class Checkpoints:
    """The checkpoints of one work folder.

    Damaged ones that are newer than the newest whole one are set aside on opening.

    Args:
      folder: where they lie, one numbered folder a step.
      keep_last: how many of the newest are kept.
      keep_every: steps whose multiples are kept for ever; 0 keeps none of them.

    Raises:
      UserError: there are checkpoints, but all of them are damaged.
    """

    def __init__(self, folder: Path, keep_last: int, keep_every: int):
        self._folder = folder.absolute()
        self._saving: Any = None  # Orbax's answer to the last save
        self._set_damaged_aside()
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep_last)]
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
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
        """Starts writing; returns once the state is copied off the devices.

        Raises:
          RunError: the state is not finite, or this or the last one could not be written.
        """
        if step == self.latest_step():
            return
        bad = first_non_finite(state)
        if bad:
            raise RunError(f"step {step}: {bad} is not finite, nothing was saved; {self._newest()}")
        unfinished = self._folder / f"{step}.orbax-checkpoint-tmp"
        # Process 0 writes the checksums after all files and before the commit.
        context = ocp.Context()
        context.asynchronous.post_finalization_callback = lambda: write_checksums(
            unfinished, metadata
        )
        with self._reporting(), context:
            self._saving = self._checkpointer.save_checkpointables_async(
                step, _split(state), force=True, custom_metadata=metadata
            )

    def check(self) -> None:
        """Raises `RunError` where writing has failed by now; waits for nothing."""
        with self._reporting(), suppress(TimeoutError):
            if self._saving is not None:
                self._saving.result(timeout=0)
                self._saving = None

    def metadata(self) -> dict[str, Any]:
        """What the newest checkpoint says of its run; nothing where there is none."""
        step = self.latest_step()
        return {} if step is None else written_metadata(self._folder / str(step))

    def refuse_other_data(self, metadata: dict[str, Any]) -> None:
        """Raises `UserError` where the newest checkpoint was trained on other data.

        Its step would mean another position, and the order of the examples another one.
        """
        written = self.metadata().get("data", metadata["data"])
        for key, value in metadata["data"].items():
            if written.get(key) != value:
                raise UserError(
                    f"the run in {self._folder.parent} was trained on data with {key} "
                    f"{written.get(key)}, now there is {key} {value}; put the data back, or start "
                    "from its weights with config.init_from in another --workdir"
                )

    def restore(self, abstract_state: TrainState, metadata: dict[str, Any]) -> TrainState:
        """The newest state, laid out as `abstract_state` says.

        Raises:
          UserError: the checkpoint was written by a run of another task or model, or on images
            made ready in another way, than `metadata` (as for `save`) says.
        """
        self._checkpointer.wait()
        step = self.latest_step()
        folder = self._folder / str(step)
        refuse_other_run(folder, metadata)
        items = ocp.checkpointables_metadata(folder).metadata
        if "training" not in items:
            raise UserError(
                f"{folder} holds weights alone: start from it with config.init_from, in another "
                "--workdir"
            )
        kept, wanted = "average" in items, abstract_state.average is not None
        if kept != wanted:
            raise UserError(
                f"{folder} holds {'an' if kept else 'no'} average of the weights: set "
                f"config.optimizer.average_decay {'above' if kept else 'to'} 0, or start from it "
                "with config.init_from in another --workdir"
            )
        parts = self._checkpointer.load_checkpointables(step, _split(abstract_state))
        rest = parts.pop("training")
        return rest.replace(**parts)

    def close(self) -> None:
        """Waits for what is being written; raises `RunError` where that fails."""
        with self._reporting():
            self._checkpointer.close()

    def _set_damaged_aside(self) -> None:
        folders = step_folders(self._folder)
        if not folders:
            return
        whole, damaged = newest_whole(folders)
        if jax.process_index() == 0:
            for folder in damaged:
                set_aside(folder)
        everywhere(True)  # Orbax lists the folder next

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Makes one line of what the writers raise."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())
            if "No space left" in reason:
                reason = "no space left on the device"
            raise RunError(
                f"a checkpoint could not be written to {self._folder} ({reason[:300]}); "
                + self._newest()
            ) from error

    def _newest(self) -> str:
        steps = [int(folder.name) for folder in step_folders(self._folder)]
        return f"the newest one there is of step {max(steps)}" if steps else "there is none yet"


APART = ("params", "average", "batch_stats")  # what other commands load without the rest


def _split(state: TrainState) -> dict[str, Any]:
    """Orbax's items. Those that the model has none of are left out."""
    apart = {name: getattr(state, name) for name in APART}
    items = {name: tree for name, tree in apart.items() if jax.tree.leaves(tree)}
    emptied: dict[str, Any] = dict.fromkeys(items)
    return items | {"training": dataclasses.replace(state, **emptied)}


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
    write_checksums(folder / "0", metadata)


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
    """`config`, `contract` and position of the run that wrote this step's folder."""
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
        old: Any = written.get(section)
        new: Any = config.get(section)
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
RUN_ONLY = (
    *("remat", "attention", "dtype", "drop_path"),
    *("proposals_per_level", "proposals", "score_threshold", "max_detections"),
)


def find_checkpoint(path: Path) -> Path:
    """The newest whole step's folder at or under `path`; raises `UserError` where there is none."""
    path = path.absolute()
    itself = [path] if path.name.isdigit() and path.is_dir() else []
    for folders in (step_folders(path / "checkpoints"), step_folders(path), itself):
        if folders:
            return newest_whole(folders)[0]
    raise UserError(f"{path}: no checkpoint there; give the --workdir of a run that saved one")
