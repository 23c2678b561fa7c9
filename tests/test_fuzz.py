"""Tests that no reader hangs, exhausts memory or raises an error that is not its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

ROOT = Path(__file__).parent.parent


def fuzz(folder: Path, *, seed: int, cases: int) -> str:
    """Runs `fuzz_readers.py` in a new process with limited memory."""
    done = subprocess.run(
        [sys.executable, "tests/fuzz_readers.py", str(seed), str(cases), str(folder)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
    )
    last = (folder / "last.txt").read_text() if (folder / "last.txt").exists() else "no case"
    assert done.returncode == 0, f"{last}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.e2e
def test_every_reader(tmp_path: Path) -> None:
    said = fuzz(tmp_path, seed=0, cases=25)
    assert "25 cases" in said


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_reader_at_length(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path, seed=seed, cases=1000)
