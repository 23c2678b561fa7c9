"""Sets up eight virtual CPU devices for every test before JAX starts."""

import functools
import gc
import logging
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import pytest
from absl import flags
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from commands import ForkServer

# Calls are checked against their annotations, but not where faces are drawn: these small functions
# are called so often that the checks would take a third of the suite's time.
ROOT = Path(__file__).parent.parent
DRAWING = ("synthetic.py", "synthetic_parameters.py")
install_import_hook(
    [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "fsvfm_jax").rglob("*.py")
        if path.name not in DRAWING
    ],
    "beartype.beartype",
)

# Tests compile much and compute little. Flags from the environment come last and take precedence.
FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
# A broadcast that adds axes without saying so is often a mistake.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Several tests and the commands they start compile the same step. The cache belongs to this
# machine and this checkout.
CACHE = ROOT / ".pytest_cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
jax.config.update("jax_compilation_cache_dir", str(CACHE))

# A busy machine must not fail a test.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Grain's workers read absl flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keeps the garbage collector from all that the imports make, now and during the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before the tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that start a command with the fork server."""
    for item in items:
        if "fork_server" in getattr(item, "fixturenames", ()):
            item.add_marker("e2e")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Escapes names that are not UTF-8 in captured logs, which pytest-xdist cannot send."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restores the logging of the package, which a command called in this process changes."""
    logger = logging.getLogger("fsvfm_jax")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate, level = before
    logger.setLevel(level)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Returns a function that sets this process's faults, as `FSVFM_FAULT` does at its start."""
    from fsvfm_jax.run import (
        faults,  # imported late: types are checked only in modules not loaded by pytest itself
    )

    def ask(value: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, value)
        faults._asked_for.cache_clear()

    ask("")
    yield ask
    faults._asked_for.cache_clear()


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes intervals from 50 draws in place of 1,000."""
    from fsvfm_jax.report import rows

    few = functools.partial(rows.bootstrap_interval, draws=50)
    monkeypatch.setattr(rows, "bootstrap_interval", few)


@pytest.fixture(scope="session")
def fork_server() -> Iterator["ForkServer"]:
    """Runs commands without an import of JAX for each."""
    from commands import ForkServer

    with ForkServer() as server:
        yield server


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run of five steps, checkpoints at 3 and 5, to be left as it is."""
    import tiny

    workdir = tmp_path_factory.mktemp("short") / "run"
    tiny.run(workdir, {"epochs": 2, "schedule_epochs": 8, "checkpoint.every": 3})
    return workdir


@pytest.fixture(scope="session")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a tiny exported detector, which tests must not change."""
    import labelled_faces

    return labelled_faces.write_detector(tmp_path_factory.mktemp("models") / "detector")


@pytest.fixture(scope="session")
def labelled_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a tree of real and fake faces with groups.csv, which tests must not change."""
    import labelled_faces

    return labelled_faces.write_faces(tmp_path_factory.mktemp("sets") / "faces")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a tree of twenty faces with their maps, which tests must not change."""
    import face_trees

    return face_trees.write_tree(tmp_path_factory.mktemp("tree"), 20)


@pytest.fixture(scope="session")
def undisturbed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Returns the files of the set of that tree, packed without interruption into four shards."""
    import face_trees

    from fsvfm_jax.prepare.pack import pack

    target = tmp_path_factory.mktemp("undisturbed") / "set"
    pack(str(tree), str(target), shard_records=5)
    return face_trees.contents(target)
