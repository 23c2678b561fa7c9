"""The operating points of a detector: thresholds, with the rates that they have on a set.

A score of at least a threshold is taken for fake. FPR is the share of real videos that are taken
for fake, TPR the share of fake videos that are found.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64
from msgspec import Meta

from fsvfm_jax.report.metrics import (
    equal_error_threshold,
    rates_at,
    roc,
    threshold_below,
)

# The names of the operating points. The number is the largest FPR in percent; "eer" is the point
# where FPR and 1 - TPR are nearest.
PointName = Literal["fpr_0.1", "fpr_1", "fpr_5", "eer"]
POINTS = get_args(PointName)
EER = "eer"
FALSE_POSITIVE_RATES = {
    name: float(name.removeprefix("fpr_")) / 100 for name in POINTS if name != EER
}
# The operating points that are taken by default, the first one that the set determines.
DEFAULT_POINTS = ("fpr_1", "fpr_5", EER)
Values = Float64[np.ndarray, " N"]
Labels = Bool[np.ndarray, " N"]
Rate = Annotated[float, Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold, and what it does on the set that it was chosen on.

    Attributes:
        threshold: A score of at least this is taken for fake; None if the set cannot determine it.
        fpr: Share of the real videos that are taken for fake.
        tpr: Share of the fake videos that are found.
        fpr_interval: 95 % interval of the FPR (`metrics.rate_interval`).
        tpr_interval: 95 % interval of the TPR.
        note: Why there is no threshold; "" if there is one.
    """

    threshold: Rate | None = None
    fpr: Rate | None = None
    tpr: Rate | None = None
    fpr_interval: tuple[Rate, Rate] | None = None
    tpr_interval: tuple[Rate, Rate] | None = None
    note: Annotated[str, Meta(max_length=500)] = ""


def operating_points(scores: Values, fake: Labels) -> dict[str, OperatingPoint]:
    """Returns the operating point of each `PointName`.

    The threshold of a rate is the lowest threshold at which the FPR is at most this rate. It lies
    in the middle between a score and the next lower one.

    Args:
        scores: p_fake of videos, or of faces where these are no frames of videos.
        fake: Whether each is fake.

    Raises:
        DataError: A class is missing, or a score is not finite.
    """
    curve = roc(scores, fake)
    real = int((~fake).sum())
    points = {}
    for name, largest in FALSE_POSITIVE_RATES.items():
        place = int(np.searchsorted(curve.fpr, largest, side="right")) - 1
        if note := too_few(name, real=real):
            points[name] = OperatingPoint(note=note)
        elif place == 0:
            note = f"over {100 * largest:g} % of the real ones share the highest score"
            points[name] = OperatingPoint(note=note)
        else:
            points[name] = point_at(
                scores, fake, threshold=threshold_below(curve.thresholds, place)
            )
    return points | {EER: point_at(scores, fake, threshold=equal_error_threshold(scores, fake))}


def too_few(name: str, *, real: int) -> str:
    """Returns why a number of real videos cannot determine an operating point, or ""."""
    largest = FALSE_POSITIVE_RATES.get(name)
    if largest is None or real * largest >= 1 - 1e-9:
        return ""
    needed = round(1 / largest)
    return f"an FPR of {100 * largest:g} % needs {needed:,} real ones; there are {real:,}"


def point_at(scores: Values, fake: Labels, *, threshold: float | int) -> OperatingPoint:
    """Returns FPR and TPR of a threshold with their intervals.

    Args:
        scores: p_fake of videos, or of faces where these are no frames of videos.
        fake: Whether each is fake. The rate of a class without videos is None.
        threshold: A score of at least this is taken for fake.
    """
    rates = rates_at(scores, fake, threshold)
    return OperatingPoint(threshold=float(threshold), **rates)
