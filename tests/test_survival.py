"""Tests which failures a run survives, in full numbers and with the real command.

Run with `pytest -m slow tests/test_survival.py`; docs/operating.md has the table of the last run.

The suite has short forms of these tests: test_train, test_checkpoint, test_integrity, test_lock,
test_skipped_steps, test_rewind, test_watchdog, test_distributed, test_buckets.
"""

import hashlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import ROOT, TINY, start
from etils import epath
from face_trees import write_tree
from object_store import ObjectStore
from patience import PATIENCE
from tiny import without_rate

from fsvfm_jax.run import integrity

pytestmark = pytest.mark.slow

STEPS = 300
LONG = [f"--config.epochs={STEPS * 16 // 40}", "--config.schedule_epochs=200"]
WATCHED = [f"--config.watchdog.{name}_seconds=8" for name in ("step", "save")]


def begin(workdir: Path, *arguments: str, fault: str = "") -> subprocess.Popen:
    """Starts the command in a session of its own, as a shell does."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "FSVFM_FAULT": fault,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "fsvfm_jax.main", *TINY, f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen, *, code: int, timeout: float = PATIENCE) -> str:
    said = process.communicate(timeout=timeout)[1]
    assert process.returncode == code, said
    return said


def until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)


def lines(workdir: Path) -> list[dict]:
    file = workdir / "metrics.jsonl"
    if not file.exists():
        return []
    whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return without_rate([json.loads(line) for line in whole])


def steps_done(workdir: Path) -> int:
    return max((line["step"] for line in lines(workdir)), default=0)


def digest(workdir: Path, step: int) -> str:
    """Returns the SHA-256 over all arrays of a saved state."""
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / "state")
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(array).tobytes())
    return digest.hexdigest()


def valid_steps(workdir: Path) -> list[int]:
    directory = epath.Path(workdir / "checkpoints")
    return [s for s in integrity.steps(directory) if integrity.damage(directory / str(s)) is None]


def workers_of(session: int) -> list[int]:
    """Returns the processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    end(begin(workdir, *LONG, "--config.checkpoint.every=100"), code=0)
    return workdir


SAVER = """
import sys, jax, numpy as np
from etils import epath
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.devices.sharding import make_mesh, state_template
from fsvfm_jax.train_state import TrainState
jax.config.update("jax_platforms", "cpu")
template = state_template(
    TrainState(*(jax.ShapeDtypeStruct((200_000,), np.float32) for _ in range(4))),
    make_mesh({"data": -1, "fsdp": 1}),
)
fill = jax.jit(lambda step: TrainState(*(jax.numpy.full((200_000,), step + i) for i in range(4))))
with Checkpoints(epath.Path(sys.argv[1]), keep=3) as checkpoints:
    restored = checkpoints.restore_newest_valid(template)
    step = 0 if restored is None else restored.samples_seen
    if step:
        for i, array in enumerate(restored.state):
            assert (np.asarray(array) == np.float32(step + i)).all()
    folder = epath.Path(sys.argv[1])
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    temporary = [name for name in names if not name.isdigit()]
    print("restored", step, "temporary", len(temporary), flush=True)
    while len(sys.argv) == 2:
        step += 1
        checkpoints.save(fill(np.float32(step)), step=step, samples_seen=step)
        checkpoints.wait()
        print("counts", step, flush=True)
"""


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_1_killed_at_50_random_moments_of_saving(tmp_path, where):
    with ObjectStore() as store:
        if where == "folder":
            _kill_50_savers(str(tmp_path / "checkpoints"), os.environ, seconds=0.5)
        else:
            environment = os.environ | store.environment
            _kill_50_savers("gs://bucket/run/checkpoints", environment, seconds=3.0)


