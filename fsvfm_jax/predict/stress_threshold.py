"""The threshold of a stress test, which is fixed for all degradations."""

import logging
from typing import NamedTuple

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict.calibration import CALIBRATION_FILE, Calibration
from fsvfm_jax.predict.decision import decide_by
from fsvfm_jax.predict.labelled import LabelledSets
from fsvfm_jax.predict.points import EER, POINTS, operating_points, too_few
from fsvfm_jax.report.metrics import video_means
from fsvfm_jax.report.scores import Scores

logger = logging.getLogger(__name__)

SAME_SET = (
    "The threshold was chosen on these same faces: without a degradation TPR and FPR are better"
    " than on new faces"
)


class Threshold(NamedTuple):
    """The threshold of a stress test.

    Attributes:
        name: Name of the operating point, or the number.
        value: The threshold; None if the sets do not determine it.
        origin: Where it comes from, or why it is not determined.
        temperature: Margins are divided by it.
        is_of_same_set: Whether it was chosen on the faces that are degraded.
    """

    name: str
    value: float | None
    origin: str
    temperature: float
    is_of_same_set: bool = False


def threshold_before_scoring(
    name: str | None, sets: LabelledSets, *, stored: Calibration | None, score_name: str
) -> Threshold | None:
    """Returns the threshold before the scoring, or None if it is one of the same sets.

    Args:
        name: A number, or the name of an operating point; None for the default.
        sets: The sets.
        stored: The calibration of the detector, if there is one.
        score_name: "p_fake" or "p_spoof".

    Raises:
        ConfigError: The flags ask for what the sets or the calibration do not determine.
    """
    if stored is None and name in POINTS:
        real = len({video for video, is_real in sets.videos() if is_real})
        if note := too_few(name, real=real):
            raise ConfigError(
                f"--threshold={name} is not determined ({note}): choose"
                f" --threshold={EER}, or calibrate the model on a larger set"
            )
        logger.warning("%s", SAME_SET)
        return None
    found = decide_by(score_name, name, calibration=stored)
    if found.unit is None:
        number = f"{found.threshold:g}"
        return Threshold(number, found.threshold, found.threshold_name, found.temperature or 1.0)
    origin = f"of {CALIBRATION_FILE}, chosen on {found.measured_on}"
    is_of_same_set = stored.fingerprint == sets.fingerprint()
    if is_of_same_set:
        logger.warning("%s", SAME_SET)
    return Threshold(
        found.threshold_name, found.threshold, origin, found.temperature, is_of_same_set
    )


def own_threshold(scores: Scores, *, name: str) -> Threshold:
    """Returns an operating point of the undegraded faces.

    Args:
        scores: The scores of the undegraded faces, at the temperature 1.
        name: Name of the operating point.
    """
    videos = video_means(scores.p_fake, scores.fake, scores.videos)
    point = operating_points(videos.scores, videos.positive)[name]
    if point.threshold is None:
        logger.warning("TPR and FPR are left out: %s is not determined, %s", name, point.note)
        return Threshold(name, None, point.note, 1.0)
    origin = "of the same sets without degradation"
    return Threshold(name, point.threshold, origin, 1.0, is_of_same_set=True)
