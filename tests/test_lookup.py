"""Tests that config files are found in the current folder, or else in the package."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fsvfm_jax.config import lookup as config_files
from fsvfm_jax.errors import ConfigError

ROOT = Path(__file__).parent.parent
PRINT_BLR = """
import sys
from fsvfm_jax import cli
cli.parse_flags(["program", *sys.argv[1:]])
print(cli.CONFIG.value.optimizer.blr, cli.CONFIG.value.seed)
"""


def read_config(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Prints rate and seed of the config that a command in this folder reads."""
    return subprocess.run(
        [sys.executable, "-c", PRINT_BLR, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


OWN = """
from configs import common

def get_config(arg=""):
    c = common.get_config("vit_small_patch16", arg)
    c.seed = 7
    return c
"""


@pytest.mark.e2e
def test_from_any_folder_the_bundled_file_is_read(tmp_path):
    found = read_config(tmp_path, "--config=configs/vit_s.py:smoke", "--config.seed=3")
    assert (found.stdout, found.returncode) == ("0.008 3\n", 0), found.stderr
    found = read_config(tmp_path, "--config", "configs/fas/mcio.py:b,C")
    assert found.returncode == 0, found.stderr


@pytest.mark.e2e
def test_a_file_of_the_current_folder_wins_and_has_what_the_bundled_ones_share(tmp_path):
    write(tmp_path / "configs" / "vit_s.py", OWN)
    found = read_config(tmp_path, "--config=configs/vit_s.py:smoke")
    assert found.stdout == "0.008 7\n", found.stderr
    write(tmp_path / "own.py", OWN)
    assert read_config(tmp_path, "--config=own.py:smoke").stdout == "0.008 7\n"
    shared = (ROOT / "configs" / "common.py").read_text().replace("blr=8e-3", "blr=5e-3")
    write(tmp_path / "configs" / "common.py", shared)
    assert read_config(tmp_path, "--config=configs/vit_s.py:smoke").stdout == "0.005 7\n"
    # A bundled config imports the configs that are bundled with it.
    assert read_config(tmp_path, "--config=configs/vit_b.py:smoke").stdout == "0.008 0\n"


@pytest.mark.e2e
def test_another_projects_configs_do_not_get_in_the_way(tmp_path):
    write(tmp_path / "configs" / "__init__.py", "raise RuntimeError('another project')")
    write(tmp_path / "configs" / "common.py", "raise RuntimeError('another project')")
    found = read_config(tmp_path, "--config=configs/vit_b.py:smoke")
    assert found.stdout == "0.008 0\n", found.stderr


@pytest.mark.slow  # the current folder is tested in the same way
def test_a_file_of_another_checkout_has_what_that_checkout_shares(tmp_path):
    fork, here = tmp_path / "fork", tmp_path / "here"
    shared = (ROOT / "configs" / "common.py").read_text()
    for folder, rate in ((fork, "5e-3"), (here, "7e-3")):
        text = shared.replace("blr=8e-3", f"blr={rate}")
        write(folder / "configs" / "common.py", text)
    write(fork / "configs" / "vit_b.py", OWN)
    write(fork / "configs" / "deep" / "own.py", OWN)
    write(fork / "own.py", OWN)
    for name in "configs/vit_b.py", "configs/deep/own.py":
        for path in fork / name, Path("..") / "fork" / name:
            found = read_config(here, f"--config={path}:smoke")
            assert found.stdout == "0.005 7\n", found.stderr
    # Outside a folder called `configs`, a config imports from the current folder.
    found = read_config(here, f"--config={fork / 'own.py'}:smoke")
    assert found.stdout == "0.007 7\n", found.stderr


def test_configs_that_are_loaded_from_elsewhere_are_not_taken_for_others(tmp_path, monkeypatch):
    for name in "one", "two":
        write(tmp_path / name / "configs" / "own.py", OWN)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "configs", None)  # pytest restores the entry at the end.
    del sys.modules["configs"]
    one = str(tmp_path / "one" / "configs" / "own.py")
    assert config_files.find(one) == config_files.find(one) == one
    with pytest.raises(ConfigError, match=r"needs the configs of .*two, .* loaded .*one/configs, "):
        config_files.find(str(tmp_path / "two" / "configs" / "own.py"))


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("configs/vit_x.py", "configs/vit_"),
        ("configs/finetune/dfd_b.py", "configs/finetune/dfd.py:s|b|l|fsfm_b, "),
        ("configs/finetune/diff_fsfm_b.py", "configs/finetune/diff.py:s|b|l|fsfm_b, "),
        ("configs/adapter/dfd_s.py", "configs/adapter/dfd.py:s|b|l, "),
        ("configs/fas/mcio_b.py", "configs/fas/mcio.py:s|b|l|fsfm_b, "),
        ("configs/fas/mcio_adapter_l.py", "configs/fas/mcio_adapter.py:s|b|l, "),
        ("configs/finetune/dfdb.py", "configs/finetune/dfd.py"),
        ("configs/finetune/folders.py", "configs/finetune/folder.py"),
        ("configs/common.p", "configs/"),
        ("configs", "configs/"),
        ("", "configs/"),
        ("../configs/vit_s.py", "configs/vit_s.py"),
        ("x" * 100_000, "configs/"),
        ("a\0b", "configs/"),
    ],
)
def test_a_file_that_is_missing_lists_those_there_are_nearest_first(
    tmp_path, monkeypatch, path, nearest
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        config_files.find(path)
    said = str(error.value)
    assert said.partition("; there is ")[2].startswith(nearest), said
    assert said.count(".py") <= 22 and " more" in said and "configs/common.py" not in said
    assert said.endswith("python -m fsvfm_jax.main --help lists all")


@pytest.mark.e2e
def test_a_missing_file_ends_in_one_sentence_and_the_exit_code_of_a_config(tmp_path):
    write(tmp_path / "configs" / "mine.py", OWN)
    os.mkfifo(tmp_path / "configs" / "pipe.py")
    found = read_config(tmp_path, "--config=configs/min.py")
    assert found.returncode == 78
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("error: there is no config file 'configs/min.py'; there is configs/mine")
    assert read_config(tmp_path, "--config=configs/pipe.py").returncode == 78


def test_the_list_has_every_config_file_with_its_title_and_its_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = config_files.describe()
    for file in ROOT.glob("configs/**/*.py"):
        name = str(file.relative_to(ROOT))
        title = ast.get_docstring(ast.parse(file.read_text())).partition("\n")[0]
        is_config = "def get_config(arg:" in file.read_text()
        assert (f"\n{name}\n  {title}\n    " in listed) == (name in listed) == is_config, name
    assert max(map(len, listed.splitlines())) <= 100
    rows = listed.partition("\nconfigs/finetune/dfd.py\n")[2].partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows[1:]] == [
        "argument",
        ":s",
        ":b",
        ":l",
        "CDFv2",
        ":fsfm_b",
    ]
    assert rows[2].split("  ")[-1] == "86.6 on average, read off a figure"


def test_the_list_has_the_files_of_the_current_folder_and_executes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = "    hardware  published\n    a laptop  none\n\n    not of the table"
    write(tmp_path / "configs" / "own.py", f'"""Mine\x1b.\n\n{table}\n"""\n1 / 0{OWN}')
    write(tmp_path / "configs" / "vit_s.py", OWN)
    write(tmp_path / "configs" / "vit_b.py", f"1 +{OWN}")
    listed = config_files.describe()
    assert (
        "\nconfigs/own.py\n  Mine\\x1b.\n    hardware  published\n    a laptop  none\n\n" in listed
    )
    for name in "vit_s", "vit_b":
        assert f"\nconfigs/{name}.py\n\nconfigs/" in listed
