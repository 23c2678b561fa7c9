"""Measures how well global statistics alone separate fake from real, to check a benchmark.

If a linear model can read the labels of a forged set from such statistics, results on the set prove
nothing about faces. A set that the model ranks with an AUC over ARTEFACT_AUC, on forgeries it was
not fitted to, is an artefact test, and no claim is based on it. NumPy only.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt8

ARTEFACT_AUC = 0.9
_BLOCK = 8


class LogisticModel(NamedTuple):
    """A fitted model: log(p / (1 - p)) = intercept + (features - mean) / deviation @ weights."""

    mean: Float64[np.ndarray, " F"]
    deviation: Float64[np.ndarray, " F"]
    weights: Float64[np.ndarray, " F"]
    intercept: float


def highpass_statistics(
    images: Iterable[UInt8[np.ndarray, "H W 3"]],
) -> Float64[np.ndarray, "N F"]:
    """Returns, for each image, the energies of its high frequencies.

    The features are logarithms: of the energies of the 63 frequencies of the luminance's 8 x 8 DCT
    blocks; of the energies of each channel's differences along x, along y and along both, once and
    twice; and of the kurtosis of the last.

    Args:
        images: RGB, at least 8 x 8 pixels. The blocks omit rows and columns beyond a multiple of 8.
    """
    return np.stack([_statistics(image) for image in images])


def logistic_regression(
    features: Float64[np.ndarray, "N F"],
    positive: Bool[np.ndarray, " N"],
    *,
    ridge: float = 1.0,
    steps: int = 25,
) -> LogisticModel:
    """Fits a logistic regression on standardised features by Newton's method.

    Args:
        features: One row for each image; a feature that never varies has no effect.
        positive: Whether each image belongs to the class whose probability is modelled.
        ridge: Weight of half the squared norm of the weights, added to the sum of log losses.
        steps: Maximum number of Newton steps.
    """
    mean, deviation = features.mean(0), features.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    rows = np.column_stack([(features - mean) / deviation, np.ones(len(features))])
    penalty = np.diag(np.append(np.full(features.shape[1], ridge), 1e-9))
    beta = np.zeros(rows.shape[1])
    for _ in range(steps):
        p = 0.5 * (1 + np.tanh(0.5 * rows @ beta))
        slope = rows.T @ (p - positive) + penalty @ beta
        step = np.linalg.solve((rows.T * (p * (1 - p))) @ rows + penalty, slope)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return LogisticModel(mean, deviation, beta[:-1], float(beta[-1]))


def scores(model: LogisticModel, features: Float64[np.ndarray, "N F"]) -> Float64[np.ndarray, " N"]:
    """Returns the logit of each row; a higher logit means that the row is more likely positive."""
    return (features - model.mean) / model.deviation @ model.weights + model.intercept


def _statistics(image: UInt8[np.ndarray, "H W 3"]) -> Float64[np.ndarray, " F"]:
    pixels = image.astype(np.float64)
    rows, columns = (n // _BLOCK * _BLOCK for n in image.shape[:2])
    luminance = pixels[:rows, :columns] @ [0.299, 0.587, 0.114]
    blocks = luminance.reshape(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK).swapaxes(1, 2)
    basis = _dct_basis()
    energies = np.square(basis @ blocks @ basis.T).mean((0, 1)).ravel()[1:]
    residuals = [
        np.diff(np.diff(pixels, n=down, axis=0), n=across, axis=1)
        for down, across in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2))
    ]
    squares = np.array([np.square(one).mean((0, 1)) for one in residuals]).ravel()
    fourth = np.power(residuals[-1], 4).mean((0, 1)) / (np.square(squares[-3:]) + 1)
    return np.log(np.concatenate([energies, squares, fourth]) + 1e-2)


def _dct_basis() -> Float64[np.ndarray, "8 8"]:
    """Returns the orthonormal DCT-II basis: row k contains frequency k."""
    k, n = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)
    basis = np.sqrt(2 / _BLOCK) * np.cos(np.pi * (2 * n + 1) * k / (2 * _BLOCK))
    basis[0] /= np.sqrt(2)
    return basis
