"""Tests the requirements of the project as a whole."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "fsvfm_jax").rglob("*.py"))


def test_ci_runs_exactly_the_readmes_test_command():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert "&& .venv/bin/python -m pytest" in commands[1]
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == commands[1]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_lint_and_format(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.e2e
def test_the_core_imports_neither_tensorflow_nor_pytorch():
    # None makes an import fail.
    program = (
        "import sys; sys.modules.update(dict.fromkeys("
        "['tensorflow', 'torch', 'torchvision', 'timm', 'transformers']));"
        "import fsvfm_jax.train, fsvfm_jax.pretrain, fsvfm_jax.convert.__main__"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.e2e
def test_a_start_imports_neither_where_they_are_installed():
    program = (
        "import sys, fsvfm_jax.train, fsvfm_jax.pretrain, fsvfm_jax.evaluate;"
        "assert not {'tensorflow', 'torch', 'boto3', 'google.cloud.storage'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_every_module_has_its_tests():
    without = {
        "__init__",
        "__main__",
        "train_state",
        "vit",
        "synthetic_parameters",
        "chips",
    }
    names = {path.stem for path in MODULES} - without
    assert names <= {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}


@pytest.mark.e2e
def test_nothing_is_unpickled():
    unsafe = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    scripts = [*(ROOT / "configs").glob("*.py"), *(ROOT / "launch").glob("*.py")]
    for path in [*MODULES, *scripts]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(x.name for x in node.names)]
                assert not unsafe & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Attribute) and node.attr in ("load", "unsafe_load"):
                # Of the functions with these names, only NumPy's is used.
                assert ast.unparse(node) == "np.load", path
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
                safe = node.arg == "weights_only"
                assert isinstance(node.value, ast.Constant) and node.value.value is safe, path
