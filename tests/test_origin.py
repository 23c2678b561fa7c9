"""Tests that origin.json names the weights that a run started from."""

import json

from fsvfm_jax.run.origin import ORIGIN, ORIGIN_FILE, save_origin


def test_the_origin_of_a_run_is_in_its_workdir(tmp_path):
    origin = dict(zip(ORIGIN, ("weights.pth", "0" * 64, "apache-2.0"), strict=True))
    save_origin(tmp_path, origin)
    assert json.loads((tmp_path / ORIGIN_FILE).read_text()) == origin
