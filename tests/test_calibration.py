"""Tests operating points and calibration.json."""

import copy
import dataclasses
import json

import numpy as np
import odd_json
import pytest
from odd_files import KINDS, in_place_of
from stored_calibration import CALIBRATION

from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.predict.calibration import (
    CALIBRATION_FILE,
    Calibration,
    calibrate,
    error_interval,
    read_calibration,
    write_calibration,
)
from fsvfm_jax.predict.points import OperatingPoint
from fsvfm_jax.report.metrics import probability
from fsvfm_jax.report.reliability import NO_TEMPERATURE, ScoredFaces, calibration_error

SHA256 = "0123456789abcdef" * 4
ABOUT = {
    "weights_sha256": SHA256,
    "step": 500,
    "view": "resize",
    "face_detector": "dlib",
    "crop_margin": 0.15,
    "sets": ["mine"],
    "fingerprint": "0" * 64,
    "date": "2026-11-29",
}


def faces(videos=200, frames=3, *, apart=2.0, seed=0):
    """Returns margins of videos, every other one fake, whose means are `apart`."""
    rng = np.random.default_rng(seed)
    fake = np.arange(videos) % 2 == 1
    of_video = rng.normal(0, 1.5, videos) + np.where(fake, apart / 2, -apart / 2)
    margins = 3 * (of_video[:, None] + rng.normal(0, 0.5, (videos, frames)))
    names = [f"{'fake' if x else 'real'}/{i:04d}" for i, x in enumerate(fake)]
    return ScoredFaces(margins.ravel(), fake.repeat(frames), np.array(names).repeat(frames))


def calibrated(scored=None, **options):
    return calibrate(faces() if scored is None else scored, about=ABOUT | options)


@pytest.fixture(scope="module")
def stored():
    return calibrated()


def test_several_sets_are_named_as_one():
    both = dataclasses.replace(CALIBRATION, sets=["a/test, b/test", "cam"])
    assert "50 fake videos of a/test, b/test and cam, 2026" in both.measured_on


def test_one_class_is_refused():
    scored = faces()
    real = ~scored.fake
    with pytest.raises(DataError, match="none of the 300 labels is positive"):
        calibrated(ScoredFaces(*(column[real] for column in scored)))


def test_the_units_are_videos_or_faces_if_each_video_has_one(stored):
    assert (stored.unit, stored.faces, stored.real, stored.fake) == ("video", 600, 100, 100)
    single = calibrated(faces(frames=1))
    assert (single.unit, single.faces, single.real, single.fake) == ("face", 200, 100, 100)


def test_a_point_that_is_unknown_or_not_determined_is_named():
    with pytest.raises(ConfigError, match=r"no threshold 'fpr_2'; did you mean 'fpr_5'\?"):
        CALIBRATION.point("fpr_2")
    with pytest.raises(ConfigError, match=r"'fpr_1' is not determined .*: choose eer or fpr_5, or"):
        CALIBRATION.point("fpr_1")


def test_the_calibration_holds_what_it_names(stored):
    assert 2 < stored.temperature < 6 and stored.temperature_note == ""
    assert stored.error_after < stored.error_before
    low, high = stored.error_before_interval
    assert low < stored.error_before < high
    assert stored.points["fpr_0.1"].threshold is None
    assert "needs 1,000 real ones; there are 100" in stored.points["fpr_0.1"].note
    point = stored.point("fpr_5")
    assert point.fpr <= 0.05 and point.fpr_interval[0] < point.fpr < point.fpr_interval[1]
    assert point.tpr_interval[0] < point.tpr < point.tpr_interval[1]
    assert stored.equal_error_rate == pytest.approx(stored.points["eer"].fpr, abs=0.02)


def test_a_set_that_determines_no_temperature_keeps_1():
    apart = calibrated(faces(apart=60.0))
    assert apart.temperature == 1.0 and apart.temperature_note == NO_TEMPERATURE
    assert apart.equal_error_rate == 0.0 and apart.points["eer"].tpr == 1.0


def test_a_written_calibration_is_read_as_it_was(stored, tmp_path):
    write_calibration(tmp_path / "new", stored)
    file = tmp_path / "new" / CALIBRATION_FILE
    assert read_calibration(file) == stored
    assert json.loads(file.read_text())["points"]["eer"]["threshold"] > 0


