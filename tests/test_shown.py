"""Tests the picture of a file to show."""

import numpy as np
import pytest

from fsvfm_jax.predict.shown import MAX_SHOWN_SIDE, shown_picture


@pytest.mark.parametrize(
    ("size", "shown"), [((300, 2000), (120, 800)), ((40, 30), (40, 30)), ((1, 5000), (1, 800))]
)
def test_a_picture_is_made_smaller_and_never_larger(size, shown):
    found = shown_picture(3, np.zeros((*size, 3), np.uint8))
    assert found.pixels.shape == (*shown, 3) and found.frame == 3
    assert found.scale == min(MAX_SHOWN_SIDE / max(size), 1)
