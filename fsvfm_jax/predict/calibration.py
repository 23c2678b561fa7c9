"""The calibration of a detector: temperature, error and operating points, and calibration.json.

A score is p_fake = 1 / (1 + exp(-margin / T)) with the margin logit(fake) -
logit(real) and the temperature T. A score of at least a threshold is taken for fake. FPR is the
share of real videos that are taken for fake, TPR the share of fake videos that are found.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from etils import epath
from jaxtyping import Shaped
from msgspec import Meta

from fsvfm_jax.errors import ConfigError, DataError, nearest, reason_of
from fsvfm_jax.host.json_files import read_json
from fsvfm_jax.predict.points import (
    DEFAULT_POINTS,
    EER,
    FALSE_POSITIVE_RATES,
    Labels,
    OperatingPoint,
    PointName,
    Rate,
    Values,
    operating_points,
)
from fsvfm_jax.report.bootstrap import bootstrap_interval
from fsvfm_jax.report.metrics import (
    Interval,
    equal_error_rate,
    probability,
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
from fsvfm_jax.report.scores import encode_text
from fsvfm_jax.report.write import write_file

CALIBRATION_FILE = "calibration.json"
ROUNDING = 1e-9
MAX_TEXT = 500  # characters
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
MAX_BYTES = 2**20  # of calibration.json, which has about 2,000


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The content of calibration.json.

    Attributes:
        weights_sha256: SHA-256 of the detector (`networks.Encoder.sha256`).
        step: Step of the detector's training; None if unknown.
        view: How the faces were resized: one of `rand_augment.EVALUATION_TRANSFORMS`.
        face_detector: What found the faces, by the facts of the detector; None if unknown.
        crop_margin: Margin on each side of a face's box, by these facts; None if unknown.
        sets: Names of the sets that it was fitted on, with their folders.
        fingerprint: SHA-256 of the names, labels and sizes of the sets' files; None in older files.
        date: Date of the calibration (UTC), such as "2026-01-31".
        unit: What has a score for the thresholds: "video" (the mean of its faces), or "face" if no
            video of the sets has several faces.
        faces: Number of faces.
        real: Number of real videos, or faces.
        fake: Number of fake videos, or faces.
        temperature: T; 1 if the sets cannot determine it.
        temperature_note: Why the temperature is 1; "" if it was fitted.
        error_before: Expected calibration error of the faces' scores with T = 1.
        error_before_interval: Its 95 % interval over videos (`error_interval`).
        error_after: The same with the temperature, each half of the videos with the temperature
            that was fitted on the other half.
        error_after_interval: Its 95 % interval over videos (`error_interval`).
        equal_error_rate: EER over videos (or faces), interpolated.
        equal_error_rate_interval: Its 95 % interval (bootstrap).
        points: The operating points by their names.
    """

    weights_sha256: Sha256
    step: Annotated[int, Meta(ge=0)] | None
    view: Text
    face_detector: Text | None
    crop_margin: Annotated[float, Meta(ge=0, le=10)] | None
    sets: Annotated[list[Text], Meta(min_length=1, max_length=1000)]
    fingerprint: Sha256 | None = None
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]
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

    def __post_init__(self) -> None:
        """Raises ValueError if values contradict each other."""
        datetime.date.fromisoformat(self.date)
        _check_order("equal_error_rate", self.equal_error_rate_interval)
        for name in ("error_before", "error_after"):
            _check_order(name, getattr(self, f"{name}_interval"), value=getattr(self, name))
        last = 1.0
        for name, point in self.points.items():
            for rate in ("fpr", "tpr"):
                interval = getattr(point, f"{rate}_interval")
                _check_order(f"{name}: {rate}", interval, value=getattr(point, rate))
            if point.fpr is not None and point.fpr > FALSE_POSITIVE_RATES.get(name, 1):
                raise ValueError(f"{name} has the FPR {point.fpr:g}")
            if point.threshold == 0 and point.fpr not in (None, 1):
                raise ValueError(f"{name} has the threshold 0 and the FPR {point.fpr:g}")
        for name in FALSE_POSITIVE_RATES:  # from the lowest rate on
            threshold = self.points.get(name, OperatingPoint()).threshold
            if threshold is not None and threshold > last:
                raise ValueError(f"{name} has a higher threshold than a lower FPR")
            last = last if threshold is None else threshold
        if self.points.get(EER, OperatingPoint()).threshold is None:
            raise ValueError(f"it has no threshold {EER}")

    def point(self, name: str) -> OperatingPoint:
        """Returns the operating point of a name, which has a threshold.

        Args:
            name: The name that the user asks for.

        Raises:
            ConfigError: The name is unknown, or the sets could not determine this point.
        """
        if name not in self.points:
            raise ConfigError(f"there is no threshold {name!r}; {nearest(name, self.points)}")
        found = self.points[name]
        if found.threshold is None:
            known = [key for key, one in self.points.items() if one.threshold is not None]
            raise ConfigError(
                f"the threshold {name!r} is not determined ({found.note}): choose"
                f" {' or '.join(known) or 'a number'}, or take a larger set"
            )
        return found

    @property
    def default_point(self) -> str:
        """The name of the first of `DEFAULT_POINTS` that has a threshold, as `eer` always has."""
        known = (name for name in DEFAULT_POINTS if name in self.points)
        return next(name for name in known if self.points[name].threshold is not None)

    @property
    def measured_on(self) -> str:
        """What the rates of the operating points were measured on, in words."""
        return (
            f"{self.real:,} real and {self.fake:,} fake {self.unit}s of {joined_titles(self.sets)},"
            f" {self.date}"
        )


