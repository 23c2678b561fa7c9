"""Tests the components and similarities of patch features, and the command that draws them."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fsvfm_jax.visualize import patch_features
from fsvfm_jax.visualize.__main__ import main


def test_components_are_those_of_scikit_learn_up_to_their_sign():
    rng = np.random.default_rng(0)
    patches = (rng.normal(size=(3, 16, 8)) * np.arange(1, 9) + 5).astype(np.float32)
    components, shares = patch_features.principal_components(patches)
    pca = PCA(3).fit(patches.reshape(-1, 8).astype(np.float64))
    wanted = pca.transform(patches.reshape(-1, 8)).reshape(3, 16, 3)
    np.testing.assert_allclose(abs(components), abs(wanted), atol=1e-4)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, rtol=1e-5)


def test_similarity_is_the_cosine_and_zero_for_zeros():
    patches = np.array([[[1, 0], [0, 2], [3, 3], [0, 0]]], np.float32)
    found = patch_features.similarities(patches, patches[:, 0])
    np.testing.assert_allclose(found, [[1, 0, np.sqrt(0.5), 0]], rtol=1e-6)


def test_the_frame_is_around_the_patch():
    images = np.zeros((1, 64, 64, 3), np.uint8)
    framed = patch_features._framed(images, (1, 2), 16)
    rows, columns = np.nonzero((framed[0] == patch_features.CHOSEN).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 31, 32, 47)
    assert not framed[0, 24, 40].any() and not images.any()


def test_the_command_draws_the_features_of_any_block(detector_folder, tmp_path, capsys):
    output = tmp_path / "a.html"
    argv = ["features", f"--model={detector_folder}", "--count=2", "--patch=0,3", "--block=1"]
    main([*argv, f"--output={output}"])
    assert "similarity to the patch of face 1" in capsys.readouterr().out
    assert "Patch features of block 1" in output.read_text()


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--patch=4,0", "--patch=4,0 does not exist: a face has 4 x 4"),
        ("--patch=4", "'4' is not ROW,COLUMN"),
        ("--block=9", "block 9 does not exist: give 1 to 2"),
    ],
)
def test_wrong_flags_are_one_sentence(detector_folder, tmp_path, capsys, flag, words):
    with pytest.raises(SystemExit) as ended:
        main(["features", f"--model={detector_folder}", flag, f"--output={tmp_path / 'a.png'}"])
    message = capsys.readouterr().err
    assert ended.value.code == 78 and words in message and message.count("\n") == 1
