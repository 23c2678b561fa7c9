"""Tests the measures of features against other implementations and on features that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from fsvfm_jax.probe import features
from fsvfm_jax.probe.features import Labelled, held_out, knn_scores, linear_scores, rankme, spectrum


def drawn(count: int, *, shift: float, seed: int = 0, width: int = 6) -> Labelled:
    """Returns features; every other face is fake, and its first channel is `shift` larger."""
    rng = np.random.default_rng(seed)
    fake = np.arange(count) % 2 == 1
    rows = rng.normal(size=(count, width)).astype(np.float32)
    rows[:, 0] += shift * fake
    return Labelled(rows, fake, np.array([f"v{i // 4}" for i in range(count)]))


@pytest.mark.parametrize("measure", [knn_scores, lambda *pair, k: linear_scores(*pair).scores])
def test_classes_that_are_apart_are_told_apart(measure):
    train, test = drawn(80, shift=8.0), drawn(40, shift=8.0, seed=1)
    scores = measure(train, test.features, k=5)
    assert scores[test.fake].min() > scores[~test.fake].max()


def test_neighbours_are_those_of_scikit_learn():
    train, test = drawn(50, shift=1.0), drawn(20, shift=1.0, seed=1)
    mean = train.features.mean(axis=0, dtype=np.float64)
    search = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train.features - mean)
    distance, index = search.kneighbors(test.features - mean)
    weights = np.exp((1 - distance) / features.KNN_TEMPERATURE)
    expected = (weights * train.fake[index]).sum(axis=1) / weights.sum(axis=1)
    np.testing.assert_allclose(knn_scores(train, test.features, k=7), expected, rtol=1e-6)


def test_as_many_faces_vote_as_there_are():
    train = drawn(6, shift=1.0)
    scores = knn_scores(train, train.features, k=100)
    assert np.isfinite(scores).all() and (scores > 0).all() and (scores < 1).all()


def test_the_linear_probe_is_that_of_scikit_learn():
    train, test = drawn(60, shift=1.0), drawn(30, shift=1.0, seed=1)
    scores, ridge = linear_scores(train, test.features)
    assert ridge in features.RIDGES
    centred = train.features - train.features.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.square(centred).mean())
    model = Ridge(alpha=ridge * 60).fit(train.features / scale, np.where(train.fake, 1.0, -1.0))
    np.testing.assert_allclose(scores, model.predict(test.features / scale), rtol=1e-4, atol=1e-6)


def test_the_ridge_is_large_where_nothing_can_be_learnt_and_small_where_all_can():
    nothing = linear_scores(drawn(60, shift=0.0, width=40), drawn(10, shift=0.0, width=40).features)
    everything = drawn(60, shift=0.0)
    everything.features[:, 0] = everything.fake
    assert nothing.ridge > 1 > linear_scores(everything, everything.features).ridge


def test_constant_features_give_no_error_and_chance():
    constant = Labelled(np.ones((20, 3), np.float32), np.arange(20) % 2 == 0, np.arange(20))
    assert np.ptp(linear_scores(constant, constant.features[:5]).scores) < 1e-9
    assert np.isfinite(knn_scores(constant, constant.features[:5], k=3)).all()
    assert rankme(constant.features) == pytest.approx(1, abs=1e-4)
    assert all(np.isnan(share) for share in spectrum(constant.features).values())


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 1000))
def test_held_out_faces_are_of_both_classes_and_of_other_videos(count, of_video, seed):
    rng = np.random.default_rng(seed)
    fake = np.repeat(np.arange(2 * count) % 2 == 1, of_video)
    videos = np.repeat(rng.permutation(2 * count), of_video)
    held = held_out(Labelled(np.zeros((len(fake), 1), np.float32), fake, videos))
    for of_class in (fake, ~fake):
        assert 0 < held[of_class].sum() < of_class.sum()
        assert 0.14 < held[of_class].mean() <= 0.5
    assert not set(videos[held]) & set(videos[~held])


def test_one_video_of_a_class_is_split_by_its_frames():
    fake = np.repeat([True, False], 8)
    held = held_out(Labelled(np.zeros((16, 1), np.float32), fake, np.repeat(["a", "b"], 8)))
    assert held.nonzero()[0].tolist() == [6, 7, 14, 15]


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_rank_is_that_of_equal_directions(rank):
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    rows = np.repeat(np.eye(16)[:rank], 4, axis=0) @ directions
    assert rankme(rows) == pytest.approx(rank, rel=1e-4)


def test_the_spectrum_is_the_share_of_the_largest_components():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 20)) * np.where(np.arange(20) == 7, 10.0, 1.0) + 5.0
    shares = spectrum(rows)
    assert shares[1] == pytest.approx(100 / 119, abs=0.02)
    assert shares[1] < shares[4] < shares[16] < shares[64] == pytest.approx(1)
