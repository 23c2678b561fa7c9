"""Tests that the flags of a command open the network that `load` opens."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from random_weights import STATS, TINY, detector_params

from fsvfm_jax.convert import pth, reference
from fsvfm_jax.data.stats import save_stats
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict import arguments, opening
from fsvfm_jax.predict.networks import Detector, Encoder, load


def opened(*flags: str | Path, **options: Any) -> Encoder | Detector:
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    return opening.load_network(parser.parse_args([*map(str, flags)]), **options)


def test_flags_give_what_a_file_does_not_contain(tmp_path: Path) -> None:
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


def test_a_machine_whose_accelerator_is_not_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(backend: str) -> None:
        raise ConfigError(f"only the {backend}")

    monkeypatch.setattr(opening.cli, "check_accelerator", refuse)
    with pytest.raises(ConfigError, match="only the cpu"):
        opened("--model", tmp_path)
