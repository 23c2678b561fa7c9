"""The calibration of a detector: temperature, error and operating points, and calibration.json.

With NumPy only. A score is p_fake = 1 / (1 + exp(-margin / T)) with the margin logit(fake) -
logit(real) and the temperature T. A score of at least a threshold is taken for fake. FPR is the
share of real videos that are taken for fake, TPR the share of fake videos that are found.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64
from msgspec import Meta

from fsvfm_jax.errors import ConfigError, DataError, nearest, reason_of
from fsvfm_jax.host.json_files import read_json
from fsvfm_jax.report.metrics import (
    Interval,
    bootstrap_interval,
    equal_error_rate,
    probability,
    rates_at,
    roc,
    video_means,
)
from fsvfm_jax.report.reliability import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    NO_TEMPERATURE,
    ScoredFaces,
    calibration_error,
    fit_temperature,
    held_out_probability,
)
from fsvfm_jax.report.rows import BOOTSTRAP_SEED
from fsvfm_jax.report.write import write_file

CALIBRATION_FILE = "calibration.json"
# The largest FPR of each operating point. "eer" is the point where FPR and 1 - TPR are nearest.
FALSE_POSITIVE_RATES = {"fpr_0.1": 0.001, "fpr_1": 0.01, "fpr_5": 0.05}
EER = "eer"
PointName = Literal["fpr_0.1", "fpr_1", "fpr_5", "eer"]
Values = Float64[np.ndarray, " N"]
Labels = Bool[np.ndarray, " N"]
Rate = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1, max_length=500)]


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


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The content of calibration.json.

    Attributes:
        weights_sha256: SHA-256 of the detector's parameters (`networks.Encoder.sha256`).
        sets: Names of the sets that it was fitted on.
        view: How the faces were resized: one of `rand_augment.EVALUATION_TRANSFORMS`.
        unit: What has a score for the thresholds: "video" (the mean of its faces), or "face" if no
            video of the sets has several faces.
        faces: Number of faces.
        real: Number of real videos, or faces.
        fake: Number of fake videos, or faces.
        temperature: T; 1 if the sets cannot determine it.
        temperature_note: Why the temperature is 1; "" if it was fitted.
        error_before: Expected calibration error of the faces' scores with T = 1.
        error_before_interval: Its 95 % interval over videos (bootstrap).
        error_after: The same with the temperature, each half of the videos with the temperature
            that was fitted on the other half.
        error_after_interval: Its 95 % interval over videos (bootstrap).
        equal_error_rate: EER over videos (or faces), interpolated.
        equal_error_rate_interval: Its 95 % interval (bootstrap).
        points: The operating points by their names.
    """

    weights_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    sets: Annotated[list[Text], Meta(min_length=1, max_length=1000)]
    view: Text
    unit: Literal["video", "face"]
    faces: Annotated[int, Meta(ge=1)]
    real: Annotated[int, Meta(ge=1)]
    fake: Annotated[int, Meta(ge=1)]
    temperature: Annotated[float, Meta(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)]
    temperature_note: Annotated[str, Meta(max_length=500)]
    error_before: Rate
    error_before_interval: tuple[Rate, Rate]
    error_after: Rate
    error_after_interval: tuple[Rate, Rate]
    equal_error_rate: Rate
    equal_error_rate_interval: tuple[Rate, Rate]
    points: dict[PointName, OperatingPoint]

    def point(self, name: str) -> OperatingPoint:
        """Returns the operating point of a name, as `require_point` does."""
        return require_point(self.points, name)


def require_point(points: Mapping[str, OperatingPoint], name: str) -> OperatingPoint:
    """Returns the operating point of a name, which has a threshold.

    Args:
        points: The operating points by name.
        name: The name that the user asks for.

    Raises:
        ConfigError: The name is unknown, or the sets could not determine this point.
    """
    if name not in points:
        raise ConfigError(f"there is no threshold {name!r}; {nearest(name, points)}")
    if points[name].threshold is None:
        known = [key for key, one in points.items() if one.threshold is not None]
        raise ConfigError(
            f"the threshold {name!r} is not determined ({points[name].note}): choose"
            f" {' or '.join(known) or 'a number'}, or take a larger set"
        )
    return points[name]


