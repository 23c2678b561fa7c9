"""A calibration of invented numbers."""

from fsvfm_jax.predict.calibration import Calibration
from fsvfm_jax.predict.points import OperatingPoint

CALIBRATION = Calibration(
    weights_sha256="0" * 64,
    step=None,
    view="resize",
    face_detector=None,
    crop_margin=None,
    sets=["x"],
    date="2026-11-29",
    unit="video",
    faces=100,
    real=50,
    fake=50,
    temperature=2.5,
    temperature_note="",
    error_before=0.2,
    error_before_interval=(0.1, 0.3),
    error_after=0.1,
    error_after_interval=(0.05, 0.2),
    equal_error_rate=0.1,
    equal_error_rate_interval=(0.05, 0.2),
    points={
        "eer": OperatingPoint(threshold=0.25),
        "fpr_5": OperatingPoint(threshold=0.7),
        "fpr_1": OperatingPoint(note="an FPR of 1 % needs 100 real ones"),
    },
)
