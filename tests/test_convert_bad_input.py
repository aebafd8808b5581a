"""What cannot be converted gives one line that says why, status 2, and writes nothing."""

import json
import os
import pickle

import numpy as np
import pytest

from launch.convert import main
from rsfm_jax.interop import importing
from rsfm_jax.models import sizes
from tests.foreign_models import SIZE, load_file, save_file, timm_model, torch, vitmae


@pytest.fixture(autouse=True)
def named_size(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "vit_test", SIZE)


@pytest.fixture
def refuses(tmp_path, capsys):
    """refuses(source, *options) -> the line; asserts status 2 and that nothing was written."""

    def refuse(source, *options):
        workdir = tmp_path / "workdir"
        command = ["import", f"--source={source}", f"--workdir={workdir}", *options]
        capsys.readouterr()
        assert main(command) == 2
        assert not workdir.exists()
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    return refuse


@pytest.fixture
def state():
    return timm_model().state_dict()


@pytest.fixture
def refuses_state(tmp_path, refuses):
    def refuse(state, *options):
        file = tmp_path / "vit.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, file)
        return refuses(file, *(options or ("--heads=4",)))

    return refuse


class Code:
    """Makes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda x, f: f.write_bytes(pickle.dumps(x))])
def test_code_in_a_pickle_never_runs(tmp_path, refuses, state, write):
    write({"model": state, "extra": Code(tmp_path / "ran")}, tmp_path / "mae.pth")
    assert "holds code" in refuses(tmp_path / "mae.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
@pytest.mark.parametrize("kept", [0, 100, 0.7])
def test_files_cut_short(tmp_path, refuses, state, name, kept):
    file = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert name in refuses(file)


def test_not_there_or_not_weights(tmp_path, refuses):
    assert "no such file" in refuses(tmp_path / "nothing.pth")
    assert "holds neither model.safetensors" in refuses(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds a list" in refuses(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    assert "'epoch' is not a tensor" in refuses(tmp_path / "epoch.pth")


def test_weights_that_are_missing_superfluous_or_of_another_shape(refuses_state, state):
    bias = state.pop("blocks.1.attn.qkv.bias")
    assert "blocks.1.attn.qkv.bias is missing" in refuses_state(state)
    state["blocks.1.attn.qkv.bias"] = bias[:-1]
    assert "qkv.bias is (143,), (144,) in this model" in refuses_state(state)
    state |= {"blocks.1.attn.qkv.bias": bias, "blocks.0.ls1.gamma": torch.ones(48)}
    assert "blocks.0.ls1.gamma (one of 1) has no place" in refuses_state(state)


def test_another_family(refuses_state, state):
    swin = {f"layers.0.{name}": value for name, value in state.items()}
    assert "named as in MAE" in refuses_state(swin)
    four_bands = state | {"patch_embed.proj.weight": torch.zeros(48, 4, 8, 8)}
    assert "expected 3 bands" in refuses_state(four_bands)
    assert "no named size is 48 wide, 2 deep, with 8 heads" in refuses_state(state, "--heads=8")
    assert "give --heads" in refuses_state(state, "--mean=0,0,0")


@pytest.mark.parametrize("written", ["4", 4.0, [4], -4])
def test_a_number_of_heads_that_is_none(written, tmp_path, refuses, state):
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"num_heads": written}}))
    assert "give --heads" in refuses(tmp_path)


def test_bad_arguments(refuses, tmp_path):
    assert "three numbers" in refuses(tmp_path, "--mean=1,2")


def test_position_tables_that_models_here_cannot_have(refuses_state, state):
    table = state["pos_embed"]
    learned = table + 0.01 * torch.randn_like(table)
    assert "learned (it differs by up to 0.0" in refuses_state(state | {"pos_embed": learned})
    rows_first = torch.roll(table, 24, dims=2)
    assert "rows' half first" in refuses_state(state | {"pos_embed": rows_first})
    assert "all zero" in refuses_state(state | {"pos_embed": torch.zeros_like(table)})
    assert "square grid" in refuses_state(state | {"pos_embed": table[:, 1:]})
    state.pop("pos_embed")
    assert "pos_embed is missing" in refuses_state(state)


def test_hugging_face_folders(tmp_path, refuses):
    vitmae().save_pretrained(tmp_path)
    file, described = tmp_path / "model.safetensors", tmp_path / "config.json"
    config = json.loads(described.read_text())
    described.write_text(json.dumps(config | {"model_type": "dinov2"}))
    assert "a dinov2 model, not ViTMAE" in refuses(tmp_path)
    described.write_text("{")
    assert "config.json: not JSON" in refuses(tmp_path)
    described.write_text(json.dumps(config))
    weights = load_file(file)
    weights.pop("vit.encoder.layer.1.attention.attention.key.weight")
    save_file(weights, file)
    assert "blocks.1.attn.key.weight (in MAE's naming) is missing" in refuses(tmp_path)


def test_a_wrong_conversion_is_not_written(refuses_state, state, monkeypatch):
    right = importing.from_foreign

    def wrong(tensors, layout, source):
        tree = right(tensors, layout, source)
        tree["encoder"]["blocks"]["block1"]["attn"]["qkv_bias"][0] = 0  # no query bias
        return tree

    monkeypatch.setattr(importing, "from_foreign", wrong)
    assert "they disagree, so nothing was written" in refuses_state(state)


def test_weights_that_are_not_finite_are_not_written(refuses_state, state):
    state["norm.bias"] = state["norm.bias"] * np.nan
    assert "they disagree" in refuses_state(state)


def test_used_folders(tmp_path, capsys, state):
    save_file(state, tmp_path / "vit.safetensors")
    command = ["import", f"--source={tmp_path / 'vit.safetensors'}", "--heads=4"]
    command += [f"--workdir={tmp_path / 'in'}"]
    assert main(command) == 0
    assert main(command) == 2
    assert "holds checkpoints already" in capsys.readouterr().err
    export = ["export", f"--output={tmp_path / 'out'}"]
    assert main([*export, f"--checkpoint={tmp_path / 'empty'}"]) == 2
    assert "no checkpoint there" in capsys.readouterr().err
    assert main([*export, f"--checkpoint={tmp_path / 'in'}"]) == 0
    assert main([*export, f"--checkpoint={tmp_path / 'in'}"]) == 2
    assert "exists already" in capsys.readouterr().err

    again = ["import", f"--source={tmp_path / 'out'}", f"--workdir={tmp_path / 'again'}"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    cut = {"blocks.0.mlp.fc1.weight": tensors["blocks.0.mlp.fc1.weight"][:-1].contiguous()}
    save_file(tensors | cut, tmp_path / "out" / "model.safetensors")
    assert main(again) == 2
    assert "mlp.fc1.weight is (95, 48), (96, 48) in this model" in capsys.readouterr().err
    table = {"pos_embed": torch.zeros(1, 37, 48)}
    save_file(tensors | table, tmp_path / "out" / "model.safetensors")
    assert main(again) == 2
    assert "pos_embed is not the table" in capsys.readouterr().err
    (tmp_path / "out" / "config.json").write_text('{"rsfm_jax": {"config": {}}}')
    assert main(again) == 2
    assert "rsfm_jax lacks 'model'" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
