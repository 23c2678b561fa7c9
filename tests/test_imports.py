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


def bound_names(path: Path) -> set[str]:
    """The names that a module defines or imports at its top level."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_every_imported_name_exists():
    """Also where an import is inside a function, which no start of the program may execute."""
    root, bound = PACKAGE.parent, {name: bound_names(path) for name, path in MODULES.items()}
    folders = ("fsvfm_jax", "configs", "tests")
    for path in (path for folder in folders for path in root.glob(f"{folder}/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                for alias in node.names:
                    known = f"{node.module}.{alias.name}" in MODULES
                    assert known or alias.name in bound[node.module], (path, alias.name)


STEP_FILES = ("main", "train", "pretrain", "models.fsvfm", "masking", "losses")


def functions(path: Path) -> list[ast.FunctionDef]:
    return [x for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.FunctionDef)]


def length(node: ast.FunctionDef) -> int:
    return node.end_lineno - node.lineno + 1


def test_functions_are_short():
    lengths = {
        f"{name}.{node.name}": length(node)
        for name, path in MODULES.items()
        for node in functions(path)
    }
    assert lengths.pop("fsvfm_jax.train.train") <= 80
    assert max(lengths.values()) <= 60, max(lengths, key=lengths.__getitem__)
    assert all(lengths[f"fsvfm_jax.{name}.train_step"] <= 45 for name in ("pretrain", "finetune"))
    assert len((PACKAGE / "train.py").read_text().splitlines()) < 260


def test_functions_of_the_six_files_have_few_parameters():
    for name in STEP_FILES:
        for node in functions(MODULES[f"fsvfm_jax.{name}"]):
            names = [x.arg for x in (*node.args.args, *node.args.kwonlyargs) if x.arg != "self"]
            # Programs rely on the signature of sample_masks.
            assert len(names) <= 6 or node.name == "sample_masks", f"{name}.{node.name}"
