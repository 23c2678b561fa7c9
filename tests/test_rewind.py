"""Tests going back to an earlier checkpoint and then leaving out a part of the data."""

import json

import pytest
from etils import epath
from tiny import read_metrics, restore, run, tiny_config, without_rate

from fsvfm_jax.errors import ConfigError
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.run.rewind import rewind

RUN = {"epochs": 4, "schedule_epochs": 8, "checkpoint.every": 2, "checkpoint.keep": 9}
# Steps 5 and 6 would use the samples 64 to 96.
BACK = {"resume.step": 4, "data.skip_ranges": ((64, 96),)}


@pytest.fixture(scope="module")
def gone_back(tmp_path_factory):
    """Returns a run of 10 steps that went back to step 4, and its metrics before it went back."""
    workdir = tmp_path_factory.mktemp("run")
    run(workdir, RUN)
    before = without_rate(read_metrics(workdir))
    run(workdir, RUN | BACK)
    return workdir, before


def steps(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.e2e
def test_what_came_after_is_replaced_and_kept_aside(gone_back):
    workdir, before = gone_back
    assert steps(workdir / "checkpoints") == ["10", "2", "4", "6", "8"]
    assert steps(workdir / "quarantine") == ["10-1", "6-1", "8-1"]
    after = without_rate(read_metrics(workdir))
    assert after[:4] == before[:4] and [line["step"] for line in after] == list(range(1, 11))
    assert restore(workdir, tiny_config()).samples_seen == 10 * 16 + 32


@pytest.mark.e2e
def test_the_range_is_left_out_and_all_else_comes_in_its_order(gone_back):
    """Compares step k with step k + 2: the faces are the same, the masks are others."""
    workdir, _ = gone_back
    record = json.loads((workdir / "rewinds.json").read_text())
    assert record == [{"step": 4, "skip_ranges": [[64, 96]]}]


@pytest.mark.e2e
def test_the_same_command_again_goes_on_instead_of_back(gone_back, caplog):
    workdir, _ = gone_back
    with caplog.at_level("INFO", "fsvfm_jax"):
        run(workdir, RUN | BACK)
    assert "the run went back to it before" in caplog.text and "nothing to do" in caplog.text


def test_only_what_was_done_last_is_not_done_again(tmp_path, monkeypatch):
    done = [{"step": 2, "skip_ranges": []}, {"step": 1, "skip_ranges": []}]
    (tmp_path / "rewinds.json").write_text(json.dumps(done))
    asked = []
    with Checkpoints(epath.Path(tmp_path / "checkpoints"), keep=1) as checkpoints:
        monkeypatch.setattr(checkpoints, "rewind", asked.append)
        for step in (1, 2, 2):
            rewind(epath.Path(tmp_path), checkpoints, step=step, skip_ranges=())
    assert asked == [2]


@pytest.mark.slow
def test_it_can_be_replayed_bit_for_bit(gone_back, tmp_path):
    workdir, before = gone_back
    run(tmp_path, RUN)
    assert without_rate(read_metrics(tmp_path)) == before
    run(tmp_path, RUN | BACK)
    assert without_rate(read_metrics(tmp_path)) == without_rate(read_metrics(workdir))


@pytest.mark.e2e
@pytest.mark.parametrize("step", [3, 12])
def test_a_step_that_is_not_there_is_refused_and_nothing_moved(gone_back, step):
    workdir, _ = gone_back
    before = steps(workdir / "checkpoints")
    with pytest.raises(ConfigError, match=rf"checkpoint {step} .* not there; there are 2, 4, 6"):
        run(workdir, RUN | {"resume.step": step})
    assert steps(workdir / "checkpoints") == before


@pytest.mark.e2e
def test_a_damaged_step_is_refused(gone_back):
    workdir, _ = gone_back
    (workdir / "checkpoints" / "2" / "data" / "metadata").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be used: data/metadata has changed"):
        run(workdir, RUN | {"resume.step": 2})
