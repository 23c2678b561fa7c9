"""Tests the probes of frozen patches on worked examples and on a tiny encoder."""

import numpy as np
import pytest

from fsvfm_jax.benchmark import frozen_probes
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.models.vit import ViT
from fsvfm_jax.predict.networks import Encoder
from fsvfm_jax.probe.features import Labelled


def patches(faces, *, gap, seed):
    """Returns patches of which the forged ones differ along the first feature."""
    rng = np.random.default_rng(seed)
    fake = np.tile(np.repeat([True, False], 3), faces)
    features = rng.normal(size=(6 * faces, 4)) * 0.1
    features[:, 1] += np.repeat(np.arange(faces), 6)  # what differs from face to face
    features[:, 0] += gap * fake
    return Labelled(features, fake, np.repeat([f"{n:06d}" for n in range(faces)], 6))


def test_patches_that_differ_are_found_in_every_face():
    aucs = frozen_probes.patch_aucs(patches(40, gap=2.0, seed=0), patches(10, gap=2.0, seed=1))
    np.testing.assert_array_equal(aucs, np.ones(10))


def test_patches_that_do_not_differ_are_chance_although_faces_do():
    aucs = frozen_probes.patch_aucs(patches(200, gap=0.0, seed=0), patches(200, gap=0.0, seed=1))
    assert aucs.shape == (200,) and aucs.mean() == pytest.approx(0.5, abs=0.05)


class Pixels(Encoder):
    """An encoder whose features are the pixels."""

    def __init__(self):
        self.model = ViT(image_size=32, patch_size=8)

    def features(self, images, *, pool="mean"):
        images = np.stack(list(images)).astype(np.float32)
        cells = images.reshape(len(images), 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 16, 192)
        return cells if pool == "patches" else cells.mean(axis=1)


def test_the_patches_are_the_same_in_the_forgery_and_in_the_real_face():
    found = frozen_probes.forged_patches(Pixels(), "swap-a", split="test", pairs=3)
    half = len(found.fake) // 2
    assert found.fake[:half].all() and not found.fake[half:].any()
    np.testing.assert_array_equal(found.videos[:half], found.videos[half:])
    assert set(found.videos) <= {"000000", "000001", "000002"} and half > 3
    source = RenderedFaces("swap-a", "test", image_size=32, seed=0, videos=6, frames=1)
    stored = np.stack([source[index]["image"] for index in range(6)]).astype(np.float32)
    for row in (0, half):
        cells = Pixels().features(stored[1 - row // half :: 2], pool="patches")
        assert (cells.reshape(-1, 192) == found.features[row]).all(axis=1).any()
