"""Tests that work continues after the end of a worker process."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.workers import Worker, in_order, spread, start_limits, tick


def make(argument: str) -> Callable[[Any], Any]:
    """Returns the function of these tests' workers, which does what an item requests."""
    if argument == "broken":
        raise DataError("no weights")
    if argument == "limited":
        start_limits()
    return functools.partial(work, argument)


def work(argument: str, item: Any) -> Any:
    """Does what the item requests."""
    if item == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "wait":
        time.sleep(PATIENCE)
    if item == "fail":
        raise DataError("it failed")
    if item == "hang":
        signal.setitimer(signal.ITIMER_PROF, 0.1)  # as if SECONDS had nearly passed
        sum(range(10**12))
    if item == "much":
        try:
            return len(bytearray(600 * 2**20))
        except MemoryError:
            return "too much"
    if item == "memory":
        raise MemoryError
    if item == "some":
        return len(bytearray(300 * 2**20))
    if isinstance(item, Path):
        return met(item, 2)
    return (argument, item)


def met(folder: Path, count: int) -> int:
    """Waits for this number of processes, and returns which one this is."""
    (folder / str(os.getpid())).touch()
    deadline = time.monotonic() + PATIENCE
    while len(list(folder.iterdir())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.getpid()


@pytest.mark.e2e
def test_every_item_comes_back_once() -> None:
    done = list(spread(range(20), make, ["a", "b"]))
    assert sorted(item for item, _ in done) == list(range(20))
    assert {result[1] for _, result in done} == set(range(20))
    assert all(result[1] == item for item, result in done)


@pytest.mark.e2e
def test_a_slow_item_is_noticed(tmp_path: Path) -> None:
    """The item waits for a file that is written only after that."""
    stream = spread([tmp_path], make, ["a"], idle_seconds=0.01)
    assert next(stream) is None
    (tmp_path / "other").touch()
    assert [item for item, _ in filter(None, stream)] == [tmp_path]


@pytest.mark.e2e
def test_each_process_has_its_own_argument(tmp_path: Path) -> None:
    done = list(spread([tmp_path] * 4, make, ["a", "b"]))
    assert len({pid for _, pid in done}) == 2
    assert os.getpid() not in {pid for _, pid in done}


@pytest.mark.e2e
def test_what_a_process_dies_of_has_no_result_and_the_rest_is_done() -> None:
    items = [1, 2, "die", 3, "hang", 4, "much", "some", "memory", 5]
    done = dict(spread(items, make, ["limited", "limited"]))
    assert {item for item, result in done.items() if result is None} == {"die", "hang", "memory"}
    assert set(done) == set(items)
    assert done["much"] == "too much" and done["some"] == 300 * 2**20


@pytest.mark.e2e
@pytest.mark.parametrize(("argument", "message"), [("broken", "no weights"), ("a", "it failed")])
def test_an_error_is_raised_as_it_is(argument: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(spread(["fail"], make, [argument]))


@pytest.mark.e2e
def test_an_error_ends_the_processes_at_once(tmp_path: Path) -> None:
    """The other items wait for ever."""
    with pytest.raises(DataError, match="it failed"):
        list(spread(["wait", "fail", "wait", "wait"], make, ["a", "b"]))
    stream = spread([tmp_path, tmp_path, "wait", "wait"], make, ["a", "b"])
    assert next(stream)[0] == tmp_path
    stream.close()
    assert multiprocessing.active_children() == []


@pytest.mark.e2e
def test_semaphores_are_removed_without_a_warning() -> None:
    """A process that a signal ends leaves them to Python's tracker."""
    program = """
import os
from fsvfm_jax.prepare.workers import spread
from test_workers import make
if __name__ == "__main__":
    for one in spread(range(9), make, ["a"]):
        os._exit(75)
"""
    folder = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"}
    environment["PYTHONWARNINGS"] = "ignore::FutureWarning"
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    said = process.communicate()[1]  # It ends when the tracker does.
    assert (process.returncode, said) == (75, "")
    assert list(Path("/dev/shm").glob(f"sem.fsvfm-*-{process.pid}-*")) == []


@pytest.mark.e2e
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int, tmp_path: Path) -> None:
    work = functools.partial(first_comes_last, tmp_path, workers)
    done = in_order(work, range(10), workers=workers)
    places, pids = zip(*done, strict=True)
    assert list(places) == list(range(10))
    assert len(set(pids)) == workers
    assert (os.getpid() in pids) == (workers == 1)


def first_comes_last(folder: Path, workers: int, place: int) -> tuple[int, int]:
    """Ends at place 0 only after another process has ended at another place."""
    (folder / str(place)).touch()
    deadline = time.monotonic() + PATIENCE
    while place == 0 and len(list(folder.iterdir())) < workers:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return place, os.getpid()


@pytest.mark.e2e
def test_in_order_nothing_is_left_out() -> None:
    with pytest.raises(DataError, match="a process ended while it worked on die: a file may be"):
        list(in_order(make("a"), ["x", "y", "die", "z"], workers=2))
    with pytest.raises(DataError, match="it failed"):
        list(in_order(make("a"), ["fail"], workers=2))


def test_ticking_without_limits_does_nothing() -> None:
    tick()
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


@pytest.mark.e2e
def test_a_worker_is_replaced_when_an_item_ends_it() -> None:
    worker = Worker(make, "limited")
    try:
        assert worker.do(1, seconds=PATIENCE) == ("limited", 1)
        for item in ("die", "hang", "fail"):
            assert worker.do(item, seconds=PATIENCE) is None
        assert worker.do(2, seconds=PATIENCE) == ("limited", 2)
        with pytest.raises(TimeoutError):
            worker.do("wait", seconds=0.1)
        assert worker.do(3, seconds=PATIENCE) == ("limited", 3)
    finally:
        worker.close()


@pytest.mark.e2e
def test_a_worker_that_cannot_start_does_nothing() -> None:
    worker = Worker(make, "broken")
    try:
        assert worker.do(1, seconds=PATIENCE) is None
    finally:
        worker.close()
