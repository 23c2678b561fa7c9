"""Tests that the files a run writes can be read back and are correct."""

import io
import json
import logging
import math
import os
import resource
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from etils import epath
from event_files import read_events
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from odd_files import CONTENTS, KINDS, in_place_of
from PIL import Image
from stand_ins import Clock, Terminal

from fsvfm_jax.errors import StorageError
from fsvfm_jax.run import tracking
from fsvfm_jax.run.lines import LINES


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


@pytest.fixture
def workdir(tmp_path) -> epath.Path:
    return epath.Path(tmp_path) / "run"


def open_tracker(workdir: epath.Path, **changes) -> tracking.Tracker:
    arguments = dict(
        start_step=0, total_steps=6, steps_per_epoch=2.0, images_per_step=8, log_every=1
    )
    return tracking.Tracker(workdir, **(arguments | changes))


def run(workdir: epath.Path, losses: list[float], *, start_step: int = 0, **changes) -> None:
    changes = {"total_steps": start_step + len(losses)} | changes
    with open_tracker(workdir, start_step=start_step, **changes) as tracker:
        for step, loss in enumerate(losses, start=start_step + 1):
            tracker.step(step, {"loss": loss})


def read_lines(path: epath.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_scalars(workdir: epath.Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in read_events(workdir)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


# JSON lines


def test_metrics_file_has_the_first_step_every_log_every_and_the_last(workdir):
    run(workdir, [0.1 * step for step in range(1, 8)], log_every=3)
    lines = read_lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 3, 6, 7]
    assert [line["epoch"] for line in lines] == [0.5, 1.5, 3.0, 3.5]
    assert list(lines[1]) == ["step", "epoch", "loss", "images_per_second", "data_wait"]


def test_floats_come_back_bit_for_bit(workdir):
    third = float(np.float32(1) / np.float32(3))
    losses = [0.1, 1 / 3, third, 5e-324, 1.7976931348623157e308, -0.0, math.inf, math.nan]
    run(workdir, losses)
    read = [line["loss"] for line in read_lines(workdir / "metrics.jsonl")]
    assert [bits(value) for value in read] == [bits(value) for value in losses]


def test_lines_are_on_disk_while_the_run_goes_on(workdir):
    with open_tracker(workdir) as tracker:
        tracker.step(1, {"loss": 1.0})
        tracker.step(2, {"loss": 2.0})
        assert len(read_lines(workdir / "metrics.jsonl")) == 2
        assert len(read_lines(workdir / "epochs.jsonl")) == 1


# Rates


def test_rate_starts_at_the_end_of_the_first_step(workdir, clock):
    with open_tracker(workdir, total_steps=7, log_every=3) as tracker:
        for step in range(1, 8):
            clock.seconds += 60.0 if step == 1 else 0.5
            tracker.step(step, {"loss": 1.0})
    rates = [line.get("images_per_second") for line in read_lines(workdir / "metrics.jsonl")]
    assert rates == [None, 16.0, 16.0, 16.0]


def test_the_share_of_waiting_is_of_the_time_since_the_last_logged_step(workdir, clock):
    with open_tracker(workdir, total_steps=7, log_every=3) as tracker:
        for step in range(1, 8):
            clock.seconds += 60.0 if step == 1 else 0.5
            tracker.step(step, {"loss": 1.0}, waited=30.0 if step == 1 else 0.1 * (step % 2))
    shares = [line.get("data_wait") for line in read_lines(workdir / "metrics.jsonl")]
    assert shares == [None, *(pytest.approx(x) for x in (0.1, 0.1 / 1.5, 0.2))]


def test_logged_first_step_has_no_rate(workdir, clock, caplog):
    with caplog.at_level(logging.INFO, "fsvfm_jax"), open_tracker(workdir) as tracker:
        for step in (1, 2):
            clock.seconds += 60.0 if step == 1 else 2.0
            tracker.step(step, {"loss": 1.0})
    first, second = read_lines(workdir / "metrics.jsonl")
    assert "images_per_second" not in first
    assert second["images_per_second"] == 4.0
    assert caplog.messages[0] == "step 1/6  epoch 0.50  loss 1"


# Epoch means


def test_epoch_means_of_a_series(workdir):
    run(workdir, [1.0, 2.0, 4.0, 8.0, 16.0], log_every=5)
    assert read_lines(workdir / "epochs.jsonl") == [
        {"epoch": 0, "step": 2, "steps": 2, "loss": 1.5},
        {"epoch": 1, "step": 4, "steps": 2, "loss": 6.0},
        {"epoch": 2, "step": 5, "steps": 1, "loss": 16.0},
    ]


def test_epoch_of_a_fractional_number_of_steps(workdir):
    # 10 images in steps of 4: the epochs end in the steps 3, 5, 8 and 10.
    run(workdir, [float(step) for step in range(1, 11)], steps_per_epoch=10 / 4)
    lines = read_lines(workdir / "epochs.jsonl")
    assert [(line["epoch"], line["step"], line["steps"]) for line in lines] == [
        (0, 3, 3),
        (1, 5, 2),
        (2, 8, 3),
        (3, 10, 2),
    ]
    assert [line["loss"] for line in lines] == [2.0, 4.5, 7.0, 9.5]


def test_step_of_several_epochs_gives_one_line_for_the_last(workdir):
    # 2 images in steps of 5: 2.5, 5 and 7.5 epochs are done after the steps.
    run(workdir, [1.0, 2.0, 3.0], steps_per_epoch=2 / 5)
    assert read_lines(workdir / "epochs.jsonl") == [
        {"epoch": 1, "step": 1, "steps": 1, "loss": 1.0},
        {"epoch": 4, "step": 2, "steps": 1, "loss": 2.0},
        {"epoch": 6, "step": 3, "steps": 1, "loss": 3.0},
    ]


@given(images=st.integers(1, 3_000_000), batch=st.integers(1, 8192), epochs=st.integers(1, 1000))
def test_epochs_end_where_integers_say(images, batch, epochs):
    tracker = tracking.Tracker.__new__(tracking.Tracker)
    tracker._steps_per_epoch = images / batch
    last = -(-epochs * images // batch)  # the step that finishes the last epoch
    for step in (last - 1, last, last + 1, epochs * images):
        assert tracker._epochs_done(step) == step * batch // images


def test_epoch_mean_after_a_resume_covers_the_steps_since(workdir):
    run(workdir, [1.0, 2.0, 3.0], steps_per_epoch=4.0, total_steps=8)
    run(workdir, [5.0, 6.0], start_step=3, steps_per_epoch=4.0, total_steps=8)
    assert read_lines(workdir / "epochs.jsonl") == [
        {"epoch": 0, "step": 4, "steps": 1, "loss": 5.0}
    ]


# Resume


def test_resume_drops_what_the_killed_run_did_later(workdir):
    run(workdir, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    before = (workdir / "metrics.jsonl").read_text().splitlines()
    run(workdir, [40.0], start_step=3, total_steps=6)
    after = (workdir / "metrics.jsonl").read_text().splitlines()
    assert after[:3] == before[:3]
    assert [json.loads(line)["loss"] for line in after[3:]] == [40.0]
    assert [line["step"] for line in read_lines(workdir / "epochs.jsonl")] == [2, 4]
    assert not list(workdir.glob("*.unfinished"))


@pytest.mark.parametrize("torn_bytes", [1, 5, 30])
def test_resume_drops_a_torn_line(workdir, torn_bytes):
    run(workdir, [1.0, 2.0, 3.0])
    path = workdir / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:torn_bytes])
    open_tracker(workdir, start_step=3).close()
    assert path.read_bytes() == whole


def test_resume_ends_a_line_that_lacks_only_its_end(workdir):
    run(workdir, [1.0, 2.0])
    path = workdir / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    open_tracker(workdir, start_step=2).close()
    assert path.read_bytes() == whole


def test_new_run_in_an_old_workdir_drops_all(workdir):
    run(workdir, [1.0, 2.0, 3.0])
    open_tracker(workdir).close()
    assert (workdir / "metrics.jsonl").read_bytes() == b""
    assert (workdir / "epochs.jsonl").read_bytes() == b""


ODD_LINES = [x for x in CONTENTS.values() if x] + [
    b'{"step": "1"}',
    b'{"step": -1}',
    b'{"step": 1.5}',
    b'{"loss": 1.0}',
]


@pytest.mark.parametrize("line", ODD_LINES)
@pytest.mark.parametrize("name", LINES)
def test_resume_leaves_out_an_odd_line_and_keeps_the_file_as_it_was(workdir, name, line, caplog):
    run(workdir, [1.0, 2.0, 3.0])
    path = workdir / name
    before = path.read_bytes() if path.exists() else b'{"step": 1}\n'
    first, *others = before.splitlines(keepends=True)
    odd = b"".join([first, line, b"\n", *others])
    path.write_bytes(odd)
    open_tracker(workdir, start_step=3).close()
    assert path.read_bytes() == b"".join([first, *others])
    assert (workdir / f"{name}.odd-1").read_bytes() == odd
    assert f"{name}.odd-1" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_resume_sets_aside_what_is_no_file_of_lines(workdir, kind, caplog):
    run(workdir, [1.0])
    with in_place_of(Path(workdir / "metrics.jsonl"), kind):
        run(workdir, [2.0], start_step=1, total_steps=2)
    assert [line["step"] for line in read_lines(workdir / "metrics.jsonl")] == [2]
    assert "metrics.jsonl.odd-1" in caplog.text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sparse"])
def test_lines_that_cannot_be_written_any_more_end_the_run_at_once(workdir, kind):
    """Uses a pipe, whose opening for writing would wait for a reader."""
    tracker = open_tracker(workdir, start_step=0)
    tracker.step(1, {"loss": 1.0})
    with (
        in_place_of(Path(workdir / "metrics.jsonl"), kind),
        pytest.raises(StorageError, match=r"metrics\.jsonl cannot be written \(it is a"),
    ):
        tracker.step(2, {"loss": 1.0})
    tracker.close()


@pytest.mark.parametrize("kind", ["pipe", "sparse", "device"])
def test_what_is_in_place_of_the_events_is_set_aside(workdir, kind, caplog):
    with in_place_of(Path(workdir / "tensorboard"), kind):
        run(workdir, [1.0])
    assert list((workdir / "tensorboard").iterdir()) and "tensorboard.odd-1" in caplog.text


def test_links_in_a_workdir_lead_nowhere(workdir, caplog):
    outside = Path(workdir.parent / "outside")
    outside.mkdir()
    workdir.mkdir(exist_ok=True)
    for name in ("images", "tensorboard"):
        os.symlink(outside, workdir / name)
    for name in LINES:
        os.symlink(outside / name, workdir / name)
    with open_tracker(workdir) as tracker:
        tracker.step(1, {"loss": 1.0})
        tracker.images(1, "faces", np.zeros((4, 4, 3), np.uint8))
    assert list(outside.iterdir()) == []
    assert read_lines(workdir / "metrics.jsonl")[0]["step"] == 1
    for name in ("images", "tensorboard", *LINES):
        assert f"{name} is set aside as {name}.odd-1: it is a link" in caplog.text


def test_lines_behind_a_link_are_kept_in_the_workdir(workdir):
    """Tests links into a store of files, whose targets stay unchanged."""
    run(workdir, [1.0])
    stored = workdir.parent / "stored"
    (workdir / "metrics.jsonl").rename(stored)
    os.symlink(stored, workdir / "metrics.jsonl")
    before = stored.read_bytes()
    run(workdir, [2.0], start_step=1, total_steps=2)
    assert [line["step"] for line in read_lines(workdir / "metrics.jsonl")] == [1, 2]
    assert stored.read_bytes() == before


def test_a_linked_workdir_is_written_where_it_is(workdir):
    """Tests a workdir on another disk."""
    disk = workdir.parent / "disk"
    disk.mkdir()
    link = epath.Path(workdir.parent / "link")
    os.symlink(disk, link)
    for start_step in (0, 1):
        run(link, [1.0], start_step=start_step, total_steps=2)
    assert len(read_lines(disk / "metrics.jsonl")) == 2 and (disk / "tensorboard").is_dir()


def test_a_pipe_in_place_of_a_picture_is_replaced(workdir):
    path = workdir / "images" / "faces_0000003.png"
    with open_tracker(workdir) as tracker, in_place_of(Path(path), "pipe"):
        tracker.images(3, "faces", np.zeros((4, 4, 3), np.uint8))
    with Image.open(path) as picture:
        assert picture.size == (4, 4)


# TensorBoard and pictures


def test_tensorboard_holds_scalars_and_epoch_means(workdir, clock):
    with open_tracker(workdir) as tracker:
        for step, loss in [(1, 1.0), (2, 2.0)]:
            clock.seconds += 2.0
            tracker.step(step, {"loss": loss, "lr": 0.25})
    assert read_scalars(workdir) == {
        ("epoch", 1): 0.5,
        ("loss", 1): 1.0,
        ("lr", 1): 0.25,
        ("epoch", 2): 1.0,
        ("loss", 2): 2.0,
        ("lr", 2): 0.25,
        ("images_per_second", 2): 4.0,
        ("data_wait", 2): 0.0,
        ("epoch/loss", 2): 1.5,
        ("epoch/lr", 2): 0.25,
    }


def test_resume_tells_tensorboard_to_hide_later_steps(workdir):
    run(workdir, [1.0, 2.0, 3.0])
    run(workdir, [20.0], start_step=1)
    events = list(read_events(workdir))
    restarts = [event.step for event in events if event.HasField("session_log")]
    assert restarts == [1, 2]
    assert read_scalars(workdir)["loss", 2] == 20.0


def test_images_become_png_files_and_tensorboard_pictures(workdir):
    grid = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    with open_tracker(workdir) as tracker:
        tracker.images(3, "reconstruction", grid)
    with Image.open(workdir / "images" / "reconstruction_0000003.png") as image:
        np.testing.assert_array_equal(np.asarray(image), grid)
    (event,) = (event for event in read_events(workdir) if event.summary.value)
    (value,) = event.summary.value
    assert (event.step, value.tag) == (3, "reconstruction")
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        np.testing.assert_array_equal(np.asarray(image), grid)


def test_inactive_tracker_writes_nothing(workdir, caplog, capsys):
    with caplog.at_level(logging.INFO, "fsvfm_jax"), open_tracker(workdir, active=False) as tracker:
        tracker.step(1, {"loss": 1.0})
        tracker.images(1, "reconstruction", np.zeros((2, 2, 3), np.uint8))
    assert not workdir.exists()
    assert not caplog.messages
    assert capsys.readouterr() == ("", "")


# A full disk


@pytest.fixture
def full_disk():
    """Returns a function that turns a full disk on and off: no file can grow meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_with_the_file(workdir, full_disk):
    message = r"metrics\.jsonl cannot be written \(File too large\)"
    with pytest.raises(StorageError, match=message), open_tracker(workdir) as tracker:
        full_disk()
        tracker.step(1, {"loss": 1.0})


def test_lines_that_are_lost_in_the_end_are_reported(workdir, full_disk):
    tracker = open_tracker(workdir)
    full_disk()
    with pytest.raises(StorageError, match=r"tensorboard cannot be written"):
        tracker.close()


def test_what_ends_the_run_is_not_hidden_by_lines_that_are_lost(workdir, full_disk, caplog):
    with pytest.raises(ZeroDivisionError), open_tracker(workdir):
        full_disk()
        1 / 0  # noqa: B018
    assert "tensorboard cannot be written" in caplog.text


# Progress


def test_tracker_logs_plain_lines_where_there_is_no_terminal(workdir, clock, caplog, capsys):
    with (
        caplog.at_level(logging.INFO, "fsvfm_jax"),
        open_tracker(workdir, total_steps=4000, steps_per_epoch=240.0, log_every=120) as tracker,
    ):
        for step in range(1, 241):
            clock.seconds += 0.1
            tracker.step(step, {"loss": 0.81231, "loss_rec": 0.5, "lr": 1.2e-5})
    assert caplog.messages == [
        "step 1/4000  epoch 0.00  loss 0.8123  loss_rec 0.5  lr 1.2e-05",
        "step 120/4000  epoch 0.50  loss 0.8123  loss_rec 0.5  lr 1.2e-05  80 images/s"
        "  0:06:28 left",
        "step 240/4000  epoch 1.00  loss 0.8123  loss_rec 0.5  lr 1.2e-05  80 images/s"
        "  0:06:16 left",
        "epoch 0 at step 240, mean of 240 steps  loss 0.8123  loss_rec 0.5  lr 1.2e-05",
    ]
    assert capsys.readouterr() == ("", "")


def test_tracker_shows_a_bar_on_a_terminal(workdir, clock, monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO, "fsvfm_jax"), open_tracker(workdir, start_step=2) as tracker:
        for step in range(3, 7):
            clock.seconds += 2.0
            tracker.step(step, {"loss": 0.25})
            if step == 5:
                clock.seconds += 30.0
                logging.getLogger("fsvfm_jax.run.lock").warning("from another module")
    shown = terminal.getvalue()
    assert "2/6" in shown
    assert "6/6" in shown
    assert "4 images/s  loss 0.25" in shown
    epochs = [f"epoch {n} at step {2 * n + 2}, mean of 2 steps  loss 0.25" for n in (1, 2)]
    said = [epochs[0], "from another module", epochs[1]]
    # Epochs have lines of their own above the bar, and steps have none.
    assert [line for line in shown.replace("\r", "\n").splitlines() if line in said] == said
    assert caplog.messages == said


def test_the_bar_of_a_long_run_fits_into_80_columns(workdir, clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    long_run = dict(total_steps=435_600, start_step=435_000, images_per_step=40_960)
    metrics = {"loss": 0.081231, "loss_rec": 0.5, "lr": 1.234e-5, "grad_norm": 0.012345}
    with open_tracker(workdir, steps_per_epoch=726.0, **long_run) as tracker:
        for step in (435_001, 435_002):
            clock.seconds += 3.0
            tracker.step(step, metrics)
        bar = tracker._bar
        bar.start_t = bar._time() - 1.7e5
        shown = bar.format_meter(**bar.format_dict | {"ncols": 80, "rate": 1 / 1200})
    assert len(shown) <= 80
    for part in ("435002/435600", "<199:20:00", "13653 images/s", "loss 0.0812"):
        assert part in shown
    assert shown.endswith("lr 1.2e-05  grad 0.012")


@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_epochs_are_logged_every_30_seconds_at_most_and_all_stored(
    workdir, clock, monkeypatch, caplog, on_a_terminal
):
    if on_a_terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
    with (
        caplog.at_level(logging.INFO, "fsvfm_jax"),
        open_tracker(workdir, total_steps=20, log_every=20) as tracker,
    ):
        for step in range(1, 21):
            clock.seconds += 5.0
            tracker.step(step, {"loss": 1.0})
    epochs = [line for line in caplog.messages if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["0", "3", "6", "9"]  # an epoch takes 10 s
    assert [line["epoch"] for line in read_lines(workdir / "epochs.jsonl")] == list(range(10))


# Tables


# An object store


class ObjectStore(MemoryFileSystem):
    """A store with complete objects only: no append, no rename."""

    protocol = ("gs", "gcs")
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    def _open(self, path, mode="rb", **options):
        assert "a" not in mode, "an object store cannot append"
        return super()._open(path, mode, **options)

    def mv(self, *arguments, **options):
        raise AssertionError("an object store cannot rename")


@pytest.fixture
def bucket():
    for protocol in ObjectStore.protocol:
        fsspec.register_implementation(protocol, ObjectStore, clobber=True)
    return epath.Path("gs://bucket/run")


def test_a_bucket_gets_the_same_files(bucket, tmp_path, clock):
    local = epath.Path(tmp_path / "run")
    for workdir in (bucket, local):
        for start, end in ((0, 3), (2, 6)):  # killed after step 3, resumed at 2
            with open_tracker(workdir, start_step=start) as tracker:
                for step in range(start + 1, end + 1):
                    tracker.step(step, {"loss": 1 / step})
                tracker.images(end, "faces", np.zeros((4, 4, 3), np.uint8))
    for name in ("metrics.jsonl", "epochs.jsonl"):
        assert (bucket / name).read_text() == (local / name).read_text()
    assert (bucket / "images" / "faces_0000006.png").exists()
    assert len(list((bucket / "tensorboard").iterdir())) == 2


def test_a_bucket_is_brought_up_to_date_every_minute(bucket, clock):
    with open_tracker(bucket / "other") as tracker:
        tracker.step(1, {"loss": 1.0})
        assert not (bucket / "other" / "metrics.jsonl").exists()
        clock.seconds += 61.0
        tracker.step(2, {"loss": 1.0})
        assert len((bucket / "other" / "metrics.jsonl").read_text().splitlines()) == 2
        tracker.step(3, {"loss": 1.0})
        tracker.sync()
        assert len((bucket / "other" / "metrics.jsonl").read_text().splitlines()) == 3
