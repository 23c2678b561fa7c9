"""How well p_fake agrees with the share of fake faces: temperature and expected calibration error.

With NumPy only. p_fake is `metrics.probability` of margin / T, with the margin logit(fake) -
logit(real) and the temperature T.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from fsvfm_jax.report.metrics import check_classes, probability

BINS = 15  # of equal width over p_fake from 0 to 1
# Outside this range a temperature says that the set cannot determine it: the scores of both classes
# are apart, or have nothing to do with the classes.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.02, 50.0
_HALVINGS = 100
NO_TEMPERATURE = (
    "the set does not determine a temperature, because its scores separate the classes without an"
    " error or do not depend on them"
)

Values = Float64[np.ndarray, " N"]
Labels = Bool[np.ndarray, " N"]


class ScoredFaces(NamedTuple):
    """The faces of one or more sets that a detector has scored.

    Attributes:
        margins: logit(fake) - logit(real) of each face.
        fake: Whether each face is fake.
        videos: Name of each face's video; the names of two sets differ.
    """

    margins: Values
    fake: Labels
    videos: Shaped[np.ndarray, " N"]


class Bins(NamedTuple):
    """The faces in bins of equal width over p_fake; the rates of an empty bin are 0.

    Attributes:
        counts: Number of faces.
        mean_score: Mean p_fake of the faces.
        fake_share: Share of fake faces.
    """

    counts: Int64[np.ndarray, " K"]
    mean_score: Float64[np.ndarray, " K"]
    fake_share: Float64[np.ndarray, " K"]


def fit_temperature(margins: Values, fake: Labels) -> float | None:
    """Returns the temperature with the least mean cross-entropy of margin / T.

    The cross-entropy is convex in 1 / T, so its slope has one zero, which halving an interval
    finds.

    Args:
        margins: Margins of faces, finite.
        fake: Whether each face is fake.

    Returns:
        The temperature, or None if it is below MIN_TEMPERATURE or above MAX_TEMPERATURE: the
        smaller the T the better where a threshold separates the classes without an error, and the
        larger the T the better where the margins say nothing of the classes.

    Raises:
        DataError: A margin is not finite, or a class is missing.
    """
    check_classes(margins, fake)
    right = np.where(fake, margins, -margins)  # positive where the sign of the margin is right

    def slope(inverse: float) -> float:
        # of the mean of log(1 + exp(-inverse * right)); exp of a clipped number is finite
        return float(np.mean(-right / (1 + np.exp(np.clip(inverse * right, -700, 700)))))

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def reliability(p_fake: Values, fake: Labels, *, bins: int = BINS) -> Bins:
    """Returns the faces in bins of equal width over p_fake; the last one contains 1.

    Args:
        p_fake: Scores of faces, 0 to 1.
        fake: Whether each face is fake.
        bins: Number of bins.
    """
    index = np.minimum((p_fake * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    several = np.maximum(counts, 1)
    return Bins(
        counts,
        np.bincount(index, p_fake, minlength=bins) / several,
        np.bincount(index, fake, minlength=bins) / several,
    )


def calibration_error(p_fake: Values, fake: Labels) -> float:
    """Returns the expected calibration error of p_fake in BINS bins of equal width.

    It is the mean over faces of |mean p_fake - share of fake faces| of the face's bin.

    Args:
        p_fake: Scores of faces, 0 to 1.
        fake: Whether each face is fake.
    """
    found = reliability(p_fake, fake)
    gaps = np.abs(found.mean_score - found.fake_share)
    return float(found.counts @ gaps / found.counts.sum())


def held_out_probability(faces: ScoredFaces) -> Values:
    """Returns p_fake of each half of the videos at the temperature fitted on the other half.

    Every other real video and every other fake video, in the order of their names, is one half. A
    half that does not determine a temperature gives 1.

    Args:
        faces: The faces.

    Raises:
        DataError: A class is missing.
    """
    margins, fake, videos = faces
    check_classes(margins, fake)
    second = np.zeros(len(margins), bool)
    for label in (False, True):
        of_class = fake == label
        _, index = np.unique(videos[of_class], return_inverse=True)
        second[of_class] = index % 2 == 1
    found = np.empty(len(margins))
    for half in (second, ~second):
        other = ~half
        both = len(np.unique(fake[other])) == 2
        fitted = fit_temperature(margins[other], fake[other]) if both else None
        found[half] = probability(margins[half] / (fitted or 1.0))
    return found
