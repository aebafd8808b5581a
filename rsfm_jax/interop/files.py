"""Tensor files, read without running any code that they hold."""

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rsfm_jax.errors import UserError
from rsfm_jax.files import write_atomically

# Inside a downloaded folder, the first that is there.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def find_weights(path: Path) -> Path:
    """`path` itself, or the weights in a downloaded folder; raises `UserError`."""
    if not path.is_dir():
        return path
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: holds neither {' nor '.join(WEIGHT_FILES)}")


def read_tensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(float32 tensors by name, the training arguments stored beside them, if any).

    `.safetensors` needs no torch; anything else is read by torch with `weights_only=True`.

    Raises:
      UserError: not there, cut short, or holds more than tensors.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    arguments: dict[str, Any] = {}
    if file.suffix == ".safetensors":
        tensors = _read_safetensors(file)
    else:
        tensors, arguments = _read_torch(file)
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}, arguments


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file}: not a whole safetensors file ({error})") from error


def _read_torch(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{file}: reading torch files needs torch (pip install torch)") from error
    try:
        # MAE's own training stores its parsed command line, a plain bag of values.
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that it then refuses
            stored = torch.load(file, map_location="cpu", weights_only=True)
    # torch raises whatever its zip reader, unpickler or an old format runs into.
    except Exception as error:
        raise UserError(
            f"{file}: not a torch file of tensors alone; it is cut short, or holds code or "
            "objects that are not loaded because they could run anything"
        ) from error
    if not isinstance(stored, dict):
        raise UserError(f"{file}: holds a {type(stored).__name__}, not tensors by name")
    arguments = dict(vars(stored.get("args", Namespace())))
    for key in ("model", "state_dict"):  # MAE's and timm's training write these
        if isinstance(stored.get(key), dict):
            stored = stored[key]
    bad = [key for key, value in stored.items() if not isinstance(value, torch.Tensor)]
    if bad:
        raise UserError(f"{file}: {bad[0]!r} is not a tensor; expected a state dict")
    return {name: value.float().numpy() for name, value in stored.items()}, arguments


def write_tensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes safetensors atomically; `format: pt` as torch libraries ask for."""
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}

    def write(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(whole, temporary, {"format": "pt"})
        temporary.chmod(mode)  # it makes files that only their owner reads

    write_atomically(file, write)
