"""Measures what features of faces contain, without training a network: NumPy, in float64.

k-nearest-neighbour and linear classification of real and fake faces, the effective rank, and the
spectrum. All functions are deterministic.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped

KNN_TEMPERATURE = 0.07
# The ridges to choose from, in units of the features' mean variance.
RIDGES = 10.0 ** np.arange(-4, 5)
HELD_OUT = 4  # One video of so many chooses the ridge.
SPECTRUM = (1, 4, 16, 64)
RANK_EPSILON = 1e-7

Features = Float[np.ndarray, "_N D"]


class Labelled(NamedTuple):
    """Features of labelled faces.

    Attributes:
        features: One row for each face.
        fake: True for a fake face.
        videos: Name of each face's video.
    """

    features: Features
    fake: Bool[np.ndarray, " _N"]
    videos: Shaped[np.ndarray, " _N"]


class LinearScores(NamedTuple):
    """The output of the linear probe.

    Attributes:
        scores: Score of each tested face; above 0 means fake.
        ridge: The chosen ridge, one of `RIDGES`.
    """

    scores: Float64[np.ndarray, " _M"]
    ridge: float


def knn_scores(train: Labelled, tested: Features, *, k: int) -> Float64[np.ndarray, " _M"]:
    """Returns for each tested face the share of fake faces among its nearest faces of `train`.

    The features are centred by the mean of `train`. The k faces with the largest cosine similarity
    s vote with the weight exp(s / KNN_TEMPERATURE) (Wu et al., arXiv 1805.01978).

    Args:
        train: The faces that vote.
        tested: Features of the tested faces.
        k: Number of neighbours; at most all faces of `train` vote.
    """
    mean = train.features.mean(axis=0, dtype=np.float64)
    similarity = _unit_rows(tested - mean) @ _unit_rows(train.features - mean).T
    # A stable sort decides ties by the order of the faces.
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    similarity = np.take_along_axis(similarity, nearest, axis=1)
    weights = np.exp((similarity - similarity[:, :1]) / KNN_TEMPERATURE)
    return (weights * train.fake[nearest]).sum(axis=1) / weights.sum(axis=1)


def linear_scores(train: Labelled, tested: Features) -> LinearScores:
    """Fits a linear classifier with a ridge in closed form, and returns its scores.

    The targets are 1 for fake and -1 for real. The ridge is the one with the smallest squared error
    on `held_out` faces of `train`; then the classifier is fitted to all faces of `train`.

    Args:
        train: The faces to fit to, of both classes.
        tested: Features of the tested faces.
    """
    targets = np.where(train.fake, 1.0, -1.0)
    held = held_out(train)
    found = _ridge_outputs(train.features[~held], targets[~held], train.features[held])
    errors = np.square(found - targets[held]).mean(axis=1)
    best = int(errors.argmin())
    return LinearScores(
        _ridge_outputs(train.features, targets, tested)[best], ridge=float(RIDGES[best])
    )


def held_out(train: Labelled) -> Bool[np.ndarray, " _N"]:
    """Returns which faces choose the ridge: those of the last quarter of each class's videos.

    If a class has one video, its last frames are held out instead.
    """
    held = np.zeros(len(train.fake), bool)
    for of_class in (train.fake, ~train.fake):
        rows = np.flatnonzero(of_class)
        _, first, group = np.unique(train.videos[rows], return_index=True, return_inverse=True)
        order: Int64[np.ndarray, " _V"] = np.argsort(np.argsort(first))
        place = order[group] if len(first) > 1 else np.arange(len(rows))
        count = place.max() + 1
        held[rows] = place >= count - max(1, count // HELD_OUT)
    return held


def rankme(features: Features) -> float:
    """Returns the effective rank of features (RankMe, Garrido et al., arXiv 2210.02885).

    It is the exponential of the entropy of the singular values, from 1, if all faces have the same
    features, to the smaller of the numbers of faces and channels. The features are not centred: the
    noise around constant features would have a large rank.
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / values.sum() + RANK_EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spectrum(features: Features) -> dict[int, float]:
    """Returns the share of the variance in the largest n principal components, for n in SPECTRUM.

    All shares are NaN if all faces have the same features.
    """
    centred = features - features.mean(axis=0, dtype=np.float64)
    variances = np.square(np.linalg.svd(centred, compute_uv=False))
    total = variances.sum()
    return {n: float(variances[:n].sum() / total) if total else float("nan") for n in SPECTRUM}


def _ridge_outputs(
    features: Features, targets: Float64[np.ndarray, " _N"], tested: Features
) -> Float64[np.ndarray, "R _M"]:
    """Returns the outputs for the tested faces with each ridge; the intercept has no penalty."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    scale = max(float(np.sqrt(np.square(centred).mean())), 1e-12)
    left, values, right = np.linalg.svd(centred / scale, full_matrices=False)
    projected = left.T @ (targets - targets.mean())
    penalties = RIDGES[:, None] * len(features)
    weights = (values / (np.square(values) + penalties) * projected) @ right
    return weights @ ((tested - mean) / scale).T + targets.mean()


def _unit_rows(x: Float64[np.ndarray, "_N D"]) -> Float64[np.ndarray, "_N D"]:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
