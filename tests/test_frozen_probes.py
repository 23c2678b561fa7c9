"""Tests the probes of frozen patches on worked examples and on a tiny encoder."""

import numpy as np
import pytest

from fsvfm_jax.benchmark import frozen_probes
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.models.vit import ViT
from fsvfm_jax.predict.networks import Encoder


def patches(faces, *, gap=0.0, of_image=0.0, moved=0.0, seed):
    """Returns pairs of faces of 8 patches, of which the forged ones differ along one feature.

    Args:
        faces: Number of pairs.
        gap: Difference of forged patches.
        of_image: Difference of all patches of a forgery.
        moved: How far forged patches look like those of another place.
        seed: Seed of everything else.
    """
    rng = np.random.default_rng(seed)
    forged = np.tile(np.arange(8) < 3, (faces, 1))
    real = 0.1 * rng.normal(size=(faces, 8, 4))
    real[..., 1] += np.arange(faces)[:, None]  # what differs from person to person
    real[..., 2] += np.arange(8)  # and from place to place: here are the forged patches
    fake = real + 0.1 * rng.normal(size=real.shape)
    fake[..., 0] += gap * forged
    fake[..., 3] += of_image
    fake[..., 2] += moved * forged
    return frozen_probes.PairPatches(fake, real, forged)


def test_patches_that_differ_are_found_in_every_face():
    aucs = frozen_probes.patch_aucs(patches(40, gap=2.0, seed=0), patches(10, gap=2.0, seed=1))
    np.testing.assert_array_equal(aucs, np.ones(10))


@pytest.mark.parametrize("moved", [-1.0, 1.0])
def test_forged_patches_that_look_like_those_of_another_place_are_found(moved):
    """A classifier of the place, where forgeries are, would find the others in one of the cases."""
    pair = (patches(40, moved=moved, seed=seed) for seed in (0, 1))
    assert frozen_probes.patch_aucs(*pair).mean() > 0.95


@pytest.mark.parametrize("of_image", [0.0, 5.0])
def test_place_person_and_what_the_whole_image_shows_are_chance(of_image):
    pair = (patches(200, of_image=of_image, seed=seed) for seed in (0, 1))
    aucs = frozen_probes.patch_aucs(*pair)
    assert aucs.shape == (200,) and aucs.mean() == pytest.approx(0.5, abs=0.05)


class Pixels(Encoder):
    """An encoder whose features are the pixels."""

    def __init__(self):
        self.model = ViT(image_size=32, patch_size=8)

    def features(self, images, *, pool="mean"):
        images = np.stack(list(images)).astype(np.float32)
        cells = images.reshape(len(images), 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(-1, 16, 192)
        return cells if pool == "patches" else cells.mean(axis=1)


def test_the_patches_are_those_of_the_forgery_and_of_its_real_face():
    found = frozen_probes.pair_patches(Pixels(), "swap-a", split="test", pairs=3)
    source = RenderedFaces("swap-a", "test", image_size=32, seed=0, videos=6, frames=1)
    stored = np.stack([source[index]["image"] for index in range(6)]).astype(np.float32)
    assert len(found.fake) == 3 and found.forged.any(axis=1).all()
    np.testing.assert_array_equal(found.real, Pixels().features(stored[::2], pool="patches"))
    np.testing.assert_array_equal(found.fake, Pixels().features(stored[1::2], pool="patches"))
