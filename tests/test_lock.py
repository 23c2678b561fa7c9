"""Tests the lock of a workdir: refusal, takeover, and the loss of the lock."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from etils import epath
from object_store import ObjectStore
from odd_files import CONTENTS, in_place_of
from patience import PATIENCE

from fsvfm_jax.errors import StorageError
from fsvfm_jax.host import processes
from fsvfm_jax.run import lock
from fsvfm_jax.run.lock import RunLock

ROOT = Path(__file__).parent.parent
# Forks processes that hold one workdir each and print it; without a wait they end as zombies.
HOLDERS = """
import os, sys, time
from etils import epath
from fsvfm_jax.run.lock import RunLock
if "gs://" in sys.argv[1]:
    import google.cloud.storage  # once for all
for workdir in sys.argv[1:]:
    if os.fork() == 0:
        RunLock(epath.Path(workdir)).__enter__()
        os.write(1, f"{os.getpid()} {workdir}\\n".encode())
        time.sleep(1800)
        os._exit(0)
sys.stdin.read()
"""
# Forks processes that all try the same workdirs at the same moments and print which they got. They
# end when their standard input ends.
TAKERS = """
import os, sys, time
from etils import epath
from fsvfm_jax.errors import StorageError
from fsvfm_jax.run.lock import RunLock
start = time.time() + 0.2
for taker in range(4):
    if os.fork() == 0:
        for turn, workdir in enumerate(sys.argv[1:]):
            while time.time() < start + 0.03 * turn:
                pass
            try:
                RunLock(epath.Path(workdir)).__enter__()
                os.write(1, f"{os.getpid()} {workdir}\\n".encode())
            except StorageError as error:
                os.write(1, f"refused: {error}\\n".encode())
        sys.stdin.read()
        os._exit(0)
sys.stdin.read()
"""


class Place:
    """A workdir, with the changes that a person can make to its lock."""

    def __init__(self, workdir: str, store: ObjectStore | None) -> None:
        self.workdir = epath.Path(workdir)
        self.file = Path(workdir) / "run.lock"
        self.store = store

    def read(self) -> bytes | None:
        if self.store is not None:
            return self.store.objects.get("run/run.lock", (0, None))[1]
        return self.file.read_bytes() if self.file.exists() else None

    def write(self, content: bytes, *, age: float = 0) -> None:
        """Writes the lock; `age` is the number of seconds since then."""
        if self.store is not None:
            self.store.writes += 1
            self.store.objects["run/run.lock"] = (self.store.writes, content)
            self.store.age = age
        else:
            self.file.write_bytes(content)
            os.utime(self.file, (time.time() - age,) * 2)

    def write_holder(self, **fields: object) -> dict:
        """Writes a lock of this process with some fields changed."""
        holder = json.loads(lock.record("another")) | fields
        self.write(json.dumps(holder).encode())
        return holder

    def remove(self) -> None:
        if self.store is not None:
            del self.store.objects["run/run.lock"]
        else:
            self.file.unlink()

    def break_writing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Makes every write fail until the returned function is called."""
        if self.store is not None:
            self.store.denied.add("storage.objects.create")
            return self.store.denied.clear

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        write_bytes = Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", fail)
        return lambda: monkeypatch.setattr(Path, "write_bytes", write_bytes)

    def names(self) -> set[str]:
        """Returns the names of all files in the workdir."""
        if self.store is not None:
            return self.store.names("run/")
        return {path.name for path in self.file.parent.iterdir()}


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, monkeypatch) -> Iterator[Place]:
    if request.param == "folder":
        yield Place(str(tmp_path), None)
        return
    with ObjectStore() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield Place("gs://bucket/run", store)
        assert store.unknown == []


@pytest.fixture
def fast(monkeypatch) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)


