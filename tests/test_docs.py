"""Tests that every path, module, command and field that the documentation names exists."""

import ast
import functools
import importlib
import itertools
import re
from pathlib import Path

import pytest

from fsvfm_jax.config import comparison_fields, downstream_fields, fields
from fsvfm_jax.errors import UserError

ROOT = Path(__file__).parent.parent
FOLDERS = ("fsvfm_jax", "configs", "tests", "launch", "docs")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "launch" / "README.md"]
SOURCES = [
    path
    for folder in FOLDERS[:2]
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "bundled" not in path.parts
]
# Maps every end of each Python file's path, such as data/images.py and images.py, to the file.
NAMES = {
    "/".join(path.relative_to(ROOT).parts[start:])
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    for start in range(len(path.relative_to(ROOT).parts))
}
# Files of other projects.
FOREIGN = {"g_mask.py"}
# These names stand for any field, as in `--config.NAME=VALUE`.
ANY_FIELD = {"NAME", "path.to.field"}
FIELDS = fields.PRETRAINING | downstream_fields.FINETUNING | downstream_fields.EVALUATION
SET_FIELDS = (
    downstream_fields.FACE_SET
    | downstream_fields.ON_DISK
    | downstream_fields.OF_LAYOUTS
    | downstream_fields.OF_RENDERED
)
COMPARED = comparison_fields.COMPARISON
SECTIONS = {name.split(".")[0] for name in FIELDS if "." in name}


