"""Tests that the flags of a command open the network that `load` opens."""

import argparse
import subprocess
import sys

import pytest
from commands import ROOT
from random_weights import STATS, TINY, detector_params

from fsvfm_jax import cli
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
    found = opened(*flags, "--view=resize256_crop224", "--batch-size=3")
    same = load(file, labels=("real", "fake"), stats=STATS, num_heads=4)
    assert found.sha256 == same.sha256 and found.stats == STATS
    assert (found.view, found.batch_size) == ("resize256_crop224", 3)
    with pytest.raises(ConfigError, match=r"give labels=.* \(--labels fake,real\)"):
        opened(*flags[:2], *flags[3:])
    with pytest.raises(ConfigError, match="no network"):
        opened(*flags, "--entry=none")


def test_a_machine_whose_accelerator_is_not_used_is_refused(tmp_path, monkeypatch):
    def refuse(backend):
        raise ConfigError(f"only the {backend}")

    monkeypatch.setattr(arguments.cli, "check_accelerator", refuse)
    with pytest.raises(ConfigError, match="only the cpu"):
        opened("--model", tmp_path)


@pytest.mark.parametrize("flag", ["--batch-size=0", "--num-heads=x", "--processes=0"])
def test_numbers_are_from_1_up(flag, tmp_path):
    parser = cli.Parser()
    arguments.add_arguments(parser)
    arguments.add_inputs(parser, what="picture")
    with pytest.raises(ConfigError, match="is no number from 1 up"):
        parser.parse_args(["--model=m", "x.png", flag])


def test_help_does_not_import_jax():
    program = "import sys; from fsvfm_jax.predict.__main__ import _parser; _parser(['--help']);"
    program += "print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