def start(program: str, workdirs: Iterable[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *workdirs],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def restless() -> Iterator[None]:
    """Makes threads interrupt each other far more often than usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@contextlib.contextmanager
def holders(*workdirs: str) -> Iterator[dict[str, int]]:
    """Starts processes that hold the workdirs and returns their ids; they are killed at the end."""
    process = start(HOLDERS, workdirs)
    pids = {}
    try:
        for _ in workdirs:
            pid, workdir = process.stdout.readline().split()
            pids[workdir] = int(pid)
        yield pids
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_lost(held: RunLock) -> bool:
    try:
        held.check()
    except StorageError:
        return True
    return False


def test_says_who_holds_it_and_is_gone_afterwards(place):
    with RunLock(place.workdir) as held:
        written = json.loads(place.read())
        assert written["host"] == socket.gethostname()
        assert written["pid"] == os.getpid()
        assert abs(written["renewed"] - time.time()) < 60
        held.check()
        assert place.names() == {"run.lock"}
    assert place.names() == set()


@pytest.mark.e2e
def test_second_trainer_is_refused_20_of_20(place):
    with holders(str(place.workdir)) as pids:
        before = place.read()
        for _ in range(20):
            start = time.monotonic()
            with pytest.raises(StorageError) as refusal, RunLock(place.workdir):
                pass
            assert time.monotonic() - start < lock.LEASE_SECONDS / 2
            holder = f"process {pids[str(place.workdir)]} on {socket.gethostname()}"
            pattern = rf"in use by {holder}, which renewed {place.workdir}/run.lock \d+ s ago"
            assert re.search(pattern, str(refusal.value))
            assert re.search(
                r"or stop it; if it is gone already, its lease ends in 1[012]\d s",
                str(refusal.value),
            )
        assert place.read() == before


@pytest.mark.e2e
@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_killed_holder_is_replaced_20_of_20(place, caplog, reaped):
    workdirs = [str(place.workdir / str(count)) for count in range(20)]
    if place.store is None:
        for workdir in workdirs:
            Path(workdir).mkdir()
    with contextlib.ExitStack() as stack:
        pids = stack.enter_context(holders(*workdirs))
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: processes.state_and_start(pid)[0] == "Z")
        if reaped:
            pids.clear()
            stack.close()
        for workdir in workdirs:
            with RunLock(epath.Path(workdir)):
                pass
    assert len(caplog.messages) == 20
    assert all("taken over, since its process is gone" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"host": "elsewhere", "boot": "b"}, None),
        ({"host": "elsewhere", "boot": "b", "renewed": -100.0}, None),
        ({"host": "elsewhere", "boot": "b", "renewed": -121.0}, "its lease is over"),
        ({"renewed": -121.0}, "its lease is over"),
        ({}, None),  # this process
        ({"started": 1}, "its process is gone"),  # another process has its id now
        ({"pid": 2**22}, "its process is gone"),  # larger than any id on Linux
        ({"pid": 2**22, "pid_namespace": "pid:[1]"}, None),  # invisible in its container
        ({"boot": "before"}, "the machine has restarted"),
    ],
)
def test_is_taken_over_only_from_the_dead(place, caplog, fields, reason):
    if "renewed" in fields:
        fields = fields | {"renewed": time.time() + fields["renewed"]}
    place.write_holder(**fields)
    before = place.read()
    if reason is None:
        with pytest.raises(StorageError, match="in use"), RunLock(place.workdir):
            pass
        assert place.read() == before
    else:
        with RunLock(place.workdir) as held:
            held.check()
        assert place.names() == set()
        assert [line.endswith(f"taken over, since {reason}") for line in caplog.messages] == [True]


def test_process_of_another_user_is_alive(place, monkeypatch):
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(processes, "state_and_start", lambda pid: ("", 0))  # /proc hides it
    place.write_holder(started=7)
    with pytest.raises(StorageError, match="in use"), RunLock(place.workdir):
        pass


@pytest.mark.parametrize(
    "content", [b"", b'{"host": "x', b"[]", b'{"host": "x"}', b"\xff", b"null"]
)
def test_damaged_lock_counts_from_when_it_was_written(place, content):
    place.write(content, age=100)
    with pytest.raises(StorageError, match=r"an unknown process.* lease ends in [12]. s"):
        RunLock(place.workdir).__enter__()
    place.write(content, age=121)
    with RunLock(place.workdir):
        assert json.loads(place.read())["pid"] == os.getpid()


@pytest.mark.parametrize("stale", [b"", None], ids=["stale", "absent"])
def test_of_threads_at_once_exactly_one_wins(place, stale, caplog, restless):
    caplog.set_level(logging.ERROR)

    def attempt(held: RunLock) -> bool:
        barrier.wait()
        try:
            held.__enter__()
        except StorageError as refusal:
            assert "in use by process" in str(refusal)
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        for _ in range(20 if place.store is None else 4):
            barrier = threading.Barrier(4)
            if stale is not None:
                place.write(stale, age=121)
            locks = [RunLock(place.workdir) for _ in range(4)]
            won = list(pool.map(attempt, locks))
            assert sum(won) == 1
            locks[won.index(True)].__exit__()
            assert place.names() == set()
            if place.store is not None:
                place.store.age = 0


def test_of_processes_at_once_exactly_one_wins(tmp_path):
    workdirs = [str(tmp_path / str(count)) for count in range(20)]
    for count, workdir in enumerate(workdirs):
        Path(workdir).mkdir()
        if count < 15:
            Place(workdir, None).write_holder(pid=2**22)
    process = start(TAKERS, workdirs)
    said = [process.stdout.readline() for _ in range(4 * len(workdirs))]
    process.communicate()
    winners = [line.split() for line in said if not line.startswith("refused")]
    assert sorted(workdir for _, workdir in winners) == sorted(workdirs)
    refused = [line for line in said if "refused: the workdir is in use by process" in line]
    assert len(refused) == 60
    for pid, workdir in winners:
        assert json.loads(Place(workdir, None).read())["pid"] == int(pid)
        assert Place(workdir, None).names() == {"run.lock"}


def test_taker_that_comes_while_another_replaces_is_refused(tmp_path, monkeypatch):
    place = Place(str(tmp_path), None)
    place.write_holder(pid=2**22)
    refusals, replace = [], os.replace

    def interrupted(source: Path, target: str) -> None:
        with pytest.raises(StorageError, match="in use by process") as refusal:
            RunLock(place.workdir).__enter__()
        refusals.append(refusal)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with RunLock(place.workdir):
        assert place.names() == {"run.lock"}
    assert len(refusals) == 1


def test_taker_that_looked_before_another_replaced_is_refused(place, monkeypatch):
    place.write_holder(pid=2**22)
    quick, judge = RunLock(place.workdir), lock.why_gone

    def interrupted(holder: lock.Holder) -> str:
        monkeypatch.setattr(lock, "why_gone", judge)
        quick.__enter__()
        return judge(holder)

    monkeypatch.setattr(lock, "why_gone", interrupted)
    with pytest.raises(StorageError, match="in use by process"):
        RunLock(place.workdir).__enter__()
    assert json.loads(place.read())["token"] == quick._token
    quick.__exit__()
    assert place.names() == set()


def test_taker_killed_in_the_middle_delays_nobody(tmp_path, monkeypatch):
    """Kills it where it leaves a second lock, and the file that it was about to put in place."""
    place = Place(str(tmp_path), None)
    place.write_holder(pid=2**22)
    stale = place.read()

    class KilledError(BaseException):
        pass

    def die(*arguments: object) -> None:
        raise KilledError

    with pytest.raises(KilledError), monkeypatch.context() as patch:
        patch.setattr(lock, "record", lambda token: stale.replace(b"another", b"taker"))
        patch.setattr(os, "replace", die)
        patch.setattr(lock._File, "remove", lambda self, found: None)
        RunLock(place.workdir).__enter__()
    assert place.read() == stale
    assert len(place.names()) == 3
    with RunLock(place.workdir):
        assert place.names() == {"run.lock"}


def test_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    place = Place(str(tmp_path), None)
    place.write_holder(pid=2**22)
    with RunLock(place.workdir):
        assert json.loads(place.read())["pid"] == os.getpid()
        with pytest.raises(StorageError, match="in use"), RunLock(place.workdir):
            pass
    assert place.names() == set()


def test_is_renewed(place, fast):
    with RunLock(place.workdir) as held:
        first = json.loads(place.read())
        until(lambda: json.loads(place.read())["renewed"] > first["renewed"])
        assert json.loads(place.read()) | {"renewed": 0} == first | {"renewed": 0}
        held.check()
    assert place.names() == set()


def test_lock_taken_by_another_is_noticed_and_left(place, fast):
    with RunLock(place.workdir) as held:
        other = place.write_holder(host="elsewhere", pid=7)
        until(lambda: is_lost(held))
        with pytest.raises(StorageError, match="taken over by process 7 on elsewhere"):
            held.check()
    assert json.loads(place.read()) == other


def test_removed_lock_is_noticed_and_not_made_again(place, fast):
    with RunLock(place.workdir) as held:
        place.remove()
        until(lambda: is_lost(held))
        with pytest.raises(StorageError, match="was removed"):
            held.check()
    assert place.names() == set()


def test_only_its_own_is_released_before_it_noticed(place):
    with RunLock(place.workdir):
        other = place.write_holder(host="elsewhere")
    assert json.loads(place.read()) == other


def test_only_what_was_found_is_removed(place):
    """Changes the lock between reading and removing it."""
    with RunLock(place.workdir) as held:
        found = held._file.read()
        other = place.write_holder(host="elsewhere")
        held._file.remove(found)
        assert json.loads(place.read()) == other


def test_failing_renewal_is_tried_again(place, fast, caplog, monkeypatch):
    with RunLock(place.workdir) as held:
        mend = place.break_writing(monkeypatch)
        until(lambda: len(caplog.messages) >= 2)
        assert "could not be renewed (" in caplog.messages[0]
        held.check()
        broken = json.loads(place.read())
        mend()
        until(lambda: json.loads(place.read())["renewed"] > broken["renewed"])
        held.check()


def test_lease_without_a_renewal_ends_the_run(place, fast, monkeypatch):
    with RunLock(place.workdir) as held:
        mend = place.break_writing(monkeypatch)
        monkeypatch.setattr(lock, "LEASE_SECONDS", 0.2)
        until(lambda: is_lost(held))
        with pytest.raises(StorageError, match=r"could not be renewed for \d+ s, and another may"):
            held.check()
        mend()
    assert place.names() == set()


def test_exception_of_the_run_is_kept_and_the_lock_released(place):
    with pytest.raises(KeyError, match="of the run"), RunLock(place.workdir):
        raise KeyError("of the run")
    assert place.names() == set()


def test_place_that_cannot_be_written(place, monkeypatch):
    mend = place.break_writing(monkeypatch)
    with pytest.raises(StorageError, match=r"run.lock cannot be written: .*\(\w+: .*"):
        RunLock(place.workdir).__enter__()
    mend()
    assert place.names() == set()


# Odd locks


@pytest.mark.parametrize(
    "fields",
    [
        {"pid": -1},
        {"pid": 10**30},
        {"pid": 5.5},
        {"pid": "5"},
        {"pid": None},
        {"started": -1},
        {"started": 10**30},
        {"host": ["a"]},
        {"host": "a" * 256},
        {"token": 7},
        {"renewed": None},
        {"renewed": float("nan")},
        {"renewed": float("inf")},
        {"renewed": 1e12},
        {"renewed": 10**30},
    ],
)
def test_a_lock_of_odd_fields_is_nobodys_and_ends(place, fields):
    """Checks that its lease runs from its last write and does not keep others out for ever."""
    holder = json.loads(lock.record("another")) | fields
    place.write(json.dumps(holder).encode(), age=100)
    with pytest.raises(StorageError, match=r"in use by an unknown process.* ends in [12]. s"):
        RunLock(place.workdir).__enter__()
    place.write(json.dumps(holder).encode(), age=121)
    with RunLock(place.workdir) as held:
        held.check()


@pytest.mark.parametrize("content", [b"", b"7", lock.record("another")])
def test_a_lock_of_the_future_is_told_with_the_way_out(tmp_path, content):
    """Checks a lease that would end in years."""
    if content.startswith(b"{"):
        holder = json.loads(content) | {"host": "elsewhere", "renewed": 4e9}
        content = json.dumps(holder).encode()
    (tmp_path / "run.lock").write_bytes(content)
    os.utime(tmp_path / "run.lock", (4e9, 4e9))
    with pytest.raises(StorageError, match=r"run\.lock is of a time in the future: .* remove the"):
        RunLock(epath.Path(tmp_path)).__enter__()
    (tmp_path / "run.lock").unlink()
    with RunLock(epath.Path(tmp_path)) as held:
        held.check()


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "sparse", "device"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, kind):
    with in_place_of(tmp_path / "run.lock", kind):
        with (
            pytest.raises(StorageError, match=r"run\.lock is not one of a run \(it .*: remove it"),
            RunLock(epath.Path(tmp_path)),
        ):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "sparse"])
def test_what_lies_beside_the_lock_is_in_nobodys_way(tmp_path, kind, caplog):
    with in_place_of(tmp_path / "run.lock.x", kind):
        with RunLock(epath.Path(tmp_path)) as held:
            held.check()
        assert "run.lock.x is left where it is" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["run.lock.x"]


def test_any_other_content_is_nobodys_for_as_long_as_a_lease(tmp_path):
    for content in CONTENTS.values():
        (tmp_path / "run.lock").write_bytes(content)
        large = len(content) > lock.MAX_LOCK_BYTES
        expected = "is not one of a run" if large else "in use by an unknown process"
        with pytest.raises(StorageError, match=expected):
            RunLock(epath.Path(tmp_path)).__enter__()