@functools.cache
def text_of(path: Path) -> str:
    """Returns the text of a page, or the docstrings of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, documented))
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def commands(text: str) -> list[str]:
    """Returns the commands `python -m fsvfm_jax...` of a text by line, without quoted values."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"python -m (fsvfm_jax\.\w[^\n`#|;]*)", joined)
    return [re.sub(r"\"[^\"]*\"", "", command) for command in found]


def wrong_files(text: str) -> list[str]:
    """Returns the names of files and folders that are not in the repository."""
    wrong = []
    for name in re.findall(r"(?<![\w/.{}<>*-])[a-z_][\w/]*\.py(?!\w)", text):
        if name not in NAMES | FOREIGN:
            wrong.append(name)
    for name in re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*(?![<{{])", text):
        name = name.rstrip(".-")
        if not (list(ROOT.glob(name)) if "*" in name else (ROOT / name).exists()):
            wrong.append(name)
    return wrong


def wrong_configs(text: str) -> list[str]:
    """Returns the config files with arguments that are refused."""
    wrong = []
    for name, argument in re.findall(r"(configs/[\w/]+)\.py:([\w,-]+)", text):
        try:
            importlib.import_module(name.replace("/", ".")).get_config(argument)
        except (ImportError, ValueError, UserError) as error:
            wrong.append(f"{name}.py:{argument}: {error}")
    return wrong


def wrong_modules(text: str) -> list[str]:
    """Returns dotted names of this package that are neither a module nor an attribute of one."""
    names = re.findall(r"\bfsvfm_jax(?:\.[A-Za-z_]\w*)+", text)
    return [name for name in names if not exists(name)]


@functools.cache
def exists(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    if (ROOT / name.replace(".", "/")).is_dir() or (ROOT / f"{name.replace('.', '/')}.py").exists():
        return True
    return bool(parent) and exists(parent) and hasattr(importlib.import_module(parent), last)


def wrong_commands(text: str) -> list[str]:
    """Returns the commands with a module, verb or flag that does not exist."""
    wrong = []
    for command in commands(text):
        module, *words = command.split()
        file = file_of(module)
        if not file.exists() or '__name__ == "__main__"' not in file.read_text():
            wrong.append(module)
            continue
        verbs = strings_given_to(file, ("add_parser", "command", "_command"))
        for word in itertools.takewhile(re.compile("[a-z]+").fullmatch, words):
            if word not in verbs:
                wrong.append(f"{module} {word}")
        for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)(?![\w.-])", command):
            if flag not in flags():
                wrong.append(f"{module} --{flag}")
    return wrong


def file_of(module: str) -> Path:
    """Returns the file that `python -m MODULE` runs."""
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def flags() -> set[str]:
    """Returns the flags of all commands, without dashes."""
    makers = ("add_argument", "DEFINE_string", "DEFINE_integer", "DEFINE_bool")
    names = {name for path in SOURCES for name in strings_given_to(path, makers)}
    return {name.removeprefix("--") for name in names} | {"help", "config"}


@functools.cache
def strings_given_to(path: Path, functions: tuple[str, ...]) -> set[str]:
    """Returns the strings that a module passes to calls of these functions, by position."""
    strings = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in functions:
            values = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            strings |= {value for value in values if isinstance(value, str)}
    return strings


def wrong_fields(text: str) -> list[str]:
    """Returns fields that no config has: `--config.a.b`, and `a.b` with a section `a`."""
    given = re.findall(r"--config\.([\w.]*\w)", text)
    named = [name for name in re.findall(r"`([a-z_]+\.[a-z_]\w*)[`=]", text) if is_field_like(name)]
    return [name for name in [*given, *named] if name not in ANY_FIELD and not is_field(name)]


def is_field_like(name: str) -> bool:
    section, last = name.split(".")
    return section in SECTIONS and last not in {"safetensors", "json", "md", "py"}


def is_field(name: str) -> bool:
    section, _, rest = name.partition(".")
    if section == "data" and rest.split(".")[0] in ("train", "val", "test"):
        return rest.count(".") < 2 or rest.split(".")[2] in SET_FIELDS
    if section in ("encoders", "train", "test"):  # a comparison's, by name, by mode, one
        last = rest if section == "test" else rest.partition(".")[2]
        return last in comparison_fields.ENCODER or is_field(last)
    if name in COMPARED:
        return True
    return name in FIELDS or any(field.startswith(f"{name}.") for field in FIELDS)


def wrong_links(page: Path) -> list[str]:
    """Returns the relative links of a page that lead to no file, or to no heading."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        target, _, heading = link.partition("#")
        file = page.parent / target if target else page
        if re.match(r"https?://", link):
            continue
        if not file.exists() or (heading and heading not in headings(file)):
            wrong.append(link)
    return wrong


def headings(page: Path) -> set[str]:
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


CHECKS = (wrong_files, wrong_configs, wrong_modules, wrong_commands, wrong_fields)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_what_exists(page, check):
    assert check(text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page):
    assert wrong_links(page) == []


@pytest.mark.parametrize("check", CHECKS)
def test_docstrings_name_what_exists(check):
    wrong = {str(path.relative_to(ROOT)): check(text_of(path)) for path in SOURCES}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (wrong_files, "see `jobs.py`"),
        (wrong_files, "`fsvfm_jax/plan.py` counts"),
        (wrong_files, "`launch/restart.bash`"),
        (wrong_files, "a folder fsvfm_jax/labelled/"),
        (wrong_configs, "--config=configs/vit_b.py:smokes"),
        (wrong_configs, "--config=configs/vit_x.py:smoke"),
        (wrong_modules, "fsvfm_jax.data.synthetic makes faces"),
        (wrong_modules, "fsvfm_jax.models.make"),
        (wrong_commands, "python -m fsvfm_jax.summary table.json"),
        (wrong_commands, "python -m fsvfm_jax.convert to file SRC DST"),
        (wrong_commands, "python -m fsvfm_jax.main \\\n    --configs=configs/vit_b.py"),
        (wrong_fields, "--config.optimizer.rate=1"),
        (wrong_fields, "`--config.data.test.DFDC.lists=test.txt`"),
        (wrong_fields, "set `mask.ratio`"),
    ],
)
def test_wrong_names_are_found(check, text):
    assert len(check(text)) >= 1
