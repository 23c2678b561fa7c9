"""Tests hashes of saved steps, and what happens to steps that are damaged."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from odd_files import BYTES, CONTENTS, JSON, KINDS, in_place_of

from fsvfm_jax.host.storage import write_json
from fsvfm_jax.run import integrity


@pytest.fixture
def step(tmp_path):
    """Returns a valid step of a few files."""
    step = epath.Path(tmp_path / "checkpoints" / "7")
    (step / "state" / "d").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("state/d/0", "state/d/1", "state/manifest.json", "metadata", "empty"):
        (step / name).write_bytes(rng.bytes(0 if name == "empty" else 300))
    finish(step)
    return step


def finish(step):
    integrity.finish_step(step.parent, int(step.name), score=0.5)


def files(step):
    return sorted(epath.Path(path) for path in Path(step).rglob("*") if path.is_file())


def test_every_file_is_in_the_manifest(step):
    listed = json.loads((step / "manifest.json").read_text())["files"]
    assert listed.keys() == {str(p.relative_to(step)) for p in files(step)} - {"manifest.json"}
    assert integrity.damage(step) is None


def test_no_flipped_bit_goes_unseen(step):
    """Flips 200 bits, spread over all files; in the manifest itself some change no hash."""
    rng = np.random.default_rng(1)
    everything = [file for file in files(step) if file.stat().length]
    listed = json.loads((step / "manifest.json").read_text())["files"]
    for count in range(200):
        file = everything[count % len(everything)]
        original = file.read_bytes()
        changed = bytearray(original)
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        file.write_bytes(bytes(changed))
        reason = integrity.damage(step)
        if reason is None:
            assert file.name == "manifest.json" and file.parent == step
            assert json.loads(file.read_text())["files"] == listed
        file.write_bytes(original)
    assert integrity.damage(step) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: (s / "metadata").unlink(), "metadata is missing"),
        (lambda s: (s / "state" / "d" / "1").write_bytes(b""), "state/d/1 has changed"),
        (lambda s: (s / "empty").write_bytes(b"x"), "empty has changed"),
        (lambda s: (s / "more").write_bytes(b"x"), "more was added"),
        (lambda s: (s / "manifest.json").unlink(), "its manifest.json is missing"),
        (lambda s: (s / "manifest.json").write_bytes(b""), "cannot be read"),
        (lambda s: (s / "manifest.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda s: (s / "manifest.json").write_text("[1]"), "cannot be read"),
        (lambda s: (s / "state" / "d").rmtree(), "state/d/0 is missing"),
        (lambda s: integrity.quarantine(s, "a reason"), "a reason"),
    ],
)
def test_damage_is_named(step, change, reason):
    change(step)
    assert reason in integrity.damage(step)


def test_what_is_quarantined_is_moved_whole_and_nothing_is_lost(step):
    directory = step.parent
    for count in (1, 2):
        integrity.quarantine(step, "a reason")
        integrity.tidy(directory)
        assert integrity.steps(directory) == []
        moved = directory.parent / "quarantine" / f"7-{count}"
        assert (moved / "quarantined.txt").read_text() == "a reason\n"
        assert len(files(moved)) == (7 if count == 1 else 2)
        step.mkdir()
        (step / "commit_success.txt").write_text("again")


def test_a_deletion_that_was_cut_off_is_finished(step):
    directory = step.parent
    (step / "retired.txt").write_text("of no more use")
    (step / "manifest.json").unlink()
    integrity.tidy(directory)
    assert list(directory.iterdir()) == []


def test_what_was_never_written_whole_is_deleted_and_all_else_left_alone(step):
    directory = step.parent
    for name in ("8.orbax-checkpoint-tmp-1", "9/state", "10/state", "notes"):
        (directory / name).mkdir(parents=True)
    (directory / "10" / "commit_success.txt").write_text("")
    integrity.tidy(directory)
    assert integrity.steps(directory) == [7, 10]
    assert {path.name for path in directory.iterdir()} == {"7", "10", "notes"}
    assert integrity.steps(directory / "missing") == []


@pytest.mark.parametrize("cut", ["nothing written", "no manifest", "torn manifest", "whole"])
def test_a_step_that_a_run_died_saving_is_deleted_unless_it_was_whole_already(step, cut):
    directory = step.parent
    integrity.begin_step(directory, 7)
    if cut == "nothing written":
        step.rmtree()
    elif cut == "no manifest":
        (step / "manifest.json").unlink()
    elif cut == "torn manifest":
        (step / "manifest.json").write_text('{"files')
    assert integrity.unfinished_step(directory) == 7
    integrity.tidy(directory)
    assert integrity.steps(directory) == ([7] if cut == "whole" else [])
    assert integrity.unfinished_step(directory) is None
    assert not (directory.parent / "quarantine").exists()


@pytest.mark.parametrize("note", ["", "8x", "../7"])
def test_a_torn_note_of_saving_deletes_nothing(step, note):
    (step.parent.parent / "saving.txt").write_text(note)
    integrity.tidy(step.parent)
    assert integrity.damage(step) is None
    assert [path.name for path in step.parent.parent.iterdir()] == ["checkpoints"]


def test_the_score_is_noted_and_a_damaged_one_is_none(step):
    assert integrity.score(step) == 0.5
    (step / "manifest.json").write_text("{}")
    assert np.isnan(integrity.score(step))


SCORES = st.dictionaries(st.integers(1, 60), st.sampled_from([1.0, 2.0, 3.0, np.nan]), max_size=20)


@given(SCORES, st.integers(1, 5), st.integers(0, 7), st.integers(0, 3))
def test_the_policy(scores, keep, keep_every, keep_best):
    kept = integrity.retained(scores, keep=keep, keep_every=keep_every, keep_best=keep_best)
    newest = set(sorted(scores)[-keep:])
    multiples = {n for n in scores if keep_every and n % keep_every == 0}
    best = kept - newest - multiples
    assert newest | multiples <= kept <= scores.keys() and len(best) <= keep_best
    for given_up in scores.keys() - kept:
        better = [n for n in kept if not scores[n] > scores[given_up]]
        assert len(better) >= keep_best


# Odd files


def one_line(reason):
    assert reason and "\n" not in reason and "Traceback" not in reason
    return reason


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_an_odd_manifest_is_damage(step, content):
    (step / "manifest.json").write_bytes(content)
    assert "cannot be read" in one_line(integrity.damage(step))
    assert np.isnan(integrity.score(step))


@pytest.mark.parametrize(
    "manifest",
    [
        {"files": {}},
        {"score": "good", "files": {}},
        {"score": 0.5, "files": []},
        {"score": 0.5, "files": {"a": 1}},
        {"score": 0.5, "files": {"a": "0" * 65}},
        {"score": 0.5, "files": {"a" * 2000: ""}},
        {"score": 0.5, "files": {}, "sizes": {"a": -1}},
        {"score": 0.5, "files": {}, "sizes": None},
    ],
)
def test_a_manifest_of_another_form_is_damage(step, manifest):
    (step / "manifest.json").write_text(json.dumps(manifest))
    assert "cannot be read" in one_line(integrity.damage(step))


def test_a_manifest_without_sizes_counts_as_before(step):
    """Reads a checkpoint of an older version."""
    manifest = json.loads((step / "manifest.json").read_text())
    del manifest["sizes"]
    (step / "manifest.json").write_text(json.dumps(manifest | {"more": 1}))
    assert integrity.damage(step) is None
    (step / "metadata").write_bytes(bytes(300))
    assert integrity.damage(step) == "metadata has changed since it was written"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["metadata", "state/d/1", "manifest.json", "state/more"])
def test_what_is_no_plain_file_is_damage_at_once(step, kind, name, monkeypatch):
    """Checks that nothing is hashed, however large the file is."""
    monkeypatch.setattr(integrity, "_hash", None)
    with in_place_of(Path(step / name), kind):
        if kind == "folder":
            (step / name / "file").write_text("")
        one_line(integrity.damage(step))


def test_names_in_a_manifest_are_never_opened(step, tmp_path):
    for name in ("../../outside", str(tmp_path / "outside"), "state/../../../outside"):
        (tmp_path / "outside").write_bytes(b"x")
        manifest = json.loads((step / "manifest.json").read_text())
        manifest["files"][name] = manifest["sizes"][name] = 1
        manifest["files"][name] = "0" * 64
        (step / "manifest.json").write_text(json.dumps(manifest))
        assert integrity.damage(step) == f"{name} is missing"
        finish(step)


def test_a_link_in_a_step_leads_nowhere(step):
    """Tests links that lead out of the step, and links that lead back into it."""
    reasons = {
        "/": "it cannot be read (state/link is a link to a folder)",
        ".": "it cannot be read (state/link is a link to a folder)",
        "manifest.json": "state/link was added",
        "missing": "it cannot be read (No such file or directory)",
        "link": "it cannot be read (Too many levels of symbolic links)",
        "/dev/zero": "state/link was added",
    }
    for target, reason in reasons.items():
        link = Path(step / "state" / "link")
        link.symlink_to(target)
        assert integrity.damage(step) == reason
        link.unlink()


def test_files_that_a_store_links_are_as_their_contents(step, tmp_path):
    for number, file in enumerate(files(step)):
        stored = tmp_path / f"store-{number}"
        file.rename(stored)
        os.symlink(stored, file)
    assert integrity.damage(step) is None and integrity.score(step) == 0.5
    integrity.tidy(step.parent)
    assert integrity.steps(step.parent) == [7]
    Path(step / "metadata").resolve().write_bytes(bytes(300))
    assert integrity.damage(step) == "metadata has changed since it was written"
    Path(step / "metadata").unlink()
    os.symlink("/dev/zero", step / "metadata")
    one_line(integrity.damage(step))


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize("kind", [*KINDS, "file", "link", "dangling"])
def test_what_has_the_name_of_an_unfinished_step_is_deleted_as_what_it_is(step, kind, tmp_path):
    """Checks that it is deleted at once, and that the target of a link is kept."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of somebody else")
    make_odd(Path(step.parent / "5.orbax-checkpoint-tmp-1"), kind, outside)
    integrity.tidy(step.parent)
    assert names(step.parent) == ["7"] and names(outside) == ["file"]


