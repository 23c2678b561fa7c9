"""Tests the record of a file: its score, people, decision and notes."""

import dataclasses
import json
import logging
from typing import Any

import numpy as np
import pytest
from stored_calibration import CALIBRATION

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.predict.calibration import Calibration
from fsvfm_jax.predict.decision import NOT_CALIBRATED, Decision, decide_by, make_record
from fsvfm_jax.predict.faces import Face, FaceOptions, FileFaces, unreadable
from fsvfm_jax.predict.points import OperatingPoint
from fsvfm_jax.prepare.crops import Box
from fsvfm_jax.report.metrics import probability, video_means

DECISION = Decision("p_fake", 0.5, "given", None)
ALL = FaceOptions("dlib", 0.15, "all", 32, 16, "resize")
LARGEST = ALL._replace(faces="largest")
PIXELS = np.zeros((16, 16, 3), np.uint8)


def found(*tracks: int, frames: int | None = None, **changes: Any) -> FileFaces:
    """Returns a face per track, in a photograph or in the frames of a video."""
    faces = [
        Face(PIXELS, Box(0, 0, 9, 9), 1.0, None if frames is None else number, None, track)
        for number, track in enumerate(tracks)
    ]
    return FileFaces(faces, frames or 1, 1, 0, None, 0.0)._replace(**changes)


