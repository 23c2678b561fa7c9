"""Turns the margins of a file's faces into scores, a decision and a record."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from fsvfm_jax.predict.calibration import EER, Calibration
from fsvfm_jax.predict.faces import CROPPED, FaceOptions, FileFaces, looks_whole
from fsvfm_jax.predict.records import Record
from fsvfm_jax.predict.thresholds import not_calibrated, number_of
from fsvfm_jax.report.metrics import probability

DEFAULT_THRESHOLD = 0.5
MIN_FACE = 40  # pixels, of the smallest face that dlib finds in a picture of usual size
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
        about: The threshold in words: its name, its FPR, and the set that it was chosen on.
    """

    score_name: str
    threshold: float
    threshold_name: str
    temperature: float | None
    unit: str | None = None
    about: str = ""


def decide_by(score_name: str, threshold: str | None, calibration: Calibration | None) -> Decision:
    """Returns how margins become scores and decisions.

    Args:
        score_name: "p_fake" or "p_spoof".
        threshold: A number from 0 to 1, or the name of an operating point; None is the operating
            point "eer", or 0.5 without a calibration.
        calibration: The calibration of the network, if there is one.

    Raises:
        ConfigError: The threshold is neither, or the calibration has no threshold of this name.
    """
    temperature = None if calibration is None else calibration.temperature
    if threshold is None and calibration is None:
        about = (
            f"threshold: {score_name} {DEFAULT_THRESHOLD}, because the model is not calibrated; the"
            " best threshold may be far from it, and `predict calibrate` finds one"
        )
        return Decision(score_name, DEFAULT_THRESHOLD, NOT_CALIBRATED, None, about=about)
    name = EER if threshold is None else threshold
    if (number := number_of(name)) is not None:
        about = f"threshold: {score_name} {number:.4g}, as given"
        return Decision(score_name, number, "given", temperature, about=about)
    if calibration is None:
        raise not_calibrated(name)
    point = calibration.point(name)
    fpr = "unknown" if point.fpr is None else f"{100 * point.fpr:.2g} %"
    sets = ", ".join([*calibration.sets, *calibration.folders])
    about = (
        f"threshold: {score_name} {point.threshold:.4g} ({name}), with an FPR of {fpr} on the"
        f" {calibration.real:,} real {calibration.unit}s of {sets}, {calibration.date}"
    )
    return Decision(score_name, point.threshold, name, temperature, calibration.unit, about)


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
        notes.append(f"{people} people, {decision.score_name} is the highest of theirs{more}")
    if found.faces and decision.unit:
        scored = "face" if found.faces[0].frame is None else "video"
        if scored != decision.unit:
            notes.append(
                f"the threshold is one of {decision.unit}s, this score is one of a {scored}"
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
