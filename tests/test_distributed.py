"""Tests that several processes on one machine connect and compute what one process does."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, TINY, ForkServer, free_address, start, train
from patience import PATIENCE
from tiny import STATS, detection_config, run, run_detection

from fsvfm_jax.devices import distributed, peers
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.report.scores import read_scores

DETECTOR = """
from configs import transfer

def get_config():
    c = transfer.get_config("vit_small_patch16", smoke=True)
    c.model.update(image_size=32, width=32, depth=1)
    c.update(batch_size=16)
    c.data.train = {{"x": transfer.rendered_set("cam-o", "train", videos=16)}}
    c.data.val = {{"x": transfer.rendered_set("cam-o", "val", videos={validated})}}
    c.checkpoint.every = 2
    return c
"""


def losses(workdir: Path) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def train_many(server: ForkServer, workdir: Path, **options) -> str:
    """Runs the command in several processes, with the values of `tiny.run`."""
    values = [f"--config.data.mean={STATS.mean}", f"--config.data.std={STATS.std}"]
    return train(server, workdir, *values, **options)


def train_here(workdir: Path, *, epochs: int) -> None:
    run(workdir, {"epochs": epochs, "schedule_epochs": 4})


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    train_here(workdir, epochs=4)
    return workdir


@pytest.mark.e2e
def test_two_processes_and_a_change_of_their_number(fork_server, one_process, tmp_path, caplog):
    said = train_many(fork_server, tmp_path, processes=2, epochs=2, devices=2)
    assert "process 1: 2 x cpu" in said
    assert "effective batch: 16 = 4 devices x 4 x 1" in said
    with caplog.at_level("INFO", "fsvfm_jax"):
        train_here(tmp_path, epochs=4)
    assert "resumed at step 5 of 10" in caplog.text
    np.testing.assert_allclose(losses(tmp_path), losses(one_process), rtol=1e-5)


@pytest.mark.slow
def test_four_processes_go_on_from_one(fork_server, one_process, tmp_path):
    train_here(tmp_path, epochs=2)
    said = train_many(fork_server, tmp_path, processes=4, epochs=4, devices=2)
    assert "effective batch: 16 = 8 devices x 2 x 1" in said
    np.testing.assert_allclose(losses(tmp_path), losses(one_process), rtol=1e-5)


@pytest.mark.slow  # test_preemption.py and test_train.py have it for one process
def test_sigterm_to_one_process_saves_and_stops_both(fork_server, tmp_path):
    """Checks that all processes save the same step, although the others receive no signal."""
    endless = ["--config.epochs=4000", "--config.schedule_epochs=4000"]
    endless += [f"--config.data.mean={STATS.mean}", f"--config.data.std={STATS.std}"]
    children = start([tmp_path, tmp_path], *endless, devices=2, server=fork_server)
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert all(child.poll() is None for child in children)
        time.sleep(0.2)
    children[1].terminate()
    said = [child.communicate(timeout=PATIENCE)[1] for child in children]
    assert [child.returncode for child in children] == [75, 75], said
    step = re.search(r"stopped at step (\d+) and saved", said[1])[1]
    assert f"stopped at step {step} and saved" in said[0]
    assert [x.name for x in (tmp_path / "checkpoints").iterdir()] == [step]


@pytest.mark.slow
def test_sigterm_to_one_process_ends_the_validation_of_both(tmp_path):
    """Checks that the step is saved without a score: the validation would last for minutes."""
    (tmp_path / "c.py").write_text(DETECTOR.format(validated=10_000))
    faults = ["", "validation:2:term"]
    workdir = tmp_path / "run"
    children = start([workdir] * 2, faults=faults, tiny=[f"--config={tmp_path}/c.py"])
    said = [child.communicate(timeout=PATIENCE)[1] for child in children]
    assert [child.returncode for child in children] == [75, 75], said
    assert all("stopped at step 2 and saved" in text for text in said), said
    assert [x.name for x in (workdir / "checkpoints").iterdir()] == ["2"]
    assert not (workdir / "validation.jsonl").exists()


@pytest.mark.slow
def test_a_validation_that_hangs_ends_too(tmp_path):
    (tmp_path / "c.py").write_text(DETECTOR.format(validated=4))
    limit = "--config.watchdog.step_seconds=8"
    tiny = [f"--config={tmp_path}/c.py"]
    (child,) = start([tmp_path / "run"], limit, faults=["validation:2:sleep"], tiny=tiny)
    said = child.communicate(timeout=PATIENCE)[1]
    assert child.returncode == 71, said
    assert "a batch of the validation (config.watchdog.step_seconds) has not ended" in said


@pytest.mark.e2e
def test_two_processes_score_every_face_once_and_as_one_does(fork_server, tmp_path):
    run_detection(tmp_path / "run", detection_config(changes={"epochs": 1}))
    weights = f"--config.init.params={tmp_path / 'run'}"
    evaluation = ["--config=configs/eval/rendered.py:smoke", weights]
    for count in (1, 2):
        children = start(
            [tmp_path / f"of_{count}"] * count,
            "--config.batch_size=14",
            tiny=evaluation,
            server=fork_server,
        )
        said = [child.communicate(timeout=PATIENCE)[1] for child in children]
        assert all(child.returncode == 0 for child in children), said
    one, two = (
        read_scores(tmp_path / of / "scores" / "cam-o_last.csv", dataset="cam-o")
        for of in ("of_1", "of_2")
    )
    assert len(set(one.files)) == len(one.files) > 14
    np.testing.assert_array_equal(one.files, two.files)
    np.testing.assert_allclose(one.p_fake, two.p_fake, rtol=0, atol=1e-6)
    rows = [
        json.loads((tmp_path / of / "table.json").read_text())["rows"] for of in ("of_1", "of_2")
    ]
    counts = [[(row.get("images"), row.get("videos")) for row in of] for of in rows]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_one_process_s_own_error_ends_it_with_its_code_and_the_others_soon_after(tmp_path):
    """Checks that the others do not wait for JAX's timeout of five minutes."""
    long = ["--config.epochs=40000", "--config.schedule_epochs=40000", "--heartbeat_seconds=10"]
    children = start([tmp_path] * 2, *long, faults=["", "step:3:enospc"])
    waiting = [
        ThreadPoolExecutor(1).submit(child.communicate, timeout=PATIENCE) for child in children
    ]
    said = waiting[1].result()[1]
    ended = time.monotonic()
    waiting[0].result()
    assert children[1].returncode == 73, said
    assert "No space left on device: free space" in said
    # On a quiet machine this takes at most 15 s.
    assert children[0].returncode != 0 and time.monotonic() - ended < 200


