"""Weights in and out, against timm's VisionTransformer and transformers' ViTMAE."""

import argparse
import json
import sys
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from launch.convert import main
from rsfm_jax.interop.check import our_features
from rsfm_jax.interop.files import read_tensors
from rsfm_jax.interop.names import Layout
from rsfm_jax.interop.positions import position_table
from rsfm_jax.models import sizes
from rsfm_jax.models.mae import MAE, draw_mask
from rsfm_jax.models.sizes import ViTSize
from rsfm_jax.models.vit import ViTConfig
from rsfm_jax.models.vitdet import ViTDet, ViTDetConfig
from rsfm_jax.sharding.mesh import make_mesh
from rsfm_jax.tasks.encoder import image_contract
from rsfm_jax.tasks.pretrain import Pretrain, mae_config
from rsfm_jax.training.checkpoints import (
    Checkpoints,
    find_checkpoint,
    read_weights,
    save_weights,
    written_metadata,
)
from rsfm_jax.training.state import create_state
from rsfm_jax.training.transfer import load_initial
from tests import tiny
from tests.foreign_models import (
    IMAGE,
    PATCH,
    SIDE,
    SIZE,
    save_file,
    timm_model,
    torch,
    unsettle,
    vitmae,
)
from tests.weights import random_weights


@pytest.fixture(autouse=True)
def named_sizes(monkeypatch):
    monkeypatch.setitem(sizes.SIZES, "vit_test", SIZE)
    monkeypatch.setitem(sizes.SIZES, "vit_tiny2", ViTSize(192, 2, 3, 768))


def run(*arguments):
    return main([str(argument) for argument in arguments])


def imported(source, workdir, *options):
    assert run("import", f"--source={source}", f"--workdir={workdir}", *options) == 0
    folder = find_checkpoint(workdir)
    return read_weights(folder), written_metadata(folder)


def test_timm_in_and_out_again(tmp_path, capsys):
    import timm

    model = timm_model(num_classes=5)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    variables, metadata = imported(tmp_path / "vit.safetensors", tmp_path / "in", "--heads=4")
    out = capsys.readouterr().out
    assert "ours against timm" in out and "left out: head.bias, head.weight" in out
    assert metadata["config"]["model"]["size"] == "vit_test"
    assert metadata["contract"]["image_size"] == IMAGE
    assert set(variables["params"]) == {"encoder"}

    images = np.random.default_rng(5).normal(size=(2, IMAGE, IMAGE, 3)).astype(np.float32)
    ours = our_features(variables["params"]["encoder"], Layout(SIZE, PATCH), images)
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = model.forward_features(pixels).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

    folder = tmp_path / "out"
    assert run("export", f"--checkpoint={tmp_path / 'in'}", f"--output={folder}") == 0
    assert "ours against timm" in capsys.readouterr().out
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert "imported from vit.safetensors" in (folder / "README.md").read_text()
    assert again.default_cfg["mean"] == metadata["contract"]["mean"]
    state = model.state_dict()
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor, state[name], err_msg=name)
    with torch.no_grad():
        np.testing.assert_allclose(again(pixels), theirs[:, 0], atol=1e-6)


def test_a_named_timm_model_in_half_precision(tmp_path, capsys):
    import timm

    model = unsettle(timm.create_model("vit_tiny_patch16_224", depth=2, img_size=96, num_classes=0))
    model.pos_embed.data = torch.tensor(position_table(6, 192, class_token=True))
    torch.save({"state_dict": model.half().state_dict()}, tmp_path / "tiny.pth")
    statistics = ("--mean=0.5,0.5,0.5", "--std=0.25,0.25,0.5")
    variables, metadata = imported(tmp_path / "tiny.pth", tmp_path / "in", *statistics)
    assert "ours against timm" in capsys.readouterr().out
    assert metadata["config"]["model"]["size"] == "vit_tiny2"
    assert metadata["contract"]["std"] == [0.25, 0.25, 0.5]
    table = np.float32(model.state_dict()["norm.weight"])
    np.testing.assert_array_equal(variables["params"]["encoder"]["blocks"]["norm"]["scale"], table)


@pytest.mark.parametrize("newest_names", [False, True])
def test_vitmae_and_torch_mae(tmp_path, capsys, newest_names):
    model = vitmae(norm_pix_loss=True)
    model.save_pretrained(tmp_path / "hub")  # under the names of transformers 4
    if newest_names:
        save_file(model.state_dict(), tmp_path / "hub" / "model.safetensors")
    variables, metadata = imported(tmp_path / "hub", tmp_path / "in")
    out = capsys.readouterr().out
    assert "features: ours against timm" in out and "NOT" not in out
    assert "reconstruction: ours against transformers" in out
    assert metadata["config"]["model"]["normalize_targets"] is True
    assert metadata["config"]["model"]["decoder_heads"] == 2
    if newest_names:
        return

    # MAE's own files: the same weights by other names, here from our export.
    folder = tmp_path / "out"
    assert run("export", f"--checkpoint={tmp_path / 'in'}", f"--output={folder}") == 0
    assert "reconstruction: ours against transformers" in capsys.readouterr().out
    tensors = read_tensors(folder / "model.safetensors")[0]
    tensors |= read_tensors(folder / "heads.safetensors")[0]
    tensors["decoder_pos_embed"] = position_table(SIDE, 32, class_token=True)
    state = {name: torch.tensor(value) for name, value in tensors.items()}
    arguments = argparse.Namespace(norm_pix_loss=False, model="mae_vit_test")
    torch.save({"model": state, "args": arguments, "epoch": 3}, tmp_path / "mae.pth")
    capsys.readouterr()
    heads = ("--heads=4", "--decoder_heads=2")
    again, metadata = imported(tmp_path / "mae.pth", tmp_path / "mae", *heads)
    out = capsys.readouterr().out
    assert "features: ours against timm" in out and "ours against transformers" in out
    assert metadata["config"]["model"]["normalize_targets"] is False
    assert_equal(again, variables)


