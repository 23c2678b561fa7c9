"""Turns the margins of a file's faces into scores, a decision and a record."""

import itertools
import logging
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fsvfm_jax.predict.calibration import Calibration
from fsvfm_jax.predict.faces import CROPPED, FaceOptions, FileFaces, looks_whole
from fsvfm_jax.predict.records import Record
from fsvfm_jax.predict.thresholds import not_calibrated, number_of
from fsvfm_jax.report.metrics import probability

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5
MIN_FACE = 40  # pixels, of the smallest face that dlib finds in a picture of usual size
MAX_FPR = 0.05  # above this, a warning names the false alarms
LONG_GAP = 1  # seconds between scored frames, during which a scene may change
NOT_CALIBRATED = "not calibrated"


class Decision(NamedTuple):
    """How a margin becomes a score and a decision.

    Attributes:
        score_name: "p_fake" or "p_spoof".
        threshold: A score of at least this is decided to be fake, or spoof.
        threshold_name: Where the threshold comes from.
        temperature: Margins are divided by it; None without a calibration.
        unit: What the threshold was chosen on, as `Calibration.unit`; None if it is not from a
            calibration.
        fpr: Share of real videos (or faces) that are decided to be fake; None if not known.
        fpr_interval: Its 95 % interval.
        measured_on: What the FPR was measured on, with the date, as `Calibration.measured_on`.
    """

    score_name: str
    threshold: float
    threshold_name: str
    temperature: float | None
    unit: str | None = None
    fpr: float | None = None
    fpr_interval: tuple[float, float] | None = None
    measured_on: str = ""

    @property
    def about(self) -> str:
        """The threshold in words: its value and name, its FPR, and the set that it is of."""
        value = f"threshold: {self.score_name} {self.threshold:.4g}"
        if self.threshold_name == NOT_CALIBRATED:
            return (
                f"{value}, because the model is not calibrated; the best threshold may be far from"
                " it, and `predict calibrate` finds one"
            )
        if self.unit is None:
            return f"{value}, as given; its FPR is not known"
        fpr = "not known" if self.fpr is None else f"{100 * self.fpr:.2g} %"
        if self.fpr_interval is not None:
            low, high = self.fpr_interval
            fpr += f" [{100 * low:.2g}, {100 * high:.2g}]"
        return f"{value} ({self.threshold_name}), FPR {fpr} on {self.measured_on}"

    @property
    def warning(self) -> str | None:
        """A warning if over 5 % of the real videos are decided to be fake, otherwise None."""
        if self.fpr is None or self.fpr <= MAX_FPR:
            return None
        return (
            f"about {100 * self.fpr:.2g} of 100 real {self.unit}s are decided to be"
            f" {self.score_name.removeprefix('p_')} at the threshold {self.threshold_name}"
        )

    def fpr_of(self, people: int) -> float | None:
        """Returns the FPR of the highest score of several real people; None if not known.

        Args:
            people: Their number. Their scores are taken to be independent.
        """
        return None if self.fpr is None else 1 - (1 - self.fpr) ** people


def decide_by(
    score_name: str, threshold: str | None, *, calibration: Calibration | None
) -> Decision:
    """Returns how margins become scores and decisions, and warns of many false alarms.

    Args:
        score_name: "p_fake" or "p_spoof".
        threshold: A number from 0 to 1, or the name of an operating point; None is
            `Calibration.default_point`, or 0.5 without a calibration.
        calibration: The calibration of the network, if there is one.

    Raises:
        ConfigError: The threshold is neither, or the calibration has no threshold of this name.
    """
    temperature = None if calibration is None else calibration.temperature
    if threshold is None and calibration is None:
        return Decision(score_name, DEFAULT_THRESHOLD, NOT_CALIBRATED, None)
    name = calibration.default_point if threshold is None else threshold
    if (number := number_of(name)) is not None:
        return Decision(score_name, number, "given", temperature)
    if calibration is None:
        raise not_calibrated(name)
    point = calibration.point(name)
    found = Decision(
        score_name,
        point.threshold,
        name,
        temperature,
        calibration.unit,
        point.fpr,
        point.fpr_interval,
        calibration.measured_on,
    )
    if found.warning is not None:
        logger.warning("%s", found.warning)
    return found


