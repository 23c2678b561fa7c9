"""Tests that a probe changes nothing of a run, comes back after a restart, and measures right."""

from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from commands import train
from event_files import read_events
from ml_collections import ConfigDict
from tiny import read_metrics, restore, tiny_config, without_rate

from configs.face_sets import rendered_set
from fsvfm_jax import pretrain
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.errors import DataError
from fsvfm_jax.masking import group_members, sample_masks
from fsvfm_jax.probe.probing import (
    PARTS,
    ProbeFaces,
    ProbeOutputs,
    choose,
    measure,
    open_probe,
    region_errors,
)
from fsvfm_jax.regions import GROUPS
from fsvfm_jax.run import tracking

SHORT = {"epochs": 2, "schedule_epochs": 8, "checkpoint.every": 3}  # 5 steps
PROBED = SHORT | {"probe.every": 2, "probe.faces": 10, "probe.k": 3}


def probes(workdir: Path) -> dict[int, dict[str, float]]:
    """Returns the numbers of each probe by its step."""
    found = {
        line["step"]: {name: x for name, x in line.items() if name.startswith("probe_")}
        for line in read_metrics(workdir)
    }
    return {step: numbers for step, numbers in found.items() if numbers}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("probed")
    tiny.run(workdir, PROBED)
    return workdir


@pytest.mark.e2e
def test_a_run_is_the_same_with_and_without_probes(probed, short_run):
    lines = [
        {name: x for name, x in line.items() if not name.startswith("probe_")}
        for line in without_rate(read_metrics(probed))
    ]
    assert lines == without_rate(read_metrics(short_run))
    ours, theirs = restore(probed, tiny_config()), restore(short_run, tiny_config())
    jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.state)


@pytest.mark.e2e
def test_probes_come_every_few_steps_and_at_the_last(probed):
    found = probes(probed)
    assert list(found) == [2, 4, 5]
    names = {f"probe_{x}" for x in ("rec", "rankme", "variance", "knn_auc", "linear_ridge")}
    names |= {f"probe_rec_{group}" for group in GROUPS}
    assert all(names <= numbers.keys() for numbers in found.values())
    assert all(np.isfinite(x) for numbers in found.values() for x in numbers.values())
    # The probe's mean over all removed patches has other faces and other masks than the loss.
    assert found[4]["probe_rec"] == pytest.approx(read_metrics(probed)[3]["loss_rec"], rel=0.1)
    shown = {
        (value.tag, event.step) for event in read_events(probed) for value in event.summary.value
    }
    assert {("probe_rankme", 2), ("probe_knn_auc", 5)} <= shown


@pytest.mark.slow  # the probes are shown to read the state only
def test_a_resumed_run_gives_the_same_probes(probed, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    original = tracking.Tracker.step

    def step_until_4(self, step, metrics, **options):
        original(self, step, metrics, **options)
        if step == 4:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tracking.Tracker, "step", step_until_4)
        tiny.run(tmp_path, PROBED)
    tiny.run(tmp_path, PROBED)
    assert probes(tmp_path) == probes(probed)


@pytest.mark.slow
def test_several_processes_give_the_same_probes(probed, fork_server, tmp_path):
    values = [f"--config.data.mean={tiny.STATS.mean}", f"--config.data.std={tiny.STATS.std}"]
    values += ["--config.schedule_epochs=8", "--config.probe.every=2", "--config.probe.faces=10"]
    train(fork_server, tmp_path, *values, "--config.probe.k=3", processes=2, epochs=2, devices=2)
    ours, theirs = probes(tmp_path), probes(probed)
    assert ours.keys() == theirs.keys()
    for step, numbers in theirs.items():
        for name in numbers.keys() - {"probe_linear_ridge"}:
            assert ours[step][name] == pytest.approx(numbers[name], rel=2e-3, abs=2e-3), name


def test_the_teacher_can_be_probed_and_the_student_reconstructs():
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    config = tiny_config(PROBED | {"probe.branch": "teacher"})
    learner = pretrain.make_learner(config, stats=tiny.STATS)
    template = compilation.state_template(learner, mesh)
    source = SyntheticFaces(12, image_size=32, seed=0)
    probe = open_probe(config, source=source, mesh=mesh)(learner, template)
    state = compilation.fresh_state(learner, template, seed=0)
    before = probe(state, 0)()
    moved = jax.tree.map(lambda x: x + 0.1, state.teacher_params)
    after = probe(state._replace(teacher_params=moved), 0)()
    assert after["probe_rec"] == before["probe_rec"]
    assert after["probe_rankme"] != before["probe_rankme"]


