"""Finds config files in the current folder, or among the files that the package contains.

`bundled/configs` is a link to `configs/` in a checkout and a copy of it in a wheel. It is inside
the package because a top-level `configs` in site-packages could overwrite another project's.
"""

import difflib
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

from absl import flags

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.plain_files import read_plain

BUNDLED = Path(__file__).parents[1] / "bundled"
# Config files contain this text; modules that several config files share do not.
_ENTRY = b"def get_config(arg"
_MAX_BYTES = 2**20
_MAX_LISTED = 20
_MAX_TOLD = 200


class FindingParser(flags.ArgumentParser):
    """Finds the file that --config names, and calls another parser to read it."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument: str) -> Any:
        """Returns the result of the file's `get_config`.

        Args:
            argument: The file and, after a colon, the argument of `get_config`.

        Raises:
            FileNotFoundError: There is no such file; the message lists similar files.
            ConfigError: `configs` is already loaded from another folder.
        """
        file, colon, words = argument.partition(":")
        return self._parser.parse(f"{find(file)}{colon}{words}")


def find(path: str) -> str:
    """Returns the config file for a path: in the current folder, or else in the package.

    Args:
        path: A path, such as configs/vit_s.py.

    Raises:
        FileNotFoundError: There is no such file; the message lists similar files.
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
    names = bundled | _names(here)
    path = path[:_MAX_TOLD]
    near = difflib.get_close_matches(path, names, n=_MAX_LISTED, cutoff=0.0)
    raise FileNotFoundError(
        f"there is no config file {path!r}; there is {', '.join(near)} and"
        f" {len(names) - len(near)} more"
    )


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


def _names(folder: Path) -> set[str]:
    """Returns the config files in a folder's `configs`, relative to the folder."""
    files = [*folder.glob("configs/*.py"), *folder.glob("configs/*/*.py")]
    return {str(file.relative_to(folder)) for file in files if _has_entry(file)}


def _has_entry(file: Path) -> bool:
    try:
        return _ENTRY in read_plain(file, max_bytes=_MAX_BYTES)
    except OSError:  # A file that cannot be read is not a config file.
        return False
