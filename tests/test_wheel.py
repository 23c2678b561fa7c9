"""Tests that the wheel contains all that training needs."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Builds the wheel from a copy, so that the checkout is unchanged."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("fsvfm_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=caches)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    (file,) = target.iterdir()
    return file


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--no-index"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Runs a command in an empty folder, with the installed package."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_the_wheel_has_the_package_its_configs_and_nothing_beside_it(wheel):
    with zipfile.ZipFile(wheel) as files:
        names = {name for name in files.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "fsvfm_jax").rglob("*.py")}
    configs = {
        f"fsvfm_jax/bundled/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")
    }
    assert "fsvfm_jax/bundled/configs/finetune/folder.py" in configs
    page = {str(path.relative_to(ROOT)) for path in ROOT.glob("fsvfm_jax/*/static/*")}
    assert page and names == modules | configs | page | {"fsvfm_jax/py.typed"}


def test_from_the_wheel_every_config_is_read_in_any_folder(wheel, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as files:
        files.extractall(installed)
    folder = tmp_path / "empty"
    folder.mkdir()
    program = (
        "import json, sys; from fsvfm_jax import cli; from fsvfm_jax.config import lookup;"
        "cli.parse_flags(['program', *sys.argv[1:]]);"
        "print(json.dumps([cli.CONFIG.value.model.width, lookup.__file__]))"
    )
    found = run(installed, folder, "-c", program, "--config=configs/finetune/folder.py:l")
    assert found.returncode == 0, found.stderr
    width, file = json.loads(found.stdout)
    assert width == 1024 and Path(file).is_relative_to(installed)
    found = run(installed, folder, "-c", "from configs import common")
    assert "No module named 'configs'" in found.stderr


@pytest.mark.slow
def test_an_installed_wheel_trains_in_any_folder(wheel, tmp_path):
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    folder.mkdir()
    pip("install", "--target", str(installed), str(wheel))
    steps = ["--config.epochs=1", "--config.schedule_epochs=10", "--config.data.num_samples=64"]
    command = ["-m", "fsvfm_jax.main", "--config=configs/vit_s.py:smoke", "--workdir=run", *steps]
    result = run(installed, folder, *command, "--config.optimizer.warmup_epochs=0")
    assert result.returncode == 0, result.stderr
    assert "step 2 of 2" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["run"]