def _kill_50_savers(folder: str, environment: Mapping[str, str], *, seconds: float) -> None:
    command = [sys.executable, "-c", SAVER, folder]
    rng, counted = random.Random(0), 0
    environment = {**environment, "JAX_PLATFORMS": "cpu"}
    for _ in range(50):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
        )
        line = process.stdout.readline()
        restored = re.match(r"restored (\d+) temporary 0$", line)
        assert restored is not None, line
        assert int(restored[1]) in (counted, counted + 1)  # it may be valid before it is logged
        time.sleep(rng.uniform(0.0, seconds))
        process.kill()
        said = re.findall(r"counts (\d+)", process.communicate()[0])
        counted = int(said[-1]) if said else int(restored[1])
    print(f"{counted} steps saved between 50 kills")
    command.append("end")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and counted > 10, done.stderr


def test_2_killed_three_times_the_run_is_the_same_to_the_bit(straight, tmp_path):
    options = [*LONG, "--config.checkpoint.every=20", "--config.data.num_workers=2"]
    for stop in (47, 133, 218):
        process = begin(tmp_path, *options)
        until(lambda stop=stop: steps_done(tmp_path) >= stop, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    end(begin(tmp_path, *options), code=0)
    assert lines(tmp_path) == lines(straight)
    assert digest(tmp_path, STEPS) == digest(straight, STEPS)


@pytest.mark.parametrize("phase", ["train", "save", "data"])
def test_3_sigterm_to_the_whole_group_20_times(tmp_path, phase):
    fault = {"train": "", "save": "", "data": "data:7:sleep"}[phase]
    every = {"train": 1000, "save": 1, "data": 1000}[phase]
    for count in range(20):
        workdir = tmp_path / str(count)
        options = [*LONG, f"--config.checkpoint.every={every}", "--config.data.num_workers=2"]
        process = begin(workdir, *options, fault=fault)
        until(lambda workdir=workdir: steps_done(workdir) >= 4, process)
        if phase == "data":
            time.sleep(1)
        done = steps_done(workdir)
        os.killpg(process.pid, signal.SIGTERM)
        said = end(process, code=75)
        step = int(re.search(r"stopped at step (\d+) and saved", said)[1])
        # A step's line is written while the next one runs.
        assert step == 6 if phase == "data" else done <= step <= done + 4
        assert valid_steps(workdir)[-1] == step
        assert workers_of(process.pid) == []


@pytest.mark.parametrize("point", ["start", "restore", "compile"])
def test_3_sigterm_before_the_first_step(straight, tmp_path, point):
    said = end(begin(tmp_path, *LONG, fault=f"{point}:0:term"), code=75)
    assert "nothing new was saved" in said and valid_steps(tmp_path) == []


def hears_signals(process: subprocess.Popen) -> bool:
    """Returns whether the process has a handler for SIGTERM."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.M)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("phase", ["start", "compile", "train"])
def test_3_sigterm_all_the_time(tmp_path, phase):
    process = begin(tmp_path, *LONG)
    begun = {
        "start": lambda: hears_signals(process),
        "compile": lambda: (tmp_path / "fingerprint.json").exists(),  # just before it
        "train": lambda: steps_done(tmp_path) >= 4,
    }
    until(begun[phase], process)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    said = end(process, code=75)
    assert "Traceback" not in said
    assert ("and saved" in said.splitlines()[-1]) == (phase == "train"), said
    assert (valid_steps(tmp_path) != []) == (phase == "train")
    assert not (tmp_path / "run.lock").exists()


def test_3_hangup_of_the_whole_group_saves(tmp_path):
    """Tests the signal of a closed ssh session, with two workers."""
    process = begin(tmp_path, *LONG, "--config.data.num_workers=2")
    until(lambda: steps_done(tmp_path) >= 4, process)
    os.killpg(process.pid, signal.SIGHUP)
    said = end(process, code=75)
    step = int(re.search(r"stopped at step (\d+) and saved", said)[1])
    assert valid_steps(tmp_path)[-1] == step
    assert workers_of(process.pid) == []


@pytest.mark.parametrize("stderr", ["2>&1 | head -n 1", "2>/dev/full", "2>&-", ">/dev/full 2>&1"])
def test_messages_that_nobody_takes_change_nothing(tmp_path, stderr):
    """Tests training, packing, and a conversion of the trained weights."""
    short = ["--config.schedule_epochs=4", "--config.epochs=4", "--config.data.num_workers=2"]
    runs = {
        "main": [*TINY, *short, f"--workdir={tmp_path}/run"],
        "prepare": ["pack", f"{tmp_path}/tree", f"{tmp_path}/set"],
        "convert": ["to", "reference", f"{tmp_path}/run", f"{tmp_path}/pth"],
    }
    write_tree(tmp_path / "tree", 20)
    for module, arguments in runs.items():
        command = shlex.join([sys.executable, "-m", f"fsvfm_jax.{module}", *arguments])
        done = subprocess.run(
            ["bash", "-c", f"{command} {stderr}; exit ${{PIPESTATUS[0]}}"],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, module
    assert steps_done(tmp_path / "run") == 10 and valid_steps(tmp_path / "run") == [10]
    assert (tmp_path / "set").is_dir() and len(list((tmp_path / "pth").glob("*.pth"))) == 2


@pytest.mark.parametrize("how", ["peer killed", "coordinator killed", "peer stopped"])
def test_4_survivors_end_within_the_heartbeat(tmp_path, how):
    heartbeat = 10
    for count in range(5):
        workdir = tmp_path / str(count)
        options = ["--config.epochs=40000", "--config.schedule_epochs=40000"]
        children = start([workdir] * 2, *options, f"--heartbeat_seconds={heartbeat}")
        until(lambda workdir=workdir: steps_done(workdir) >= 3, children[0])
        victim = children[0 if how == "coordinator killed" else 1]
        survivor = children[1 if victim is children[0] else 0]
        victim.send_signal(signal.SIGSTOP if how == "peer stopped" else signal.SIGKILL)
        started = time.monotonic()
        survivor.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - started
        victim.kill()
        victim.communicate()
        # The default heartbeat is 60 seconds: an end within 50 shows that the flag has an effect.
        assert survivor.returncode not in (0, None) and seconds < 50, seconds


@pytest.fixture
def small_disk(tmp_path):
    """Makes a file system of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk])
    if mount.returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("filled", ["by checkpoints", "while one is written"])
