"""Tests that imports point one way: the layout of the package as a test."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fsvfm_jax"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if "bundled" not in path.parts
}
BELOW = {"report", "host", "data", "masking", "regions", "losses"}
# The modules of this package that a module of BELOW may import, beside those in its own folder.
ALLOWED = {
    "report": {"data", "errors", "host"},
    "host": {"errors"},
    "data": {"errors", "host", "regions"},
    "masking": {"errors", "regions"},
    "regions": set(),
    "losses": {"models"},
}


def imported(path: Path) -> set[str]:
    """Returns the modules that a file imports, also inside functions; ours with full names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            of_names = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in of_names}
    return names


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def entry(module: str) -> str:
    """Returns the top-level file or folder of a module; a command line is an entry of its own."""
    if module.endswith(".__main__"):
        return module
    return ".".join(module.split(".")[1:2])


def sorted_without_cycle(graph: dict[str, set[str]]) -> list[str]:
    return list(graphlib.TopologicalSorter(graph).static_order())


def test_modules_import_each_other_in_no_circle():
    graph = {name: found & MODULES.keys() for name, found in IMPORTS.items()}
    assert len(sorted_without_cycle(graph)) == len(MODULES) > 100


def test_folders_import_each_other_in_no_circle():
    graph: dict[str, set[str]] = {}
    for name, found in IMPORTS.items():
        others = {entry(other) for other in found & MODULES.keys()} - {entry(name)}
        graph.setdefault(entry(name), set()).update(others)
    assert {"run", "devices", "report", "data"} <= set(sorted_without_cycle(graph))


@pytest.mark.parametrize("name", sorted(BELOW))
def test_what_supports_the_method_does_not_import_the_training_code(name):
    for module, found in IMPORTS.items():
        if entry(module) == name:
            others = {entry(other) for other in found & MODULES.keys()} - {name, ""}
            assert others <= ALLOWED[name], module


def test_data_and_report_do_not_import_jax():
    """Checks only JAX itself: their other imports are in ALLOWED and do not import JAX either."""
    jax = {"jax", "flax", "optax", "orbax", "chex"}
    ours = [
        name for name in MODULES if entry(name) in ("data", "errors", "host", "regions", "report")
    ]
    for module in ours:
        found = {name.split(".")[0] for name in IMPORTS[module]}
        assert not found & jax, module
