import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fsvfm_jax import masking, regions


@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    patch_size=st.integers(1, 5),
    dtype=st.sampled_from([np.int8, np.uint8, np.int64]),
)
def test_a_word_holds_the_classes_of_its_patch(seed, batch, rows, columns, patch_size, dtype):
    shape = (batch, rows * patch_size, columns * patch_size)
    parsing_maps = np.random.default_rng(seed).integers(0, regions.NUM_CLASSES, shape, dtype)

    words = regions.patch_classes(parsing_maps, patch_size)

    assert words.dtype == np.uint16
    assert words.shape == (batch, rows * columns)
    for image, row, column in np.ndindex(batch, rows, columns):
        top, left = row * patch_size, column * patch_size
        patch = parsing_maps[image, top : top + patch_size, left : left + patch_size]
        word = words[image, row * columns + column]
        shown = {c for c in range(16) if word >> c & 1}
        assert shown == set(patch.flat)


def test_every_class_has_a_bit():
    parsing_maps = np.arange(regions.NUM_CLASSES)[None, None]
    words = regions.patch_classes(parsing_maps, 1)
    np.testing.assert_array_equal(words, [[1 << c for c in range(11)]])


def test_groups_are_in_the_papers_order_and_share_no_class():
    assert regions.GROUPS == (
        "brows", "eyes", "nose", "mouth", "boundary", "hair", "skin", "background",
    )  # fmt: skip
    assert regions.GROUPS[: regions.NUM_COVERABLE] == regions.GROUPS[:6]
    assert set(regions.GROUP_CLASSES) == set(regions.GROUPS) - {"boundary"}
    classes = [c for wanted in regions.GROUP_CLASSES.values() for c in wanted]
    assert sorted(classes) == list(range(regions.NUM_CLASSES))


@pytest.mark.parametrize("wrong", [-1, 11, 256])
def test_a_class_lapa_does_not_have_is_refused(wrong):
    parsing_maps = np.zeros((1, 4, 4), np.int16)
    parsing_maps[0, 2, 3] = wrong
    with pytest.raises(ValueError, match=rf"class {wrong}\b"):
        regions.patch_classes(parsing_maps, 2)


@pytest.mark.parametrize("shape", [(1, 5, 4), (1, 4, 5)])
def test_a_size_that_does_not_divide_is_refused(shape):
    height, width = shape[1:]
    with pytest.raises(ValueError, match=f"{height} x {width} .* 2 x 2"):
        regions.patch_classes(np.zeros(shape, np.uint8), 2)


def test_masking_offers_the_same_function():
    assert masking.patch_classes is regions.patch_classes


def test_data_workers_do_not_import_jax():
    code = "import sys, fsvfm_jax.regions; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
