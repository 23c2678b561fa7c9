"""Tests the flags that verbs share, before a network is opened."""

import argparse
import subprocess
import sys

import labelled_faces
import pytest
from commands import ROOT

from fsvfm_jax import cli
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.predict import arguments


@pytest.mark.parametrize("flag", ["--batch-size=0", "--num-heads=x", "--processes=0"])
def test_numbers_are_from_1_up(flag, tmp_path):
    parser = cli.Parser()
    arguments.add_arguments(parser)
    arguments.add_inputs(parser, what="picture")
    with pytest.raises(ConfigError, match="is no number from 1 up"):
        parser.parse_args(["--model=m", "x.png", flag])


def test_help_does_not_import_jax():
    program = "import sys; from fsvfm_jax.predict.__main__ import _parser; _parser(['--help']);"
    program += "print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def checked(*flags: str, model: str) -> argparse.Namespace:
    parser = cli.Parser()
    arguments.add_arguments(parser)
    arguments.add_face_arguments(parser)
    args = parser.parse_args([f"--model={model}", *flags])
    arguments.check_network(args)
    arguments.check_face_arguments(args)
    return args


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--stats=/none"], DataError, "/none cannot be read"),
        (["--encoder=/none"], DataError, "/none cannot be read"),
        (["--calibration=/none"], DataError, "/none does not exist"),
        (["--cropped", "--face-detector=dlib"], ConfigError, "takes pictures whole"),
        (["--face-detector=none", "--crop-margin=0.1"], ConfigError, "has no margin"),
        (["--crop-margin=11"], ConfigError, "is not from 0 to 10"),
        (["--crop-margin=nan"], ConfigError, "is not from 0 to 10"),
        (["--threshold=7"], ConfigError, "is not from 0 to 1"),
    ],
)
def test_flags_that_cannot_be_are_refused(tmp_path, flags, error, message):
    with pytest.raises(error, match=message):
        checked(*flags, model=str(tmp_path))


def test_a_file_of_weights_needs_flags_for_faces(tmp_path):
    file = tmp_path / "m.pth"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match="does not say how its faces were found"):
        checked(model=str(file))
    with pytest.raises(ConfigError, match="does not say the margin around its faces"):
        checked("--face-detector=dlib", model=str(file))
    for flags in (
        ["--cropped"],
        ["--face-detector=none"],
        ["--face-detector=dlib", "--crop-margin=0.15"],
    ):
        assert checked(*flags, model=str(file)).model == str(file)
    assert checked(model=str(tmp_path)).threshold is None


def test_an_unknown_flag_points_to_the_help_of_its_verb(capsys):
    for flag, meant in (("--plot=x", "did you mean --plots? see"), ("--qq", "'--qq': see")):
        said = labelled_faces.sentence(capsys, 78, "score", "--model=/none", "x.jpg", flag)
        assert meant in said and "fsvfm_jax.predict score --help" in said


def test_a_missing_model_is_named():
    for name in ("/none", "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            checked(model=name)
