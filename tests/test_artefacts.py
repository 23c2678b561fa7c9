"""Tests statistics of whole pictures: what they detect, and that forgeries are not detected."""

import numpy as np
import pytest

from fsvfm_jax.benchmark.artefacts import (
    ARTEFACT_AUC,
    highpass_statistics,
    logistic_regression,
    scores,
)
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.rendered.rendered_sets import (
    RENDERED_SETS,
    SPOOFS,
    RenderedFaces,
)
from fsvfm_jax.data.rendered.synthetic import render_face


def area_under_curve(values, positive):
    higher = values[positive][:, None] - values[~positive]
    return float(np.mean((higher > 0) + 0.5 * (higher == 0)))


def statistics(name, split, *, videos):
    faces = RenderedFaces(name, split, image_size=64, seed=0, videos=videos, frames=1)
    fake = np.array([faces.label(index) == LABELS.index("fake") for index in range(videos)])
    return highpass_statistics([face["image"] for face in faces.read(range(videos))]), fake


@pytest.fixture(scope="module")
def global_statistics():
    """Returns statistics of the training and test images of every set."""
    return {
        name: (statistics(name, "train", videos=300), statistics(name, "test", videos=200))
        for name in RENDERED_SETS
    }


@pytest.mark.slow
@pytest.mark.parametrize("tested", RENDERED_SETS)
def test_global_statistics_do_not_tell_unseen_forgeries(tested, global_statistics):
    """Trains on swap-a to test deepfakes, and on the other three forgeries to test spoofs."""
    trained = [name for name in SPOOFS if name != tested] if tested in SPOOFS else ["swap-a"]
    fitted, positive = zip(*(global_statistics[name][0] for name in trained), strict=True)
    model = logistic_regression(np.concatenate(fitted), np.concatenate(positive), ridge=3.0)
    features, fake = global_statistics[tested][1]
    assert area_under_curve(scores(model, features), fake) < ARTEFACT_AUC - 0.05


def test_the_check_finds_a_global_artefact():
    """Adds grain to the fakes only."""
    rng = np.random.default_rng(0)
    faces = np.stack([render_face(index, image_size=64)[0] for index in range(200)])
    fake = np.arange(200) % 2 == 0
    noise = rng.normal(0, 6, faces[fake].shape)
    faces[fake] = np.clip(faces[fake] + noise, 0, 255)
    features = highpass_statistics(faces)
    model = logistic_regression(features[:100], fake[:100])
    assert area_under_curve(scores(model, features[100:]), fake[100:]) > ARTEFACT_AUC


def test_a_flat_image_has_no_energy_and_a_wave_has_it_in_one_frequency():
    flat = np.full((16, 16, 3), 90, np.uint8)
    wave = 128 + 60 * np.cos(np.pi * (2 * np.arange(16) + 1) * 4 / 16)
    wave = np.uint8(np.broadcast_to(wave[None, :, None], (16, 16, 3)))
    features = highpass_statistics([flat, wave])
    np.testing.assert_allclose(features[0], np.log(1e-2), atol=1e-6)
    # The picture has frequency 4 across; the mean itself is left out.
    assert np.argmax(features[1, :63]) == 3


def test_logistic_regression_finds_the_weights_the_labels_were_drawn_with():
    rng = np.random.default_rng(0)
    features = np.column_stack([rng.normal(5, 2, 20000), rng.normal(0, 1, 20000), np.ones(20000)])
    logit = 0.7 * features[:, 0] - 1.5 * features[:, 1] - 3
    positive = rng.random(20000) < 1 / (1 + np.exp(-logit))
    model = logistic_regression(features, positive, ridge=1e-3)
    np.testing.assert_allclose(model.weights / model.deviation, [0.7, -1.5, 0], atol=0.06)
    np.testing.assert_allclose(scores(model, features), logit, atol=0.4)


def test_logistic_regression_of_separable_features_is_finite():
    features = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    model = logistic_regression(features, np.array([False, False, True, True]))
    assert np.isfinite(model.weights).all()
    assert (scores(model, features) > 0).tolist() == [False, False, True, True]