def operating_points(scores: Values, fake: Labels) -> dict[str, OperatingPoint]:
    """Returns the operating point of each `PointName`.

    The threshold of an FPR is the lowest at which no larger share of the real videos is taken for
    fake. It lies in the middle between a score and the next lower one.

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
            points[name] = point_at(scores, fake, _between(curve.thresholds, place))
    # The first point has no threshold, because nothing reaches it.
    place = 1 + int(np.argmin(np.abs(curve.fpr - (1 - curve.tpr))[1:]))
    return points | {EER: point_at(scores, fake, _between(curve.thresholds, place))}


def too_few(name: str, *, real: int) -> str:
    """Returns why a number of real videos cannot determine an operating point, or ""."""
    largest = FALSE_POSITIVE_RATES.get(name)
    if largest is None or real * largest >= 1 - 1e-9:
        return ""
    needed = round(1 / largest)
    return f"an FPR of {100 * largest:g} % needs {needed:,} real ones; there are {real:,}"


def point_at(scores: Values, fake: Labels, threshold: float | int) -> OperatingPoint:
    """Returns FPR and TPR of a threshold with their intervals.

    Args:
        scores: p_fake of videos, or of faces where these are no frames of videos.
        fake: Whether each is fake. If there is none of a class, its rate is None.
        threshold: A score of at least this is taken for fake.
    """
    rates = rates_at(scores, fake, threshold)
    return OperatingPoint(threshold=float(threshold), **rates)


def calibrate(
    faces: ScoredFaces, *, weights_sha256: str, sets: list[str], view: str
) -> Calibration:
    """Returns the calibration of a detector on scored faces.

    Args:
        faces: The faces.
        weights_sha256: As in `Calibration`.
        sets: As in `Calibration`.
        view: As in `Calibration`.

    Raises:
        DataError: A class is missing, a margin is not finite, or a video has both classes.
    """
    margins, fake, videos = faces
    fitted = fit_temperature(margins, fake)
    temperature = 1.0 if fitted is None else fitted
    before, after = probability(margins), held_out_probability(faces)
    of_videos = video_means(probability(margins / temperature), fake, videos)
    names, scores, fake_video = of_videos

    def interval(metric, *columns) -> Interval:
        return bootstrap_interval(metric, *columns, seed=BOOTSTRAP_SEED)

    return Calibration(
        weights_sha256=weights_sha256,
        sets=sets,
        view=view,
        unit="video" if len(names) < len(margins) else "face",
        faces=len(margins),
        real=int((~fake_video).sum()),
        fake=int(fake_video.sum()),
        temperature=temperature,
        temperature_note="" if fitted is not None else NO_TEMPERATURE,
        error_before=calibration_error(before, fake),
        error_before_interval=interval(calibration_error, before, fake, videos),
        error_after=calibration_error(after, fake),
        error_after_interval=interval(calibration_error, after, fake, videos),
        equal_error_rate=equal_error_rate(scores, fake_video),
        equal_error_rate_interval=interval(equal_error_rate, scores, fake_video, names),
        points=operating_points(scores, fake_video),
    )


def write_calibration(folder: epath.PathLike, calibration: Calibration) -> None:
    """Writes calibration.json into a folder, which is created if missing.

    Raises:
        StorageError: The file cannot be written.
    """
    text = json.dumps(asdict(calibration), indent=1, allow_nan=False) + "\n"
    write_file(epath.Path(folder), CALIBRATION_FILE, text.encode())


def read_calibration(file: Path, *, weights_sha256: str) -> Calibration:
    """Reads a calibration.json.

    Args:
        file: The file.
        weights_sha256: SHA-256 of the parameters that are in use.

    Raises:
        DataError: The file is missing or damaged, or was made for other weights.
    """
    try:
        found = read_json(file, Calibration)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is no calibration of this program ({reason_of(error)}): make it again with"
            " `python -m fsvfm_jax.predict calibrate`"
        ) from error
    if found.weights_sha256 != weights_sha256:
        raise DataError(
            f"{file} was made for other weights (SHA-256 {found.weights_sha256[:12]}..., not"
            f" {weights_sha256[:12]}...): make it again with"
            " `python -m fsvfm_jax.predict calibrate`"
        )
    return found


def _between(thresholds: Float64[np.ndarray, " P"], place: int) -> float:
    """Returns the middle of a threshold and the next lower one, if rounding leaves it above that.

    A score that is computed again may differ in its last digits, and stays on its side.
    """
    upper = float(thresholds[place])
    if place + 1 == len(thresholds):
        return upper
    lower = float(thresholds[place + 1])
    middle = (upper + lower) / 2
    return middle if middle > lower else upper
