"""Tests that a network which `fsvfm_jax.load` opens gives the scores of `predict score`."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled_faces import command
from random_weights import TINY, describe, encoder_params
from stored_calibration import CALIBRATION

import fsvfm_jax
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.predict.calibrated import calibration_of
from fsvfm_jax.predict.calibration import CALIBRATION_FILE, Calibration, write_calibration
from fsvfm_jax.report.metrics import probability


@pytest.fixture
def calibrated(detector_folder: Path, tmp_path: Path) -> Path:
    """Returns the folder of a detector with a calibration, whose temperature is 2.5."""
    folder = shutil.copytree(detector_folder, tmp_path / "detector")
    sha256 = fsvfm_jax.load(folder).sha256
    write_calibration(folder, dataclasses.replace(CALIBRATION, weights_sha256=sha256))
    return folder


def test_the_scores_are_those_of_the_command_with_the_same_calibration(
    calibrated: Path, labelled_tree: Path, tmp_path: Path
) -> None:
    faces = sorted((labelled_tree / "test").glob("*/v0[0-3]/*.png"))
    output = tmp_path / "scores.jsonl"
    words = ("--model", calibrated, "--cropped", "--processes=1", "--output", output)
    command("score", *words, *faces)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    scores = {Path(record["path"]).resolve(): record["p_fake"] for record in records}
    assert {record["temperature"] for record in records} == {2.5} and len(scores) == 12
    detector = fsvfm_jax.load(calibrated)
    expected = [scores[face.resolve()] for face in faces]
    np.testing.assert_allclose(detector.predict(faces), expected, rtol=0, atol=1e-6)
    margins = detector.margins(faces)
    np.testing.assert_allclose(detector.predict(faces), probability(margins / 2.5), atol=1e-12)
    (calibrated / "calibration.json").rename(tmp_path / "other.json")
    without = fsvfm_jax.load(calibrated)
    np.testing.assert_allclose(without.predict(faces), probability(margins), atol=1e-6)
    given = fsvfm_jax.load(calibrated, calibration=tmp_path / "other.json")
    np.testing.assert_allclose(given.predict(faces), expected, rtol=0, atol=1e-6)


def test_a_calibration_that_does_not_fit_is_refused_as_by_the_command(
    calibrated: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"view = resize, not resize256_crop224"):
        fsvfm_jax.load(calibrated, view="resize256_crop224")
    write_calibration(calibrated, CALIBRATION)
    with pytest.raises(DataError, match="was made for other weights"):
        fsvfm_jax.load(calibrated)
    write_folder(tmp_path / "encoder", encoder_params(TINY), describe(TINY))
    with pytest.raises(ConfigError, match="is an encoder, which has no calibration: leave out"):
        fsvfm_jax.load(tmp_path / "encoder", calibration=calibrated / "calibration.json")


def test_a_calibration_fits_the_network_and_the_crops_that_it_was_made_for(
    detector_folder: Path, tmp_path: Path
) -> None:
    network = fsvfm_jax.load(detector_folder)
    network.path = tmp_path
    about = {"view": "resize", "face_detector": "dlib", "crop_margin": 0.15}

    def found(file: Path | None = None, **facts: object) -> Calibration | None:
        known = about | facts
        network.view = known["view"]
        return calibration_of(network, file=file, facts=known)

    assert found() is None
    stored = dataclasses.replace(CALIBRATION, weights_sha256=network.sha256, **about)
    write_calibration(tmp_path, stored)
    assert found() == found(tmp_path / CALIBRATION_FILE) == stored
    assert found(face_detector=None, crop_margin=None) == stored
    for name, other in (
        ("view", "resize256_crop224"),
        ("face_detector", "none"),
        ("crop_margin", 0.3),
    ):
        said = f"{name} = {about[name]}, not {other}: give --{name.replace('_', '-')}="
        with pytest.raises(ConfigError, match=said):
            found(**{name: other})
    (tmp_path / CALIBRATION_FILE).unlink()
    (tmp_path / CALIBRATION_FILE).symlink_to("nowhere")
    with pytest.raises(DataError, match="is no calibration"):
        found()


def test_another_network_is_refused_and_only_a_run_has_another_step(
    detector_folder: Path, tmp_path: Path
) -> None:
    network = fsvfm_jax.load(detector_folder)
    network.path = tmp_path
    write_calibration(tmp_path, dataclasses.replace(CALIBRATION, step=500))

    def said() -> str:
        with pytest.raises(DataError, match=r"was made for other weights or") as error:
            calibration_of(network, file=None, facts={})
        return str(error.value)

    sha256 = network.sha256[:12]
    assert f"(SHA-256 000000000000..., step 500; not {sha256}...): make it again" in said()
    (tmp_path / "checkpoints").mkdir()
    assert "...): use those weights with --step=500, make it again" in said()
