"""Tests that the authors' curves have the numbers that the documentation shows."""

import re
from pathlib import Path

from fsvfm_jax.config.resolve import RECIPES
from fsvfm_jax.report.published_curves import CURVES, PEAK_LEARNING_RATE, SCHEDULE

ROOT = Path(__file__).parent.parent


def test_the_documentation_has_the_same_numbers():
    text = (ROOT / "docs/pretraining.md").read_text()
    rows = {
        cells[0].strip("` "): [float(cell) for cell in cells[1:]]
        for cells in (line.strip("| ").split("|") for line in text.splitlines())
        if cells[0].strip() in ("epoch", "`loss_rec`", "`loss_region`")
        and re.fullmatch(r"[\d .]+", "".join(cells[1:]))
    }
    curve = CURVES["vggface2_b"].epochs
    for place, epoch in enumerate(rows["epoch"]):
        for name in ("loss_rec", "loss_region"):
            # 0.3035 is 0.303 there, and 0.30 as any other rounding.
            assert abs(rows[name][place] - getattr(curve[int(epoch)], name)) <= 0.0006


def test_curves_fall():
    for curve in CURVES.values():
        assert list(curve.epochs) == sorted(curve.epochs)
        means = list(curve.epochs.values())
        assert means == sorted(means, reverse=True)


def test_the_settings_are_those_of_the_released_recipe():
    assert SCHEDULE["schedule_epochs"] == RECIPES["released"]["schedule_epochs"]
    assert PEAK_LEARNING_RATE == 2.4e-3
