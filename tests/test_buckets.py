"""Tests a run with a workdir in a bucket, on a store that can neither append nor rename."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import ROOT, TINY, Forked, ForkServer, train
from etils import epath
from object_store import ObjectStore
from patience import PATIENCE
from PIL import Image
from tiny import without_rate

from fsvfm_jax.devices import distributed
from fsvfm_jax.errors import ConfigError, StorageError

# Of 10 steps, 4, 8 and 10 are saved, and 4 is deleted again.
RUN = ["--config.epochs=4", "--config.checkpoint.every=4", "--config.checkpoint.keep=2"]


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


def start(server: ForkServer, store: ObjectStore) -> Forked:
    """Starts training in gs://bucket/run."""
    arguments = [*TINY, *RUN, "--workdir=gs://bucket/run"]
    environment = os.environ | store.environment
    return server.start("fsvfm_jax.main", *arguments, environment=environment)


def end(process: Forked, *, code: int = 0) -> str:
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == code, said
    return said


def run_killed_before(name: str, server: ForkServer, store: ObjectStore) -> None:
    """Starts training and kills it when it is about to write the named object."""
    process = start(server, store)

    def kill(written: str) -> None:
        if written == name:
            process.kill()
            raise ConnectionAbortedError

    store.before_write = kill
    end(process, code=-signal.SIGKILL)
    assert name not in store.names()
    store.before_write = lambda written: None


def metrics(store: ObjectStore) -> list[dict[str, float]]:
    """Returns every logged step without its speed."""
    lines = store.read_text("run/metrics.jsonl").splitlines()
    return without_rate([json.loads(line) for line in lines])


def last_state(store: ObjectStore, folder: Path) -> dict:
    """Returns the arrays of step 10, from a copy on disk."""
    store.download("run/checkpoints/10/state/", folder)
    return ocp.StandardCheckpointer().restore(folder)


class Resumed(NamedTuple):
    """A run that did all of its steps, but was killed before its last checkpoint was finished.

    Attributes:
        metrics, state, names: The results of an undisturbed run, and the objects that it left.
        said: The output of the same command after the kill.
        store: The bucket after that command.
    """

    metrics: list[dict[str, float]]
    state: dict
    names: set[str]
    said: str
    store: ObjectStore


@pytest.fixture(scope="module")
def resumed(fork_server, tmp_path_factory) -> Iterator[Resumed]:
    with ObjectStore() as store:
        run_killed_before("run/checkpoints/10/commit_success.txt", fork_server, store)
        state = last_state(store, tmp_path_factory.mktemp("killed") / "state")
        before = metrics(store), state, store.names()
        yield Resumed(*before, said=end(start(fork_server, store)), store=store)


@pytest.mark.e2e
def test_all_of_a_run_is_in_the_bucket(resumed):
    store = resumed.store
    assert json.loads(store.read_text("run/config.json"))["epochs"] == 4
    assert len(json.loads(store.read_text("run/data_stats.json"))["mean"]) == 3
    picture = store.objects["run/images/reconstruction_0000010.png"][1]
    assert Image.open(io.BytesIO(picture)).width > 0
    assert len(store.names("run/tensorboard/")) == 2
    saved = store.names("run/checkpoints/")
    assert {name.split("/")[0] for name in saved} == {"8", "10"}
    assert {"8/commit_success.txt", "10/commit_success.txt"} <= saved
    assert "run/.seen_by_all" not in store.names()
    assert store.unknown == []


@pytest.mark.e2e
def test_a_checkpoint_that_was_not_finished_is_none(resumed, tmp_path):
    assert "resumed at step 8 of 10" in resumed.said
    assert [line["step"] for line in resumed.metrics] == list(range(1, 11))
    assert metrics(resumed.store) == resumed.metrics
    state = last_state(resumed.store, tmp_path / "state")
    jax.tree.map(np.testing.assert_array_equal, state, resumed.state)
    # The step was deleted: array files have random names, and none of the first names is left.
    parts = {x for x in resumed.names if x.startswith("run/checkpoints/10/state/") and "/d/" in x}
    assert parts and not parts & resumed.store.names()