def make_odd(place, kind, outside):
    if kind == "file":
        place.write_text("")
    elif kind in ("link", "dangling"):
        place.symlink_to(outside if kind == "link" else "missing")
    else:
        with in_place_of(place, kind):
            pass


@pytest.mark.parametrize("saving", ["7", "900"])
@pytest.mark.parametrize("marker", [None, "quarantined.txt", "retired.txt", "manifest.json"])
def test_a_linked_step_is_no_step_and_nothing_is_written_behind_it(step, saving, marker, tmp_path):
    outside = tmp_path / "outside"
    (outside / "state").mkdir(parents=True)
    if marker:
        (outside / marker).write_text("odd")
    before = names(outside)
    os.symlink(outside, step.parent / "900")
    Path(step.parent.parent / "saving.txt").write_text(saving)
    assert integrity.steps(step.parent) == [7]
    integrity.tidy(step.parent)
    assert names(step.parent) == ["7"] and names(outside) == before
    moved = Path(step.parent.parent / "quarantine" / "900-1")
    assert moved.is_symlink() and integrity.damage(step) is None


@pytest.mark.parametrize("kind", ["link", "dangling", "file", "pipe"])
def test_the_quarantine_is_a_folder_of_the_workdir(step, kind, tmp_path, caplog):
    outside = tmp_path / "outside"
    outside.mkdir()
    make_odd(Path(step.parent.parent / "quarantine"), kind, outside)
    integrity.quarantine(step, "a reason")
    integrity.tidy(step.parent)
    assert names(outside) == [] and names(step.parent) == []
    assert names(step.parent.parent / "quarantine") == ["7-1"]
    assert "quarantine is set aside as quarantine.odd-1" in caplog.text


