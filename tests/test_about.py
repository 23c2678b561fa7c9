"""Tests what `about` prints of a network."""

import dataclasses
from pathlib import Path

import pytest
from commands import ForkServer
from random_weights import TINY, describe, detector_params, encoder_params
from stored_calibration import CALIBRATION

from fsvfm_jax.convert import facts
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.errors import ConfigError, DataError, UserError
from fsvfm_jax.predict import networks
from fsvfm_jax.predict.__main__ import main
from fsvfm_jax.predict.about import NOT_CALIBRATED, about
from fsvfm_jax.predict.calibration import write_calibration
from fsvfm_jax.predict.points import OperatingPoint

MEASURED = OperatingPoint(
    threshold=0.25, fpr=0.1, tpr=0.8, fpr_interval=(0.05, 0.2), tpr_interval=(0.7, 0.9)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a detector whose facts contain Markdown, HTML and control codes."""
    folder = tmp_path_factory.mktemp("models") / "detector"
    hostile = {"recipe": "<script>x</script>|", "face_detector": "\x1b[31m", "crop_margin": 0.25}
    description = describe(TINY, labels=("real", "fake"), step=9, **hostile)
    write_folder(folder, detector_params(TINY | {"pool": "mean"}), description)
    return folder


def test_a_detector(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model)
    main(["about", "--model=.", "--view=resize256_crop224"])
    text = capsys.readouterr().out
    for part in (
        "# detector",
        "p_fake of a face goes from 0 (`real`) to 1 (`fake`)",
        *facts.MEANING,
        *facts.FAILURES,
        "1.5 times as long as the longer side",
        "resized to 73 pixels, and the middle 64 x 64",
        NOT_CALIBRATED,
        "| training step | 9 |",
        "| fingerprint of the training set | not known |",
        r"\<script>x\</script>\|",
        r"\\x1b\[31m",
        networks.load(model).sha256,
        "stays under their licence",
        f"| made from | {describe(TINY).source} |",
    ):
        assert part in text, part
    assert "\x1b" not in text and "<script" not in text.replace(r"\<script", "")


def test_thresholds_come_with_their_set_and_intervals(model: Path) -> None:
    network = networks.load(model)
    fpr_5 = dataclasses.replace(MEASURED, fpr=0.05)
    points = CALIBRATION.points | {"eer": MEASURED, "fpr_5": fpr_5}
    text = about(network, dataclasses.replace(CALIBRATION, points=points), name="x")
    assert (
        "on 50 real and 50 fake videos of x, 2026-11-29: 100 faces" in text
        and "Temperature: 2.500" in text
    )
    assert "10.00 [5.00, 20.00]" in text and "an FPR of 1 % needs 100 real ones" in text
    assert NOT_CALIBRATED not in text


def test_a_calibration_of_other_weights_is_refused(model: Path, tmp_path: Path) -> None:
    write_calibration(tmp_path, CALIBRATION)
    with pytest.raises(SystemExit) as ended:
        main(["about", f"--model={model}", f"--calibration={tmp_path / 'calibration.json'}"])
    assert ended.value.code == DataError.exit_code


def test_a_calibration_that_nothing_reads_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path, file: Path, error: type[UserError]) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["about", f"--model={folder}", f"--calibration={file}"])
        assert ended.value.code == error.exit_code
        return capsys.readouterr().err

    write_folder(tmp_path / "encoder", encoder_params(TINY), describe(TINY))
    write_calibration(tmp_path, CALIBRATION)
    said = refused(tmp_path / "encoder", tmp_path / "calibration.json", ConfigError)
    assert "is an encoder, which has no calibration: leave out" in said
    for folder in (tmp_path / "encoder", model):
        assert "none does not exist: name a" in refused(folder, tmp_path / "none", DataError)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({"fas": True}, "A detector of presentation attacks (face anti-spoofing). p_spoof"),
        ({"adapter_reduction": 4}, "A detector of face forgeries with an FS-Adapter. p_fake"),
    ],
)
def test_other_heads(tmp_path: Path, options: dict, task: str) -> None:
    description = describe(TINY | options, labels=("fake", "real"))
    write_folder(tmp_path / "x", detector_params(TINY | options), description)
    assert task in about(networks.load(tmp_path / "x"), None, name="x")


@pytest.mark.e2e
def test_an_encoder_end_to_end(tmp_path: Path, fork_server: ForkServer) -> None:
    write_folder(tmp_path / "encoder", encoder_params(TINY), describe(TINY, license="apache-2.0"))
    done = fork_server.run("fsvfm_jax.predict", "about", f"--model={tmp_path / 'encoder'}")
    assert done.returncode == 0, done.stderr
    assert "An encoder: it turns faces into features" in done.stdout
    assert "## What a score means" not in done.stdout and "Under apache-2.0." in done.stdout