# Faces


def rendered_sets(**videos: int) -> dict:
    return {
        part: open_sets(
            ConfigDict(
                {
                    name: rendered_set(name.replace("_", "-"), part, videos=count, frames=2)
                    for name, count in videos.items()
                }
            ),
            (),
            image_size=16,
        )
        for part in PARTS
    }


def test_chosen_faces_are_balanced_and_spread_over_the_sets():
    sets = rendered_sets(swap_a=8, cam_o=40)
    chosen = choose(sets, faces=12)
    for of_part in (chosen.tested, ~chosen.tested):
        assert of_part.sum() == 12 and chosen.fake[of_part].sum() == 6
        names = [chosen.source.name(row) for row in chosen.rows[of_part].tolist()]
        assert {name.split("/")[0] for name in names} == {"swap-a", "cam-o"}
    for row, video, fake in zip(chosen.rows, chosen.videos, chosen.fake, strict=True):
        assert chosen.source.name(int(row)).startswith(video.partition("/")[2])
        assert ("/fake/" in video) == fake
    assert not set(chosen.videos[chosen.tested]) & set(chosen.videos[~chosen.tested])


def test_fewer_faces_than_asked_for_are_all_chosen():
    chosen = choose(rendered_sets(swap_a=4), faces=100)
    assert sorted(chosen.rows) == list(range(16))


def test_a_set_that_is_missing_is_told_before_training():
    config = tiny_config(PROBED)
    with config.unlocked(), config.probe.unlocked():
        config.probe.paths = ("/nowhere",)
        config.probe.test.x = ConfigDict({"layout": "folder", "path": "", "split": "test"})
    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    said = r"the set x \(folder\) lies under none of config\.probe\.paths = /nowhere"
    with pytest.raises(DataError, match=said):
        open_probe(config, source=SyntheticFaces(4, image_size=32, seed=0), mesh=mesh)


# Numbers


def found_in(
    features: np.ndarray, *, readable: np.ndarray | None = None
) -> tuple[ProbeOutputs, ProbeFaces]:
    count = len(features)
    readable = np.ones(count, bool) if readable is None else readable
    found = ProbeOutputs(features, np.zeros(1 + len(GROUPS), np.float32), features, readable)
    rows = np.arange(count)
    videos = np.array([f"v{row}" for row in rows])
    return found, ProbeFaces(None, rows, rows % 2 == 0, videos, rows >= count // 2)


def test_faces_that_cannot_be_read_are_left_out():
    features = np.zeros((40, 2), np.float32)
    features[::2, 0] = 1.0
    features[3], features[22] = 1e6, -1e6
    readable = np.ones(40, bool)
    readable[[3, 22]] = False
    found, chosen = found_in(features, readable=readable)
    numbers = measure(found, chosen, own_faces=40, k=3)
    assert numbers["probe_knn_auc"] == numbers["probe_linear_auc"] == 1.0


@pytest.mark.parametrize("lost", ["class", "all"])
def test_what_cannot_be_measured_is_left_out_and_ends_no_run(lost):
    features = np.ones((8, 2), np.float32)
    if lost == "all":
        features[:] = np.nan
    readable = np.arange(8) % 2 == 0
    numbers = measure(*found_in(features, readable=readable), own_faces=8, k=3)
    assert "probe_knn_auc" not in numbers and "probe_rec_skin" in numbers
    assert ("probe_rankme" in numbers) == (lost == "class")


def test_errors_are_means_over_the_removed_patches_of_each_group():
    rng = np.random.default_rng(0)
    classes = rng.integers(1, 2**11, (6, 16)).astype(np.uint16)
    classes[:, :8] &= np.uint16(~(1 << 6) & 0xFFFF)  # no nose there
    removed = np.array(sample_masks(jax.random.key(0), classes, mask_ratio=0.5).mask, bool)
    removed[:, 8:] = False
    errors = rng.random((6, 16)).astype(np.float32)
    members = np.asarray(group_members(classes))
    arrays = map(jax.numpy.asarray, (errors, removed, members))
    found = np.asarray(region_errors(*arrays))
    assert found[0] == pytest.approx(errors[removed].mean())
    for place, group in enumerate(GROUPS):
        of_group = errors[removed & members[:, place]]
        assert (
            np.isnan(found[1 + place])
            if group == "nose"
            else (found[1 + place] == pytest.approx(of_group.mean()))
        )