def test_the_largest_manifest_can_be_read(step):
    length = integrity.MAX_NAME - len('""')
    of_file = {f"{number:0{length}}": "0" * 64 for number in range(integrity.MAX_FILES)}
    sizes = dict.fromkeys(of_file, integrity.MAX_FILE_BYTES)
    manifest = integrity.Manifest(score=0.1 + 0.2, files=of_file, sizes=sizes)
    write_json(step / "manifest.json", manifest)
    assert integrity.score(step) == 0.1 + 0.2


def test_a_name_that_is_too_long_for_a_manifest_is_refused_when_it_is_saved(step):
    length = integrity.MAX_NAME - len('""')
    for longest in ("x" * length, "é" * (length // len(r"\u00e9"))):
        (step / longest).write_text("")
        finish(step)
        assert integrity.damage(step) is None
        (step / longest).rename(step / (longest + longest[0]))
        with pytest.raises(OSError, match="is too long"):
            finish(step)
        (step / (longest + longest[0])).unlink()


def test_depth_and_number_of_files_are_bounded(step, monkeypatch):
    deep = step / "/".join("d" * 40)
    deep.mkdir(parents=True)
    assert "too deep" in one_line(integrity.damage(step))
    (step / "d").rmtree()
    monkeypatch.setattr(integrity, "MAX_FILES", 4)
    assert "more than 4 files" in one_line(integrity.damage(step))


@pytest.mark.parametrize("kind", ["folder", "pipe", "sparse", "device"])
def test_an_odd_marker_marks(step, kind):
    with in_place_of(Path(step / "quarantined.txt"), kind):
        assert "quarantined.txt cannot be read" in one_line(integrity.damage(step))
        integrity.tidy(step.parent)
        assert integrity.steps(step.parent) == []
        assert [path.name for path in (step.parent.parent / "quarantine").iterdir()] == ["7-1"]


@pytest.mark.parametrize(
    "name", ["²", "٣", "01", "00", "9" * 30, "1" + "0" * 18, pytest.param("8", id="a file 8")]
)
def test_what_orbax_would_take_for_a_step_is_put_away(step, name, caplog):
    if name == "8":
        (step.parent / name).write_text("x")
    else:
        (step.parent / name).mkdir()
    integrity.tidy(step.parent)
    assert [path.name for path in step.parent.iterdir()] == ["7"]
    assert (step.parent.parent / "quarantine" / f"{name}-1").exists()
    assert "is no checkpoint" in caplog.text and integrity.damage(step) is None


@pytest.mark.parametrize("name", ["-3", "x7", "7 ", "notes", "1e3", "+7"])
def test_what_is_no_steps_name_is_left_alone(step, name):
    (step.parent / name).mkdir()
    integrity.tidy(step.parent)
    assert integrity.steps(step.parent) == [7]
    assert (step.parent / name).exists()


@pytest.mark.parametrize("content", [*CONTENTS.values(), "²".encode(), b"01", b"-7", b"9" * 30])
def test_an_odd_note_of_saving_is_told_and_deletes_nothing(step, content, caplog):
    note = step.parent.parent / "saving.txt"
    note.write_bytes(content)
    assert integrity.unfinished_step(step.parent) in (None, 7)
    integrity.tidy(step.parent)
    assert not note.exists() and integrity.damage(step) is None
    assert content == b"7" or "names no step" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_note_of_saving_is_in_nobodys_way(step, kind, caplog):
    note = Path(step.parent.parent / "saving.txt")
    with in_place_of(note, kind):
        integrity.tidy(step.parent)
        assert not note.exists() and integrity.damage(step) is None
        assert note.with_name("saving.txt.odd-1").exists() == (kind == "folder")
        assert "saving.txt" in caplog.text
    with in_place_of(note, "pipe"):
        integrity.begin_step(step.parent, 8)  # Writing waits for no reader.
        assert integrity.unfinished_step(step.parent) == 8


def test_a_step_is_begun_only_where_a_folder_can_be_made(step):
    integrity.begin_step(step.parent, 8)
    assert [path.name for path in step.parent.iterdir()] == ["7"]
    step.parent.rmtree()
    with pytest.raises(FileNotFoundError):
        integrity.begin_step(step.parent, 8)


@given(JSON.map(lambda value: json.dumps(value).encode()) | BYTES)
def test_no_manifest_or_note_is_more_than_damage(tmp_path_factory, content):
    step = epath.Path(tmp_path_factory.getbasetemp() / "any" / "checkpoints" / "7")
    step.mkdir(parents=True, exist_ok=True)
    (step / "commit_success.txt").write_text("")
    (step / "quarantined.txt").unlink(missing_ok=True)
    (step / "manifest.json").write_bytes(content)
    one_line(integrity.damage(step))
    assert isinstance(integrity.score(step), float)
    (step / "quarantined.txt").write_bytes(content)
    assert integrity.damage(step)
    (step.parent.parent / "saving.txt").write_bytes(content)
    integrity.unfinished_step(step.parent)