@pytest.mark.slow
def test_a_checkpoint_of_which_little_was_written_is_none(fork_server, resumed, store, tmp_path):
    run_killed_before("run/checkpoints/8/state/ocdbt.process_0/manifest.ocdbt", fork_server, store)
    assert store.names("run/checkpoints/8/state/")
    assert "resumed at step 4 of 10" in end(start(fork_server, store))
    assert metrics(store) == resumed.metrics
    jax.tree.map(np.testing.assert_array_equal, last_state(store, tmp_path / "s"), resumed.state)


@pytest.mark.slow
def test_a_run_told_to_stop_saves_in_the_bucket(fork_server, resumed, store, tmp_path):
    process = start(fork_server, store)

    def stop(written: str) -> None:
        if written == "run/checkpoints/4/commit_success.txt":
            process.terminate()

    store.before_write = stop
    said = end(process, code=75)
    assert "with --workdir=gs://bucket/run goes on" in said
    step = re.search(r"stopped at step (\d+) and saved", said)[1]
    assert f"run/checkpoints/{step}/commit_success.txt" in store.names()
    assert f"resumed at step {step} of 10" in end(start(fork_server, store))
    assert metrics(store) == resumed.metrics
    jax.tree.map(np.testing.assert_array_equal, last_state(store, tmp_path / "s"), resumed.state)
    assert store.unknown == []


@pytest.mark.slow
def test_two_processes_share_a_bucket(fork_server, resumed, store, monkeypatch):
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    workdir = epath.Path("gs://bucket/run")
    train(fork_server, workdir, processes=2, epochs=2)
    assert "resumed at step 5 of 10" in train(fork_server, workdir, processes=2, epochs=4)
    for ours, theirs in zip(metrics(store), resumed.metrics, strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    assert store.unknown == []


@pytest.mark.parametrize(
    ("bucket", "denied", "message"),
    [
        ("other", set(), "gs://other/run cannot be written: .* .NotFound: 404 .*/b/other"),
        ("bucket", {"storage.buckets.get"}, "Forbidden: .* storage.buckets.get is denied"),
    ],
)
def test_a_bucket_that_is_missing_or_closed_is_told_at_once(
    store, monkeypatch, bucket, denied, message
):
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    store.denied = denied
    with pytest.raises(StorageError, match=message):
        distributed.share_workdir(epath.Path(f"gs://{bucket}/run"))
    assert store.unknown == [] and not store.objects  # The object was not made.


def test_other_stores_are_refused():
    with pytest.raises(ConfigError, match="s3://bucket/run is neither a folder nor in a bucket"):
        distributed.check_workdir(epath.Path("s3://bucket/run"))


@pytest.mark.e2e
def test_a_missing_client_ends_in_one_sentence():
    arguments = ["main", "--config=configs/vit_s.py:smoke", "--workdir=gs://bucket/run", "--check"]
    program = (
        f"import runpy, sys; sys.modules['gcsfs'] = None; sys.argv = {arguments};"
        "runpy.run_module('fsvfm_jax.main', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 78
    assert result.stderr == (
        "error: the workdir gs://bucket/run is in a bucket: pip install '.[gcs]' to write there\n"
    )


@pytest.mark.slow  # test_integrity.py and test_checkpoint.py have it for a folder
def test_a_damaged_step_is_moved_aside_and_the_one_before_restored(fork_server, resumed):
    """Damages the newest step; it is the last test here because it changes the bucket."""
    store = resumed.store
    name = "run/checkpoints/10/data/metadata"
    store.writes += 1
    store.objects[name] = (store.writes, store.objects[name][1] + b" ")
    said = end(start(fork_server, store))
    assert "data/metadata has changed" in said and "resumed at step 8 of 10" in said
    assert {"10-1/quarantined.txt", "10-1/manifest.json"} <= store.names("run/quarantine/")
    assert {name.split("/")[0] for name in store.names("run/checkpoints/")} == {"8", "10"}
    assert "run/run.lock" not in store.names()
    assert store.unknown == []
