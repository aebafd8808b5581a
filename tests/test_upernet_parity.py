"""Our heads against UPerNet of transformers: same weights, same maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsfm_jax.models.upernet import ConvNormReLU, FCNHead, UPerHead
from tests.weights import random_variables

torch = pytest.importorskip("torch", reason="the reference model needs torch")
reference = pytest.importorskip(
    "transformers.models.upernet.modeling_upernet", reason="the reference is transformers"
)

CLASSES, WIDTH, CHANNELS = 5, 12, 16
# Pooling into 2, 3 and 6 bins does not divide the coarsest: bins overlap and repeat.
SIZES = ((40, 28), (20, 14), (10, 7), (5, 4))
THEIR_NAMES = {
    **{f"pool{bins}": f"psp_modules.{i}.1" for i, bins in enumerate((1, 2, 3, 6))},
    **{f"lateral{i}": f"lateral_convs.{i}" for i in range(3)},
    **{f"smooth{i}": f"fpn_convs.{i}" for i in range(3)},
    "pyramid_pooling": "bottleneck",
    "fuse": "fpn_bottleneck",
    "conv": "convs.0",
}


def conv_norm(params, batch_stats):
    """One of our ConvNormReLU's variables under the names of UperNetConvModule."""
    return {
        "conv.weight": np.transpose(params["conv"]["kernel"], (3, 2, 0, 1)),
        "batch_norm.weight": params["norm"]["scale"],
        "batch_norm.bias": params["norm"]["bias"],
        "batch_norm.running_mean": batch_stats["norm"]["mean"],
        "batch_norm.running_var": batch_stats["norm"]["variance"],
    }


def head(variables):
    """One of our heads' variables under the names of transformers."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    classifier = params["classifier"]["conv"]
    state = {
        "classifier.weight": np.transpose(classifier["kernel"], (3, 2, 0, 1)),
        "classifier.bias": classifier["bias"],
    }
    for name, statistics in batch_stats.items():
        module = conv_norm(params[name], statistics)
        state |= {f"{THEIR_NAMES[name]}.{key}": value for key, value in module.items()}
    return state


def load(module, state):
    tensors = {key: torch.tensor(np.array(value)) for key, value in state.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all("num_batches_tracked" in name for name in missing)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_heads_agree_with_transformers(auxiliary):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(3, *size, WIDTH)).astype(np.float32) for size in SIZES]
    config = reference.UperNetConfig(
        hidden_size=CHANNELS, auxiliary_channels=CHANNELS, num_labels=CLASSES
    )
    if auxiliary:
        theirs = reference.UperNetFCNHead(config, [WIDTH] * 4)
        ours, inputs = FCNHead(CLASSES, CHANNELS), maps[2]
    else:
        theirs = reference.UperNetHead(config, [WIDTH] * 4)
        ours, inputs = UPerHead(CLASSES, CHANNELS), maps
    variables = random_variables(ours, inputs)
    load(theirs, head(variables))
    with torch.no_grad():
        tensors = [torch.tensor(x).permute(0, 3, 1, 2) for x in maps]
        expected = theirs.eval()(tensors).permute(0, 2, 3, 1).numpy()
    logits = jax.jit(ours.apply)(variables, inputs)
    assert logits.dtype == jnp.float32
    largest = np.abs(expected).max()
    assert largest > 1
    np.testing.assert_allclose(logits / largest, expected / largest, atol=1e-5)


def test_training_normalises_and_remembers_as_torch():
    # One value an image, as behind the coarsest pooling: unbiased variances show here.
    x = np.random.default_rng(0).normal(3, 2, size=(4, 1, 1, WIDTH)).astype(np.float32)
    ours = ConvNormReLU(CHANNELS, 1, jnp.float32)
    variables = random_variables(ours, x, True)
    theirs = reference.UperNetConvModule(WIDTH, CHANNELS, 1).train()
    load(theirs, conv_norm(variables["params"], variables["batch_stats"]))
    with torch.no_grad():
        expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y, updated = ours.apply(variables, x, False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-5)
    for name, buffer in (("mean", "running_mean"), ("variance", "running_var")):
        remembered = theirs.get_buffer(f"batch_norm.{buffer}").numpy()
        np.testing.assert_allclose(updated["batch_stats"]["norm"][name], remembered, rtol=1e-5)