def test_a_vitmae_without_decoder(tmp_path, capsys):
    vitmae().vit.save_pretrained(tmp_path / "hub")
    variables, _ = imported(tmp_path / "hub", tmp_path / "in")
    assert "features: ours against transformers" in capsys.readouterr().out
    assert set(variables["params"]) == {"encoder"}


def test_the_check_says_whom_it_could_not_ask(tmp_path, capsys, monkeypatch):
    vitmae().save_pretrained(tmp_path / "hub")
    for library in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    imported(tmp_path / "hub", tmp_path / "in")
    features, reconstruction = capsys.readouterr().out.splitlines()[:2]
    assert "rsfm_jax's own torch ViT" in features and "not asked: timm" in features
    assert "reconstruction: NOT COMPARED" in reconstruction and "transformers (" in reconstruction


def assert_equal(ours, theirs):
    ours, theirs = flatten_dict(ours, sep="/"), flatten_dict(theirs, sep="/")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def parallel_mae():
    """(weights of a pretraining run with four branches, its metadata)."""
    config = tiny.get_config()
    model = mae_config(config, "cpu")
    size = config.data.image_size
    mask = draw_mask(jnp.zeros((1, 16)), 0.75)
    params = random_weights(MAE(model), jnp.zeros((1, size, size, 3)), mask)
    contract = image_contract(config)
    return params, {"config": json.loads(config.to_json()), "contract": contract}


def test_parallel_models_round_trip(tmp_path, capsys):
    params, metadata = parallel_mae()
    average = jax.tree.map(lambda x: x + 1, params)
    state = create_state({"params": params}, optax.sgd(0.1), averaged=True)
    with closing(Checkpoints(tmp_path / "run" / "checkpoints", 1, 0)) as checkpoints:
        checkpoints.save(state.replace(average=average), 7, metadata)
    folder = tmp_path / "out"
    assert run("export", f"--checkpoint={tmp_path / 'run'}", f"--output={folder}") == 0
    assert "ours against rsfm_jax's own torch ViT" in capsys.readouterr().out
    assert json.loads((folder / "input_contract.json").read_text()) == metadata["contract"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: rsfm_jax") and "4 parallel branches" in card
    assert "task `pretrain` to step 7 on `synthetic:64`" in " ".join(card.split())

    # The third branch of the first block, cut by hand from our fused matrix.
    kernel = np.asarray(average["encoder"]["blocks"]["block0"]["attn"]["qkv_kernel"])
    tensors = read_tensors(folder / "model.safetensors")[0]
    third = kernel[:, :, 4:6].reshape(64, 3 * 64).T  # two heads a branch
    np.testing.assert_array_equal(tensors["blocks.0.attn.2.qkv.weight"], third)

    # What the card says about loading runs as it is.
    code = card.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(folder))
    exec(code, {})

    variables, again = imported(folder, tmp_path / "in")
    assert again == metadata
    assert_equal(variables["params"], average)


def test_an_imported_parallel_model_starts_a_run(tmp_path):
    params, metadata = parallel_mae()
    save_weights(tmp_path / "run" / "checkpoints", {"params": params}, metadata)
    assert run("export", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'out'}") == 0
    imported(tmp_path / "out", tmp_path / "in")
    config = tiny.get_config()
    config.init_from = str(tmp_path / "in")
    task = Pretrain(config, make_mesh(config))
    fresh = jax.tree.map(jnp.zeros_like, params)
    started = load_initial(config.init_from, fresh, task, json.loads(config.to_json()))
    assert_equal(started, params)


def test_a_dense_model_with_heads_and_statistics_round_trips(tmp_path, capsys):
    config = ViTDetConfig(ViTConfig(SIZE, PATCH), (8, 8), window=4, pretrained_grid=(SIDE, SIDE))
    encoder = random_weights(ViTDet(config), jnp.zeros((1, 64, 64, 3)))
    heads = {"conv": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
    statistics = {"head": {"norm": {"mean": jnp.ones(3)}}}
    variables = {"params": {"encoder": encoder, "head": heads}, "batch_stats": statistics}
    run_config = {
        "task": "segment",
        "model": {"size": "vit_test", "patch_size": PATCH, "pretrained_image_size": IMAGE},
        "data": {"image_size": 64, "source": "synthetic:8"},
    }
    contract = {"bands": ["red"], "unit": "uint8", "mean": [0.0], "std": [1.0]}
    metadata = {"config": run_config, "contract": contract}
    save_weights(tmp_path / "run" / "checkpoints", variables, metadata)
    assert run("export", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'out'}") == 0
    assert "without relative positions: ours against timm" in capsys.readouterr().out
    assert_equal(imported(tmp_path / "out", tmp_path / "in")[0], variables)