def test_8_a_full_disk_is_told_and_nothing_is_lost(small_disk, straight, filled):
    workdir = small_disk / "run"
    options = [*LONG, "--config.checkpoint.every=10", "--config.checkpoint.keep=99"]
    process = begin(workdir, *options)
    # The output must be read continuously, because a full pipe would stop the run.
    ended = ThreadPoolExecutor(1).submit(end, process, code=73)
    if filled == "while one is written":
        while len(valid_steps(workdir)) < 2 and not ended.done():
            time.sleep(0.1)
        with (small_disk / "filler").open("wb", buffering=0) as filler:
            while not ended.done():
                try:
                    filler.write(bytes(2**16))
                except OSError:
                    time.sleep(0.01)
    said = ended.result()
    # The last line is checked; Orbax logs the same error at length before it.
    what = r"checkpoint (\d+) could not be saved|it was not saved|\S+ cannot be written"
    (failed,) = (re.search(f"error: .*({what})", line) for line in said.splitlines()[-1:])
    assert failed, said
    if failed[2]:
        # A line is written while the next step runs.
        assert steps_done(workdir) <= int(failed[2]) + 2
    whole = valid_steps(workdir)
    assert len(whole) >= 2
    (small_disk / "filler").unlink(missing_ok=True)
    for step in whole[:-1]:
        subprocess.run(["rm", "-r", workdir / "checkpoints" / str(step)], check=True)
    options[-1] = "--config.checkpoint.keep=2"
    said = end(begin(workdir, *options), code=0)
    assert f"resumed at step {whole[-1]} of" in said
    assert lines(workdir) == lines(straight)
    assert digest(workdir, STEPS) == digest(straight, STEPS)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_9_saved_on_eight_devices_restored_on_fewer(tmp_path, fsdp):
    """Compares the loss of the next step within 1e-6; test_distributed compares the states."""
    short = ["--config.schedule_epochs=200", "--config.epochs=4"]  # 10 steps
    first = start([tmp_path / "8"], *short, f"--config.mesh.fsdp={fsdp}", devices=8)
    assert first[0].communicate(timeout=PATIENCE) and first[0].returncode == 0
    found = {}
    for devices, split in ((1, 1), (2, 2), (4, 1), (8, 8), (8, 1)):
        workdir = tmp_path / f"{devices}-{split}"
        subprocess.run(["cp", "-r", tmp_path / "8", workdir], check=True)
        more = ["--config.schedule_epochs=200", "--config.epochs=5", f"--config.mesh.fsdp={split}"]
        (process,) = start([workdir], *more, devices=devices)
        said = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0 and "resumed at step 10 of 13" in said, said
        found[devices, split] = lines(workdir)[10]["loss"]
    values = list(found.values())
    assert max(values) - min(values) < 1e-6, found


