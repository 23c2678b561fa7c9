"""Writes a tiny detector, and labelled faces with groups, for the verbs that judge a detector."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import random_weights
from absl import flags
from PIL import Image

from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.predict import calibration, stress
from fsvfm_jax.predict.__main__ import main
from fsvfm_jax.report import groups


def write_detector(folder: Path) -> Path:
    """Writes a detector with random weights, and returns its folder."""
    measures = random_weights.TINY | {"pool": "mean"}
    description = random_weights.describe(measures, labels=("real", "fake"))
    write_folder(folder, random_weights.detector_params(measures), description)
    return folder


def write_faces(root: Path, *, videos: int = 24, frames: int = 3) -> Path:
    """Writes `test/{real,fake}/<video>/<frame>.png` and groups.csv, and returns the root."""
    rng = np.random.default_rng(0)
    lines = ["path,light"]
    for number in range(videos):
        label = ("real", "fake")[number % 2]
        folder = root / "test" / label / f"v{number:02d}"
        folder.mkdir(parents=True)
        colour = rng.integers(40, 200, 3)
        for frame in range(frames):
            image = colour + rng.integers(0, 40, (40, 36, 3))
            Image.fromarray(np.uint8(image)).save(folder / f"{frame}.png")
        if number < videos - 1:  # The last video has no row.
            lines.append(f"test/{label}/v{number:02d},{('day', 'night')[number // 2 % 2]}")
    (root / "groups.csv").write_text("\n".join(lines) + "\n")
    return root


def command(*words: object) -> None:
    """Runs a command of `fsvfm_jax.predict` in this process, with intervals from 50 draws.

    Args:
        words: The command line.
    """
    argv = [*map(str, words)]
    known = set(flags.FLAGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", *argv])  # ml_collections looks for fields there.
        for module in (calibration, groups, stress):
            few = functools.partial(module.bootstrap_interval, draws=50)
            patch.setattr(module, "bootstrap_interval", few)
        try:
            main(argv)
        finally:
            for name in set(flags.FLAGS) - known:  # It defines a flag for each of these fields.
                delattr(flags.FLAGS, name)


def sentence(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    """Runs a command of `fsvfm_jax.predict` that must fail, and returns the sentence that it says.

    Args:
        capsys: The captured output.
        code: The expected exit code.
        words: The command line. The command must end before it computes a score.
    """
    with pytest.raises(SystemExit) as ended:
        command(*words)
    said = capsys.readouterr().err
    assert ended.value.code == code and "Traceback" not in said, said
    assert "batches of" not in said
    line = said.splitlines()[-1]
    assert line.startswith("error: ") and len(line) < 1000
    return line
