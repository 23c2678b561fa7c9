"""Tests that the maps are the class token's weights, and that the shares of the table add up."""

import jax
import numpy as np
import pytest

from fsvfm_jax.models.attention_maps import attention_weights, rollout
from fsvfm_jax.predict.networks import load
from fsvfm_jax.pretrain import normalize_images
from fsvfm_jax.visualize import attention
from fsvfm_jax.visualize.__main__ import main


@pytest.fixture(scope="module")
def network(detector_folder):
    return load(detector_folder)


@pytest.mark.parametrize("block", [1, 2])
def test_maps_are_the_weights_of_the_class_token(network, block):
    images = np.random.default_rng(0).integers(256, size=(2, 64, 64, 3), dtype=np.uint8)
    maps = attention.attention_maps(network, images, block=block)
    normalized = normalize_images(jax.numpy.asarray(images), network.stats)
    weights = attention_weights(network.model, network.params, normalized)
    np.testing.assert_allclose(maps["head 3"], weights[block - 1, :, 2, 0], atol=1e-6)
    mean = weights[block - 1, :, :, 0].mean(axis=1)
    np.testing.assert_allclose(maps[attention.MEAN], mean, atol=1e-6)
    np.testing.assert_allclose(maps[attention.ROLLOUT], rollout(weights)[:, 0], atol=1e-6)
    assert [*maps] == [attention.MEAN, attention.ROLLOUT, *(f"head {n}" for n in range(1, 5))]


def test_the_command_prints_shares_that_add_up(detector_folder, tmp_path, capsys):
    output = tmp_path / "a.png"
    main(["attention", f"--model={detector_folder}", "--count=2", f"--output={output}"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][2:]
    assert len(rows) == 2 + 4 + 1
    for _, *shares in rows[:-1]:
        assert abs(sum(map(float, shares)) - 100) < 0.5
    assert output.read_bytes().startswith(b"\x89PNG")


def test_a_block_that_is_not_there_is_one_sentence(detector_folder, tmp_path, capsys):
    output = tmp_path / "a.png"
    with pytest.raises(SystemExit) as ended:
        main(["attention", f"--model={detector_folder}", "--block=3", f"--output={output}"])
    assert ended.value.code == 78
    assert capsys.readouterr().err == "error: --block 3 does not exist: give 1 to 2\n"