@pytest.mark.parametrize("fault", ["step:5:sleep", "commit:10:sleep", "data:7:sleep"])
def test_12_a_hang_ends_with_all_stacks(tmp_path, fault):
    process = begin(tmp_path, *LONG, *WATCHED, "--config.checkpoint.every=10", fault=fault)
    before = {"step:5:sleep": 3, "commit:10:sleep": 9, "data:7:sleep": 5}[fault]
    until(lambda: steps_done(tmp_path) >= before, process)
    said = end(process, code=71, timeout=180)
    assert "has not ended within 8 s" in said
    assert "exit code 71" in said and "most recent call first" in said
    time.sleep(1)
    assert workers_of(process.pid) == []


def test_12_a_start_that_hangs_ends_too(tmp_path):
    limit = "--config.watchdog.start_seconds=8"
    said = end(begin(tmp_path, *LONG, limit, fault="restore:0:sleep"), code=71, timeout=300)
    assert "the start (config.watchdog.start_seconds) has not ended within 8 s" in said


@pytest.mark.parametrize("num_workers", [0, 2])
def test_13_nothing_grows_in_20000_steps(tmp_path, num_workers):
    """Measures from step 2,000, when the first saves have filled pools of threads and memory."""
    process = begin(
        tmp_path,
        "--config.epochs=8000",
        "--config.schedule_epochs=8000",
        "--config.checkpoint.every=400",
        "--config.tracking.picture_every=400",
        "--config.tracking.log_every=100",
        f"--config.data.num_workers={num_workers}",
    )
    # The output must be read continuously, because a full pipe would stop the run.
    ended = ThreadPoolExecutor(1).submit(end, process, code=0, timeout=3600)
    memory, descriptors, threads, segments = {}, {}, {}, {}
    while not ended.done():
        step = steps_done(tmp_path)
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            descriptors[step] = len(os.listdir(f"/proc/{process.pid}/fd"))
            memory[step] = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3
            names = [x.read_text() for x in Path(f"/proc/{process.pid}/task").glob("*/comm")]
            # TensorStore's pool starts and ends some threads when it needs to.
            threads[step] = sum(name != "ts_pool_worker\n" for name in names)
        except (OSError, TypeError):  # the thread has ended
            break
        # Only files of this run count, because other runs may use the machine.
        segments[step] = len(list(Path("/dev/shm").glob(f"fsvfm-*-{process.pid}-*")))
        time.sleep(2)
    ended.result()

    def of_thousands(found: dict[int, float], of: Callable[..., float]) -> np.ndarray:
        return np.array([of([found[x] for x in found if x // 1000 == t]) for t in range(20)])

    megabytes = of_thousands(memory, np.median)
    slope = np.polyfit(np.arange(2, 20), megabytes[2:], 1)[0]
    print(f"{slope:.3f} MB per 1000 steps", megabytes, file=sys.stderr)
    # More of everything exists while a checkpoint is written or batches wait; a leak stays.
    least = [of_thousands(found, min) for found in (descriptors, threads, segments)]
    print("descriptors, threads, segments", *least, sep="\n", file=sys.stderr)
    assert slope < 1
    assert all(min(found[10:15]) == min(found[15:]) for found in least)
    assert (least[2][10] > 0) == (num_workers > 0)


def test_14_chaos(tmp_path):
    """Kills a run at random; a wrapper restarts it, and its end is that of an undisturbed run.

    It takes about CHAOS_MINUTES (20), with a kill every 2 minutes on average, and then the time of
    the undisturbed run. It prints how the time until the end was used: steps that count, starts
    (from a kill to the next step), repeated steps, and the end.
    """
    minutes = float(os.environ.get("CHAOS_MINUTES", 20))
    options = ["--config.checkpoint.every=50", "--config.data.num_workers=2"]
    # This measures the speed of the machine.
    end(begin(tmp_path / "fast", *options, *LONG), code=0)
    rates = [json.loads(x) for x in (tmp_path / "fast" / "metrics.jsonl").read_text().splitlines()]
    seconds = float(np.median([16 / x["images_per_second"] for x in rates[1:]]))
    epochs = int(0.8 * minutes * 60 / seconds * 16 / 40)
    options += [f"--config.epochs={epochs}", f"--config.schedule_epochs={epochs}"]

    workdir = tmp_path / "disturbed"
    command = [sys.executable, "-m", "fsvfm_jax.main", *TINY, f"--workdir={workdir}", *options]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "RESTART_PAUSE": "1"}
    with (tmp_path / "said").open("w") as said:
        wrapper = subprocess.Popen(
            ["launch/restart.sh", *command],
            cwd=ROOT,
            env=os.environ | environment,
            stderr=said,
            start_new_session=True,
        )
        rng, began = random.Random(0), time.monotonic()
        following, kills, again = began + rng.expovariate(1 / 120), 0, 0
        starting, down_since, before = 0.0, began, 0
        last_step, last_seen = 0, began
        while wrapper.poll() is None:
            time.sleep(0.1)
            now, step = time.monotonic(), newest_line(workdir)
            if down_since is not None and 0 < step != before:
                if step < before:  # the lines of lost steps are removed on resuming
                    again += before - step
                    before = step
                else:
                    starting += now - down_since
                    down_since = None
            if step != last_step:
                last_step, last_seen = step, now
            if down_since is None and now > following:
                following = now + rng.expovariate(1 / 120)
                for pid in filter(is_trainer, workers_of(wrapper.pid)):
                    os.kill(pid, signal.SIGKILL)
                    kills, down_since, before = kills + 1, now, newest_line(workdir)
        total = time.monotonic() - began
    assert wrapper.returncode == 0, (tmp_path / "said").read_text()[-2000:]
    of_steps = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = [16 / x["images_per_second"] for x in of_steps if "images_per_second" in x]
    parts = {
        "steps that count": sum(times),
        "starts": starting,
        "steps done again": again * float(np.median(times)),
        "end": began + total - last_seen,
    }
    print(f"{kills} kills in {total:.0f} s, {len(of_steps)} steps:", file=sys.stderr)
    for name, part in parts.items():
        print(f"{name} {part:.1f} s, {part / total:.1%}", file=sys.stderr)
    end(begin(tmp_path / "straight", *options), code=0, timeout=3600)
    assert lines(workdir) == lines(tmp_path / "straight")
    last = max(valid_steps(workdir))
    assert digest(workdir, last) == digest(tmp_path / "straight", last)
    assert kills >= minutes / 5 and parts["steps that count"] / total > 0.9
    assert abs(sum(parts.values()) / total - 1) < 0.01


def newest_line(workdir: Path) -> int:
    """Returns the step of the last complete line; it is fast, because it is called often."""
    try:
        with (workdir / "metrics.jsonl").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4000))
            whole = file.read().rpartition(b"\n")[0]
    except OSError:
        return 0
    found = re.findall(rb'{"step": (\d+),', whole)
    return int(found[-1]) if found else 0


def is_trainer(pid: int) -> bool:
    """Returns whether a process is the trainer, not its shell or a worker."""
    try:
        words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-m", b"fsvfm_jax.main"]
