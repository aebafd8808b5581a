"""`--config` and its overrides, for the commands that take a config."""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from rsfm_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py")


def read_config(arguments: list[str]) -> Any:
    """Parses all flags and returns the resolved config; `UserError` on any bad argument."""
    try:
        rest = flags.FLAGS(arguments)
        config = CONFIG.value
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(_one_line(str(error))) from error
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}; overrides look like --config.seed=1")
    if config is None:
        raise UserError(f"give a config: python {arguments[0]} --config=configs/quickstart.py")
    if not config_file().is_file():
        raise UserError(f"--config={config_file()}: no such file")
    return config


def _one_line(text: str) -> str:
    """Without the traceback that ml_collections quotes for a failing config, but for its end."""
    before, _, traceback = text.partition("Traceback (most recent call last):")
    return " ".join([*before.split(), *traceback.strip().rpartition("\n")[2].split()])


def config_file() -> Path:
    """The file that `--config` names, without its variant."""
    flag: Any = flags.FLAGS["config"]  # ml_collections gives it the name of its file
    return Path(flag.config_filename.partition(":")[0])