def _check_order(
    name: str, interval: tuple[float, float] | None, *, value: float | None = None
) -> None:
    """Raises ValueError unless an interval ascends and contains its value, as far as known."""
    if interval is None:
        return
    low, high = interval
    within = low if value is None else value
    if not low - ROUNDING <= within <= high + ROUNDING:
        raise ValueError(f"the interval of {name} is {list(interval)}")


def joined_titles(titles: Iterable[str]) -> str:
    """Returns the name of several sets together for readers; a name may contain commas."""
    return " and ".join(titles)


def calibrate(faces: ScoredFaces, *, about: Mapping[str, Any]) -> Calibration:
    """Returns the calibration of a detector on scored faces.

    Args:
        faces: The faces.
        about: The fields of `Calibration` from `weights_sha256` to `date`: the detector and the
            sets.

    Raises:
        DataError: A class is missing, a margin is not finite, or a video has both classes.
    """
    margins, fake, videos = faces
    fitted = fit_temperature(margins, fake)
    temperature = 1.0 if fitted is None else fitted
    before, after = probability(margins), held_out_probability(faces)
    of_videos = video_means(probability(margins / temperature), fake, videos)
    names, scores, fake_video = of_videos
    return Calibration(
        **about,
        unit="video" if len(names) < len(margins) else "face",
        faces=len(margins),
        real=int((~fake_video).sum()),
        fake=int(fake_video.sum()),
        temperature=temperature,
        temperature_note="" if fitted is not None else NO_TEMPERATURE,
        error_before=calibration_error(before, fake),
        error_before_interval=error_interval(before, fake, videos),
        error_after=calibration_error(after, fake),
        error_after_interval=error_interval(after, fake, videos),
        equal_error_rate=equal_error_rate(scores, fake_video),
        equal_error_rate_interval=bootstrap_interval(
            equal_error_rate, scores, fake_video, names, seed=BOOTSTRAP_SEED
        ),
        points=operating_points(scores, fake_video),
    )


def error_interval(p_fake: Values, fake: Labels, videos: Shaped[np.ndarray, " N"]) -> Interval:
    """Returns the 95 % interval of the expected calibration error over videos.

    The error of few faces is too large, because chance adds distance in every bin, and a bootstrap
    draw adds as much again. Therefore the interval of the draws is reflected at the error of the
    faces (basic bootstrap), and extended to contain it.

    Args:
        p_fake: Scores of faces, 0 to 1.
        fake: Whether each face is fake.
        videos: Name of each face's video.
    """
    error = calibration_error(p_fake, fake)
    draws = bootstrap_interval(calibration_error, p_fake, fake, videos, seed=BOOTSTRAP_SEED)
    low, high = 2 * error - draws.high, 2 * error - draws.low
    return Interval(min(max(low, 0.0), error), max(min(high, 1.0), error))


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes calibration.json into a folder, which is created if missing.

    Raises:
        StorageError: The file cannot be written.
    """
    write_file(epath.Path(folder), CALIBRATION_FILE, encode_calibration(calibration))


def encode_calibration(calibration: Calibration) -> bytes:
    """Returns the bytes of calibration.json."""
    return encode_text(json.dumps(asdict(calibration), indent=1, allow_nan=False) + "\n")


def read_calibration(file: Path) -> Calibration:
    """Reads a calibration.json.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return read_json(file, Calibration, max_bytes=MAX_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is no calibration of this program ({reason_of(error)}): make it again with"
            " `python -m fsvfm_jax.predict calibrate`"
        ) from error