@pytest.mark.parametrize(("faces_of_each", "bias"), [(20, 1.0), (400, 1.0), (400, 3.0)])
def test_the_interval_of_the_error_contains_the_error(faces_of_each, bias):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        margins = rng.normal(0, 2, 2 * faces_of_each)
        fake = rng.random(len(margins)) < probability(margins)
        p_fake = probability(bias * margins)
        low, high = error_interval(p_fake, fake, np.arange(len(fake)))
        assert 0 <= low <= calibration_error(p_fake, fake) <= high <= 1


def test_the_interval_of_the_error_contains_the_true_error_of_a_calibrated_detector():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 200)
    p_fake = probability(margins)
    lows = [error_interval(p_fake, rng.random(200) < p_fake, np.arange(200)).low for _ in range(10)]
    assert np.mean(np.array(lows) < 0.02) >= 0.8  # the error of endless faces is 0


def test_a_folder_that_cannot_be_written_is_named(stored, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"calibration\.json cannot be written"):
        write_calibration(tmp_path / "file", stored)


def refused(file):
    with pytest.raises(DataError, match=r"is no calibration of this program \(") as error:
        read_calibration(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


def test_files_that_are_no_calibration_are_refused(tmp_path):
    file = tmp_path / CALIBRATION_FILE
    refused(file)
    for content in odd_json.CONTENTS:
        file.write_bytes(content)
        refused(file)
    for kind in KINDS:
        with in_place_of(tmp_path / kind / CALIBRATION_FILE, kind):
            refused(tmp_path / kind / CALIBRATION_FILE)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path):
    file = tmp_path / CALIBRATION_FILE
    file.write_text("[" + "1," * 2**19 + "1]")
    with pytest.raises(DataError, match=r"such a file has at most 1,048,576\)"):
        read_calibration(file)


def test_no_value_of_another_kind_is_accepted_and_used(stored, tmp_path):
    write_calibration(tmp_path, stored)
    file = tmp_path / CALIBRATION_FILE
    content = json.loads(file.read_text())
    for path in odd_json.places(content):
        for value in odd_json.VALUES:
            changed = copy.deepcopy(content)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            file.write_text(json.dumps(changed))
            try:
                found = read_calibration(file)
            except DataError as error:
                assert "\n" not in str(error) and len(str(error)) < 2000
                continue
            assert isinstance(found, Calibration) and np.isfinite(found.temperature)
            for point in found.points.values():
                assert point.threshold is None or 0 <= point.threshold <= 1


CONTRADICTIONS = {
    "no threshold eer": {"points": {}},
    "fpr_1 has the FPR 0.02": {"fpr_1": OperatingPoint(threshold=0.9, fpr=0.02)},
    "threshold 0 and the FPR 0.01": {"fpr_1": OperatingPoint(threshold=0.0, fpr=0.01)},
    "fpr_5 has a higher threshold": {"fpr_1": OperatingPoint(threshold=0.6)},
    r"fpr_1: tpr is \[0.5, 0.4\]": {"fpr_1": OperatingPoint(tpr=0.45, tpr_interval=(0.5, 0.4))},
    "month must be in 1..12": {"date": "2026-99-99"},
    r"equal_error_rate is \[0.2, 0.1\]": {"equal_error_rate_interval": (0.2, 0.1)},
    r"error_after is \[0.2, 0.3\]": {"error_after_interval": (0.2, 0.3)},
}


@pytest.mark.parametrize("said", CONTRADICTIONS)
def test_a_calibration_that_contradicts_itself_is_refused(said, tmp_path):
    changes = dict(CONTRADICTIONS[said])
    content = dataclasses.asdict(CALIBRATION)
    for name in ("fpr_1", "fpr_5"):
        if name in changes:
            content["points"][name] = dataclasses.asdict(changes.pop(name))
    file = tmp_path / CALIBRATION_FILE
    file.write_text(json.dumps(content | changes))
    with pytest.raises(DataError, match=said):
        read_calibration(file)


def test_another_point_or_a_repeated_key_is_refused(stored, tmp_path):
    write_calibration(tmp_path, stored)
    file = tmp_path / CALIBRATION_FILE
    text = file.read_text()
    file.write_text(text.replace('"fpr_5"', '"fpr_7"'))
    refused(file)
    file.write_text(text.replace('"unit"', '"view": "resize", "unit"'))
    refused(file)
