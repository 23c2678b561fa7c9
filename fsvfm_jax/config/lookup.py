"""Finds and lists config files: those of the current folder and those that the package contains.

`bundled/configs` is a link to `configs/` in a checkout and a copy of it in a wheel. It is inside
the package because a top-level `configs` in site-packages could overwrite another project's.
"""

import ast
import difflib
import os
import re
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from absl import flags

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.plain_files import read_plain
from fsvfm_jax.host.terminal import printable

BUNDLED = Path(__file__).parents[1] / "bundled"
# Config files contain this text; modules that several config files share do not.
_ENTRY = b"def get_config(arg"
# In a config file's docstring: the row of headings, and the rows of its arguments or networks.
_TABLE = re.compile(r"^    .*\bhardware\b.*(?:\n    .*)*", re.MULTILINE)
_ARGUMENT = re.compile(r"^    :(\w+)", re.MULTILINE)
_LISTING = """\
config files:

An argument follows a colon, and a comma separates two: --config=configs/finetune/dfd.py:l,smoke
Every file of this package takes `smoke`: a tiny run on synthetic faces, under 3 minutes on two CPU
cores. Those of configs/eval/ need a detector: --config.init.params=WEIGHTS. Those of
configs/compare/ are for `python -m fsvfm_jax.benchmark compare`.
The docstring of a file contains its command and explains its arguments.
"""
_MAX_BYTES = 2**20
_MAX_LISTED = 4
_MAX_SHOWN = 200


class FindingParser(flags.ArgumentParser):
    """Finds the file that --config names, and calls another parser to read it."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument: str) -> Any:
        """Returns the result of the file's `get_config`.

        Args:
            argument: The file and, after a colon, the argument of `get_config`.

        Raises:
            FileNotFoundError: There is no such file; the message names similar files.
            ConfigError: `configs` is already loaded from another folder.
        """
        file, colon, words = argument.partition(":")
        return self._parser.parse(f"{find(file)}{colon}{words}")


def find(path: str) -> str:
    """Returns the config file for a path: in the current folder, or else in the package.

    Args:
        path: A path, such as configs/vit_s.py.

    Raises:
        FileNotFoundError: There is no such file; the message names similar files.
        ConfigError: `configs` is already loaded from another folder.
    """
    here, bundled = Path.cwd(), _names(BUNDLED)
    if os.path.isfile(path):
        # A file of another checkout imports that checkout's `configs`.
        own = [x.parent for x in Path(path).resolve().parents if x.name == "configs"]
        make_importable(*own[:1], here, BUNDLED)
        return path
    if path in bundled:
        make_importable(BUNDLED, here)
        return str(BUNDLED / path)
    files = _files()
    path = path[:_MAX_SHOWN]
    near = difflib.get_close_matches(path, files, n=_MAX_LISTED, cutoff=0.0)
    raise FileNotFoundError(
        f"there is no config file {path!r}; there is"
        f" {', '.join(name + _arguments(files[name]) for name in near)} and"
        f" {len(files) - len(near)} more; python -m fsvfm_jax.main --help lists all"
    )


def describe() -> str:
    """Returns a list of all config files, with the title and the table of each docstring.

    The title is the docstring's first line. The table is the indented block that contains
    "hardware" in its first line: hardware and published results, by argument where there are any.
    """
    blocks = [_LISTING]
    for name, file in sorted(_files().items(), key=lambda one: (one[0].count("/"), one[0])):
        doc = _docstring(file)
        table = _TABLE.search(doc)
        title = doc.partition("\n")[0]
        blocks.append(f"{name}\n  {title}\n{table[0] if table else ''}".rstrip() + "\n")
    return printable("\n".join(blocks), keep="\n")


def make_importable(*folders: Path) -> None:
    """Makes the package `configs`, which config files import, from the `configs` of some folders.

    Without this function, `configs` could be a package of another project that is installed.

    Args:
        folders: Folders that may contain a folder `configs`; the first one takes precedence.

    Raises:
        ConfigError: `configs` is already loaded from another folder.
    """
    wanted = [folder / "configs" for folder in folders if (folder / "configs").is_dir()]
    if "configs" not in sys.modules:
        spec = ModuleSpec("configs", None, is_package=True)
        spec.submodule_search_locations = [str(folder) for folder in wanted]
        sys.modules["configs"] = module_from_spec(spec)
        return
    loaded = [Path(folder) for folder in getattr(sys.modules["configs"], "__path__", ())]
    if [x.resolve() for x in loaded[:1]] != [x.resolve() for x in wanted[:1]]:
        raise ConfigError(
            f"this config needs the configs of {wanted[0].parent}, and this process has loaded"
            f" others ({', '.join(map(str, loaded)) or 'no folder'}): read it in a new process"
        )


def _files() -> dict[str, Path]:
    """Returns all config files by name; a file of the current folder takes precedence."""
    return {name: folder / name for folder in (BUNDLED, Path.cwd()) for name in _names(folder)}


def _names(folder: Path) -> set[str]:
    """Returns the config files in a folder's `configs`, relative to the folder."""
    files = [*folder.glob("configs/*.py"), *folder.glob("configs/*/*.py")]
    return {str(file.relative_to(folder)) for file in files if _has_entry(file)}


def _has_entry(file: Path) -> bool:
    try:
        return _ENTRY in read_plain(file, max_bytes=_MAX_BYTES)
    except OSError:  # A file that cannot be read is not a config file.
        return False


def _arguments(file: Path) -> str:
    """Returns the arguments in the table of a file's docstring, such as ":s|b|l", or ""."""
    table = _TABLE.search(_docstring(file))
    found = _ARGUMENT.findall(table[0]) if table else []
    return f":{'|'.join(found)}" if found else ""


def _docstring(file: Path) -> str:
    """Returns the docstring of a config file, or "", without executing the file."""
    try:
        module = ast.parse(read_plain(file, max_bytes=_MAX_BYTES))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # Loading reports it.
        return ""
    return (ast.get_docstring(module, clean=False) or "").strip()
