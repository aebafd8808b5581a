"""Values that cannot work are refused by name, before anything is read or compiled."""

import pytest
from ml_collections import ConfigDict

from configs import mae_1p3b, mae_2p4b, mae_86m, mae_605m, mae_aid_tiny, quickstart
from rsfm_jax.errors import UserError
from rsfm_jax.tasks.pretrain import RULES, mae_config
from rsfm_jax.training.validate import COMMON_RULES, check_values
from tests import tiny


def check(config):
    check_values(config, COMMON_RULES)
    mae_config(config, "cpu")


def keys(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_shipped_configs_are_accepted_and_every_key_has_a_rule():
    for module in (mae_86m, mae_605m, mae_1p3b, mae_2p4b, mae_aid_tiny, quickstart, tiny):
        config = module.get_config()
        check(config)
        # Else no checkpoint would be kept for ever.
        assert config.checkpoint.keep_every % config.checkpoint.every_steps == 0
        assert set(keys(config)) == COMMON_RULES.keys() | RULES.keys()


@pytest.mark.parametrize("key", sorted(COMMON_RULES | RULES))
def test_a_missing_key_is_named(key):
    config = tiny.get_config()
    *section, name = key.split(".")
    del (config[section[0]] if section else config)[name]
    with pytest.raises(UserError, match=rf"config\.{key} is missing"):
        check(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("batch_size", 0),
        ("accumulate_steps", 0),
        ("total_steps", -5),
        ("nonfinite_limit", 0),
        ("log_every_steps", -1),
        ("optimizer.betas", (0.9,)),
        ("optimizer.moment_dtype", "float8"),
        ("data.fraction", 0.0),
        ("data.crop_scale", (0.5, 0.1)),
        ("data.crop_scale", (0.5,)),
        ("data.image_size", 0),
        ("data.image_size", 30),
        ("data.std", (0.1, 0.0, 0.1)),
        ("checkpoint.keep_last", 0),
        ("model.patch_size", 0),
        ("model.mask_ratio", 0.0),
        ("model.mask_ratio", 1.0),
        ("model.mask_ratio", 0.999),
        ("model.drop_path", 2.0),
        ("model.decoder_width", 30),
        ("model.decoder_heads", 5),
        ("model.dtype", "float16"),
        ("model.attention", "fast"),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    config = tiny.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config\.{key}(=|: )"):
        check(config)