@pytest.mark.e2e
def test_a_workdir_of_each_hosts_own_is_refused_by_all(fork_server, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    tiny = [f"--config={ROOT}/configs/vit_s.py:smoke", *TINY[1:]]
    children = start(
        [Path("run")] * 2, "--config.epochs=4", folders=folders, tiny=tiny, server=fork_server
    )
    said = [child.communicate(timeout=PATIENCE)[1] for child in children]
    assert [child.returncode for child in children] == [73, 73], said
    assert all("is local: 1 of 2 processes do not see it" in text for text in said)


@pytest.mark.e2e
def test_processes_of_different_runs_are_refused_by_all(fork_server, tmp_path):
    """Checks runs that would otherwise train without an error, stall, or abort with no message."""
    other = [
        "--config.optimizer.blr=0.1",
        "--config.epochs=2",
        "--config.checkpoint.every=3",
        "--config.model.width=64",
        "--config.data.num_workers=1",  # on each host
    ]
    children = start([tmp_path] * 2, "--config.epochs=4", own=[[], other], server=fork_server)
    said = [child.communicate(timeout=PATIENCE)[1] for child in children]
    assert [child.returncode for child in children] == [78, 78], said
    for text in said:
        last = text.splitlines()[-1]
        assert "Traceback" not in text and "num_workers" not in text
        assert "config.optimizer.blr is 0.1 on process 1 and 0.008 on process 0" in last
        for name in ("epochs is 2", "checkpoint.every is 3", "model.width is 64"):
            assert f"config.{name} on process 1 and" in last
    assert list(tmp_path.iterdir()) == []


OWN_PATHS = """
import sys
import numpy as np
from ml_collections import ConfigDict
from fsvfm_jax.devices import distributed
from fsvfm_jax.errors import ConfigError
address, index = sys.argv[1], int(sys.argv[2])
distributed.start(coordinator=address, num_processes=2, process_id=index)
own = {"data": {"paths": (index,), "stats_file": str(index)}, "init": {"params": str(index)}}
distributed.check_same_run(ConfigDict(own), {})
arrays = {"a": np.arange(6.0), "b": 3}
distributed.check_same_arrays(arrays, what="weights")
for changed in (
    arrays | {"a": np.arange(6.0) + (np.arange(6.0) == 5) * index},
    arrays | {"a": np.arange(6.0).reshape(2 + index, -1)},
    arrays | {"a": np.arange(6).astype(("int64", "int32")[index])},
    arrays | {"ab"[index] + "c": 3},
):
    try:
        distributed.check_same_arrays(changed, what="weights")
    except ConfigError as error:
        print(error)
"""


@pytest.mark.e2e
def test_hosts_may_have_paths_of_their_own_and_must_have_the_same_arrays():
    address = free_address()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OWN_PATHS, address, str(index)],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said = [child.communicate(timeout=PATIENCE) for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    for output, _ in said:
        refusal = "processes [1] have other weights than process 0"
        assert sum(refusal in line for line in output.splitlines()) == 4


@pytest.mark.slow
def test_starting_weights_of_each_host_must_be_the_same(tmp_path):
    """Tests a copy in another place, and weights of another run with the same size."""
    for name, seed in {"a": 0, "other": 1}.items():
        (child,) = start([tmp_path / name], "--config.epochs=1", f"--config.seed={seed}")
        said = child.communicate(timeout=PATIENCE)[1]
        assert child.returncode == 0, said
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    for name, code in {"copy": 0, "other": 78}.items():
        own = [[f"--config.init.params={tmp_path}/{one}"] for one in ("a", name)]
        children = start([tmp_path / f"from_{name}"] * 2, "--config.epochs=1", own=own)
        said = [child.communicate(timeout=PATIENCE)[1] for child in children]
        assert [child.returncode for child in children] == [code, code], said
        expected = "processes [1] have other weights (config.init.params) than process 0"
        assert all((expected in text) == (code == 78) for text in said)


def test_differences_are_told_by_value_and_bounded():
    found = distributed.differences(
        [{"a": "1", "b": "[1]"}, {"a": "1", "b": "[1]"}, {"a": "2"}, {"a": "2", "c": "x" * 1000}]
    )
    assert found == [
        "a is 2 on processes 2, 3 and 1 on process 0",
        "b is absent on processes 2, 3 and [1] on process 0",
        f"c is {'x' * 100} on process 3 and absent on process 0",
    ]
    many = distributed.differences([{"a": "1"}, *[{"a": "2"}] * 500])
    assert many[0].endswith(", 20 and 480 more and 1 on process 0")


def digest(folder: Path, *, processes: int, devices: int, fsdp: int) -> str:
    """Returns the last line of `state_digest.py` in process 0: action, devices, state's hash."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "tests/state_digest.py", folder, str(fsdp), free_address()]
    children = [
        subprocess.Popen(
            [*command, str(processes), str(index)],
            cwd=ROOT,
            env=env | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    said = [child.communicate(timeout=PATIENCE) for child in children]
    for child, (_, errors) in zip(children, said, strict=True):
        assert child.returncode == 0, errors
    return said[0][0].splitlines()[-1]  # Gloo's own lines come before it.


@pytest.mark.slow
def test_a_state_of_eight_devices_in_four_processes_is_restored_on_one_and_back(tmp_path):
    eight, one = {"processes": 4, "devices": 2}, {"processes": 1, "devices": 1}
    for fsdp in (8, 1):
        for saves, restores in ((eight, one), (one, eight)):
            folder = tmp_path / f"{fsdp}-{saves['processes']}"
            split = {4: fsdp, 1: 1}  # by the number of processes
            saved = digest(folder, **saves, fsdp=split[saves["processes"]])
            restored = digest(folder, **restores, fsdp=split[restores["processes"]])
            assert saved.split()[:2] == ["saved", str(saves["processes"] * saves["devices"])]
            assert restored.split()[:2] == ["restored", str(9 - int(saved.split()[1]))]
            assert restored.split()[2] == saved.split()[2]


def test_an_incomplete_address_is_refused():
    with pytest.raises(ConfigError, match=r"--num_processes and --process_id together"):
        distributed.start(coordinator="localhost:1", num_processes=2)


@pytest.mark.e2e
def test_a_lonely_process_says_whom_it_waits_for_and_ends():
    program = (
        "import logging; from fsvfm_jax.devices import distributed;"
        "logging.basicConfig(level=logging.INFO);"
        "distributed.start(coordinator='localhost:1', num_processes=2, process_id=1,"
        " timeout_seconds=2)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode != 0
    assert "waiting up to 2 s" in result.stderr
    assert "coordinator localhost:1, process 1 of 2" in result.stderr


def test_a_plain_machine_stays_alone(monkeypatch):
    for name in (*peers.HINTS, *peers.VARIABLES, *peers.OTHER_LAUNCHERS):
        monkeypatch.delenv(name, raising=False)
    distributed.start()
