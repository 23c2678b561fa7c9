"""Tests that the flags of a command open the network that `load` opens."""

import argparse

import pytest
from random_weights import STATS, TINY, detector_params

from fsvfm_jax.convert import pth, reference
from fsvfm_jax.data.stats import save_stats
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict import arguments
from fsvfm_jax.predict.networks import load


def opened(*flags, **options):
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    return arguments.load_network(parser.parse_args([*map(str, flags)]), **options)


def test_flags_give_what_a_file_does_not_contain(tmp_path):
    file, stats = tmp_path / "detector.pth", tmp_path / "stats.json"
    pth.write(file, reference.to_state_dict(detector_params(TINY)))
    save_stats(stats, STATS)
    flags = ["--model", file, "--labels=real,fake", "--stats", stats, "--num-heads=4"]
    found = opened(*flags, "--view=resize256_crop224", "--batch-size=3", crop_margin=0.3)
    same = load(file, labels=("real", "fake"), stats=STATS, num_heads=4)
    assert found.sha256 == same.sha256 and found.stats == STATS
    assert (found.view, found.batch_size, found.crop_margin) == ("resize256_crop224", 3, 0.3)
    with pytest.raises(ConfigError, match="--labels"):
        opened(*flags[:2], *flags[3:])
    with pytest.raises(ConfigError, match="no network"):
        opened(*flags, "--entry=none")