def make_record(
    path: str,
    found: FileFaces,
    *,
    margins: Float64[np.ndarray, " N"],
    options: FaceOptions,
    decision: Decision,
) -> Record:
    """Returns the record of a file, which `json` can write.

    Args:
        path: The file.
        found: Its faces.
        margins: The margin of each face.
        options: How the faces were found.
        decision: How margins become scores and decisions.
    """
    name = decision.score_name
    scores = probability(margins / (decision.temperature or 1.0))
    tracks = np.array([face.track for face in found.faces], np.int64)
    people = [
        # As in evaluation, the score of a video is the mean of its frames' probabilities.
        {
            "track": int(track),
            name: float(scores[tracks == track].mean()),
            "frames": int((tracks == track).sum()),
        }
        for track in np.unique(tracks)
    ]
    score = max((person[name] for person in people), default=None)
    positive = name.removeprefix("p_")
    decided = None if score is None else positive if score >= decision.threshold else "real"
    faces = [
        {
            "box": list(face.box),
            "score": face.score,
            name: float(of_face),
            "frame": face.frame,
            "time": face.seconds,
            "track": face.track,
        }
        for face, of_face in zip(found.faces, scores, strict=True)
    ]
    return {
        "path": path,
        name: score,
        "decision": decided,
        "threshold": {"value": decision.threshold, "name": decision.threshold_name},
        "temperature": decision.temperature,
        "frames": found.frames,
        "searched_at": found.searched_at,
        "people": people,
        "faces": faces,
        "note": _note(found, people=len(people), options=options, decision=decision),
        "error": found.error,
    }


def _note(found: FileFaces, *, people: int, options: FaceOptions, decision: Decision) -> str | None:
    if found.error is not None:
        return None
    notes = []
    if not found.faces:
        notes.append("no face found" + " in the picture" * (found.outside > 0))
    if found.outside:
        notes.append(f"left out because the box is outside the picture: {found.outside}")
    if options.faces == "largest" and found.most > 1:
        is_video = found.frames > 1
        faces = f"up to {found.most} faces found in a frame" if is_video else f"{found.most} faces"
        notes.append(f"{faces}, the largest one is scored")
    notes += _notes_of_search(found, options)
    if people > 1:
        more = ", so the FPR is above that of the threshold" if decision.unit else ""
        if fpr := decision.fpr_of(people):
            more += f": about {100 * fpr:.2g} % in place of {100 * decision.fpr:.2g} %"
        notes.append(f"{people} people, {decision.score_name} is the highest of theirs{more}")
    if found.faces and decision.unit:
        scored = "face" if found.faces[0].frame is None else "video"
        if scored != decision.unit:
            notes.append(
                "the threshold was chosen for means of several faces; the score of a single face"
                " varies more, so its FPR is higher"
                if scored == "face"
                else "the threshold was chosen for single faces; this score is the mean of several,"
                " so its FPR is another"
            )
    times = [face.seconds for face in found.faces if face.seconds is not None]
    gap = max((later - one for one, later in itertools.pairwise(times)), default=0)
    if gap > LONG_GAP:
        notes.append(
            f"up to {gap:.0f} s between frames: whoever takes a person's place in the picture"
            " counts as the same person"
        )
    return "; ".join(notes) or None


def _notes_of_search(found: FileFaces, options: FaceOptions) -> list[str]:
    """Returns what a reader should know of the size at which faces were searched or taken."""
    is_reduced = found.searched_at is not None and found.searched_at < 1
    # Faces that are too small to be found do not matter if the largest face is scored.
    if is_reduced and (options.faces == "all" or not found.faces):
        return [
            f"searched at {found.searched_at:.2g} of its size, where faces below about"
            f" {MIN_FACE / found.searched_at:.0f} pixels are not found: cut the picture into parts"
            " to find them"
        ]
    if options.detector == CROPPED and any(looks_whole(face.box) for face in found.faces):
        box = found.faces[0].box
        return [
            f"{box.right} x {box.bottom} pixels look like a whole photograph, and not like a crop"
            " of a face: leave out --cropped to find the faces"
        ]
    return []