def record(faces: FileFaces, *margins: float | int, options: FaceOptions = ALL, **changes: Any):
    made = make_record(
        "v.mp4",
        faces,
        margins=np.array(margins, float),
        options=options,
        decision=DECISION._replace(**changes),
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    return made


def test_the_score_of_a_video_is_that_of_an_evaluation() -> None:
    margins = np.array([3.0, -1.0, 0.5])
    of_video = video_means(probability(margins), np.ones(3, bool), np.array(["v"] * 3))
    made = record(found(0, 0, 0, frames=3), *margins.tolist())
    assert made["p_fake"] == pytest.approx(of_video.scores[0], abs=1e-15)
    assert made["decision"] == "fake" and made["frames"] == 3
    assert made["people"] == [{"track": 0, "p_fake": made["p_fake"], "frames": 3}]
    assert [face["p_fake"] for face in made["faces"]] == probability(margins).tolist()
    assert made["note"] is None and made["error"] is None


def test_people_are_not_averaged() -> None:
    made = record(found(0, 1, 0, 1, frames=2), -4, 2, -4, 1)
    real, fake = probability(np.array([-4.0]))[0], probability(np.array([2.0, 1.0])).mean()
    assert made["people"] == [
        {"track": 0, "p_fake": pytest.approx(real), "frames": 2},
        {"track": 1, "p_fake": pytest.approx(fake), "frames": 2},
    ]
    assert made["p_fake"] == made["people"][1]["p_fake"] and made["decision"] == "fake"
    assert made["note"] == "2 people, p_fake is the highest of theirs"


def test_a_score_of_the_threshold_is_fake() -> None:
    assert record(found(0), 0)["decision"] == "fake"
    assert record(found(0), -1e-9)["decision"] == "real"
    assert record(found(0), -1e-9, threshold=0.0)["decision"] == "fake"


def test_a_temperature_divides_margins() -> None:
    made = record(found(0), 3, temperature=2.0)
    assert made["p_fake"] == probability(np.array([1.5]))[0] and made["temperature"] == 2.0


def test_spoofs_have_their_own_names() -> None:
    made = record(found(0), 3, score_name="p_spoof")
    assert made["decision"] == "spoof" and "p_fake" not in json.dumps(made)
    assert made["p_spoof"] == made["faces"][0]["p_spoof"] == made["people"][0]["p_spoof"]
    assert record(found(0), -3, score_name="p_spoof")["decision"] == "real"


def test_no_face_is_reported() -> None:
    made = record(found())
    assert (made["p_fake"], made["decision"], made["error"]) == (None, None, None)
    assert made["note"] == "no face found" and made["faces"] == made["people"] == []


def test_several_faces_are_told_if_one_is_scored() -> None:
    assert record(found(0, most=3), 1, options=LARGEST)["note"] == (
        "3 faces, the largest one is scored"
    )
    assert record(found(0, frames=2, most=3), 1, options=LARGEST)["note"] == (
        "up to 3 faces found in a frame, the largest one is scored"
    )
    assert record(found(0, 1, most=2), 1, 1)["note"] == "2 people, p_fake is the highest of theirs"
    outside = record(found(outside=1))["note"]
    assert outside == (
        "no face found in the picture; left out because the box is outside the picture: 1"
    )


def test_frames_far_apart_are_reported() -> None:
    def note(*seconds: float) -> str | None:
        faces = found(*[0] * len(seconds), frames=len(seconds))
        timed = [one._replace(seconds=at) for one, at in zip(faces.faces, seconds, strict=True)]
        return record(faces._replace(faces=timed), *[1] * len(seconds))["note"]

    assert note(0.0, 0.5, 1.5) is None
    assert note(0.0, 20.0, 25.0) == (
        "up to 20 s between frames: whoever takes a person's place in the picture counts as the"
        " same person"
    )


def test_a_threshold_that_was_chosen_on_something_else_is_reported() -> None:
    of_videos = (
        "the threshold was chosen for means of several faces; the score of a single face varies"
        " more, so its FPR is higher"
    )
    assert record(found(0), 1, unit="video")["note"] == of_videos
    assert record(found(0, 0, frames=2), 1, 1, unit="video")["note"] is None
    of_faces = (
        "the threshold was chosen for single faces; this score is the mean of several, so its FPR"
        " is another"
    )
    assert record(found(0, 0, frames=2), 1, 1, unit="face")["note"] == of_faces
    assert record(found(0), 1, unit="face")["note"] is None
    assert record(found(), unit="video")["note"] == "no face found"
    two = record(found(0, 1, frames=2), 1, 1, unit="video")["note"]
    assert two == (
        "2 people, p_fake is the highest of theirs, so the FPR is above that of the threshold"
    )


def test_an_unreadable_file_has_a_reason() -> None:
    made = record(unreadable("it is damaged"))
    assert (made["error"], made["note"], made["p_fake"]) == ("it is damaged", None, None)
    assert made["decision"] is None and made["frames"] == 0


def decide(threshold: str | None, calibration: Calibration | None) -> Decision:
    return decide_by("p_fake", threshold, calibration=calibration)


def test_thresholds() -> None:
    assert decide(None, None) == DECISION._replace(threshold_name=NOT_CALIBRATED)
    assert decide("0.3", None)[:5] == ("p_fake", 0.3, "given", None, None)
    assert decide("0.3", CALIBRATION)[:5] == ("p_fake", 0.3, "given", 2.5, None)
    assert decide("eer", CALIBRATION)[:5] == ("p_fake", 0.25, "eer", 2.5, "video")
    assert decide(None, CALIBRATION)[:5] == ("p_fake", 0.7, "fpr_5", 2.5, "video")


@pytest.mark.parametrize(
    ("threshold", "calibration", "message"),
    [
        ("1.5", None, "threshold=1.5 is not from 0 to 1"),
        ("nan", None, "threshold=nan is not from 0 to 1"),
        ("fpr_1", None, "names a threshold of a calibration, and there is none"),
        ("fpr_1", CALIBRATION, "an FPR of 1 % needs 100 real ones"),
        ("fpr5", CALIBRATION, "no operating point: did you mean 'fpr_5'"),
    ],
)
def test_thresholds_that_cannot_be(
    threshold: str, calibration: Calibration | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        decide(threshold, calibration)


def test_a_large_picture_that_was_searched_at_a_fraction_says_so() -> None:
    few, none = found(0)._replace(searched_at=0.25), found()._replace(searched_at=0.25)
    said = "searched at 0.25 of its size, where faces below about 160 pixels are not found"
    assert record(few, 1)["searched_at"] == 0.25 and said in record(few, 1)["note"]
    for options in (ALL, LARGEST):
        assert said in record(none, options=options)["note"]
    # Then it is the largest one, whatever smaller ones there are.
    assert record(few, 1, options=LARGEST)["note"] is None
    assert record(found(0)._replace(searched_at=1.0), 1)["note"] is None


def test_a_whole_photograph_in_place_of_a_crop_is_noted() -> None:
    for box, is_whole in (
        (Box(0, 0, 4000, 3000), True),
        (Box(0, 0, 640, 480), True),
        (Box(0, 0, 640, 500), False),
        (Box(0, 0, 1024, 1024), False),
    ):
        faces = found(0)
        whole = faces._replace(faces=[faces.faces[0]._replace(box=box)])
        note = record(whole, 1, options=LARGEST._replace(detector="cropped"))["note"]
        assert (note is not None and "look like a whole photograph" in note) == is_whole
        assert record(whole, 1, options=LARGEST)["note"] is None


def with_points(**points: OperatingPoint) -> Calibration:
    return dataclasses.replace(CALIBRATION, points=points)


def test_the_default_is_the_first_determined_threshold_of_the_strictest() -> None:
    one, five = OperatingPoint(threshold=0.9, fpr=0.0), OperatingPoint(threshold=0.7, fpr=0.04)
    eer, none = OperatingPoint(threshold=0.5, fpr=0.3), OperatingPoint(note="too few")
    for points, name in (
        ({"eer": eer, "fpr_5": five, "fpr_1": one}, "fpr_1"),
        ({"eer": eer, "fpr_5": five, "fpr_1": none}, "fpr_5"),
        ({"eer": eer, "fpr_5": none, "fpr_1": none}, "eer"),
        ({"eer": eer}, "eer"),
    ):
        assert decide(None, with_points(**points)).threshold_name == name


def test_a_threshold_is_named_with_its_rate_and_its_set(caplog: pytest.LogCaptureFixture) -> None:
    point = OperatingPoint(threshold=0.25, fpr=0.3, fpr_interval=(0.2, 0.437))
    with caplog.at_level(logging.INFO, "fsvfm_jax"):
        found = decide(None, with_points(eer=point))
    assert found.about == (
        "threshold: p_fake 0.25 (eer), FPR 30 % [20, 44] on 50 real and 50 fake videos of x,"
        " 2026-11-29"
    )
    assert (found.fpr, found.fpr_interval) == (0.3, (0.2, 0.437))
    assert caplog.messages == [
        "about 30 of 100 real videos are decided to be fake at the threshold eer"
    ]
    assert decide(None, None).about == (
        "threshold: p_fake 0.5, because the model is not calibrated; the best threshold may be far"
        " from it, and `predict calibrate` finds one"
    )
    assert decide("0.3", None).about == ("threshold: p_fake 0.3, as given; its FPR is not known")
    assert "FPR not known on" in decide("fpr_5", CALIBRATION).about
    assert decide("fpr_5", CALIBRATION).warning is None
    strict = OperatingPoint(threshold=0.7, fpr=0.05)
    assert decide(None, with_points(fpr_5=strict, eer=strict)).warning is None


def test_several_people_raise_the_rate_of_false_alarms() -> None:
    made = record(found(0, 1, 2), 1, 1, 1, unit="face", fpr=0.05)
    assert made["note"] == (
        "3 people, p_fake is the highest of theirs, so the FPR is above that of the threshold:"
        " about 14 % in place of 5 %"
    )
    assert record(found(0, 1), 1, 1, unit="face", fpr=0.0)["note"].endswith("of the threshold")
    assert DECISION._replace(fpr=0.05).fpr_of(1) == pytest.approx(0.05)
    assert DECISION.fpr_of(2) is None
