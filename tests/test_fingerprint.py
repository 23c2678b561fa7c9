"""Tests that a run continues with the same data, or names what has changed."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny import run

from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.data.sources import FaceFolder, JoinedSets
from fsvfm_jax.errors import ConfigError, StorageError

SHORT = {"epochs": 2, "schedule_epochs": 8}


def stored(workdir):
    return json.loads((workdir / "fingerprint.json").read_text())


def write_faces(root, count):
    for name in ("images", "parsing_maps"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (32, 32), (index, 90, 90)).save(root / "images" / f"{index}.png")
        np.save(root / "parsing_maps" / f"{index}.npy", np.ones((1, 32, 32), np.int8))


def folder(root):
    return {"data.source": "folder", "data.paths": (str(root),), "data.num_workers": 0}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    write_faces(root, 20)
    return root


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, faces):
    """Returns the workdir of a run of 3 steps on a folder."""
    workdir = tmp_path_factory.mktemp("run")
    run(workdir, SHORT | folder(faces))
    return workdir


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"batch_size": 32}, "batch_size was 16 and is 32"),
        ({"mask.mask_ratio": 0.5}, r"mask\.mask_ratio was 0\.75 and is 0\.5"),
        ({"mask.strategy": "random"}, r"mask\.strategy was crfr_p and is random"),
        ({"data.mean": (0.4, 0.4, 0.4)}, r"mean was \[0\.5, 0\.4, 0\.4\] and is \[0\.4"),
    ],
)
def test_a_change_is_refused_with_the_difference(workdir, faces, changes, message):
    before = stored(workdir)
    with pytest.raises(ConfigError, match=message) as caught:
        run(workdir, folder(faces) | {"epochs": 4, "schedule_epochs": 8} | changes)
    assert "until step 3" in str(caught.value)
    assert stored(workdir) == before


@pytest.mark.e2e
def test_another_list_of_files_is_refused_and_accepted_with_a_note(workdir, tmp_path):
    write_faces(tmp_path, 21)
    changes = folder(tmp_path) | {"epochs": 3, "schedule_epochs": 8}
    with pytest.raises(ConfigError, match=r"dataset was [0-9a-f]{64} and is [0-9a-f]{64}"):
        run(workdir, changes)
    before = stored(workdir)["fingerprint"]["dataset"]
    run(workdir, changes | {"resume.accept_changes": True})
    after = stored(workdir)
    now = after["fingerprint"]["dataset"]
    assert after["accepted"] == [{"step": 3, "dataset": [before, now], "images": [20, 21]}]
    assert read_run(workdir).dataset_fingerprint == after["fingerprint"]["dataset"] != before


def test_a_sets_fingerprint_is_of_names_and_their_order_not_of_places(tmp_path):
    for name, count in (("a", 3), ("b", 2), ("c", 3)):
        write_faces(tmp_path / name, count)

    def fingerprint(*names):
        sets = [FaceFolder(str(tmp_path / x), image_size=32) for x in names]
        return JoinedSets(sets).fingerprint()

    assert fingerprint("a", "b") == fingerprint("c", "b")
    assert len({fingerprint(*x) for x in ("a", "b", "ab", "ba", "aa")}) == 5


@pytest.mark.e2e
def test_a_damaged_one_is_told_with_the_way_out(workdir, faces):
    file = workdir / "fingerprint.json"
    whole = file.read_text()
    file.write_text(whole[:40])
    with pytest.raises(StorageError, match=r"fingerprint\.json is damaged .*put back a copy"):
        run(workdir, folder(faces) | {"epochs": 4, "schedule_epochs": 8})
    file.write_text(whole)


@pytest.mark.e2e
def test_a_run_that_saved_nothing_may_begin_anew(tmp_path, faces):
    (tmp_path / "fingerprint.json").write_text('{"fingerprint": {"seed": 5}, "accepted": []}')
    run(tmp_path, folder(faces) | {"epochs": 1, "schedule_epochs": 8})
    assert stored(tmp_path)["fingerprint"]["seed"] == 0
