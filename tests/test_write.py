"""Tests the files of a report: names, content, and errors before anything is written."""

import csv
import io
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scored_sets import BY_HAND, same, scored

from fsvfm_jax.errors import DataError, StorageError
from fsvfm_jax.report.rows import detection_row
from fsvfm_jax.report.scores import Scores, read_scores
from fsvfm_jax.report.table import markdown
from fsvfm_jax.report.write import file_stems, read_rows, write_report

pytestmark = pytest.mark.usefixtures("few_draws")


def row_of(scores: Scores):
    return detection_row(scores, selection="last", step=1, seed=0)


def test_a_report_has_these_files(tmp_path):
    sets = [scored("Celeb-DF-v2", BY_HAND), scored("Celeb-DF++", BY_HAND)]
    rows = [row_of(scores) for scores in sets]
    write_report(tmp_path / "new" / "report", rows, sets, caption="What it shows.")
    folder = tmp_path / "new" / "report"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    of_sets = {
        f"scores/{name}{end}.csv"
        for name in ("Celeb-DF-v2", "Celeb-DF++")
        for end in ("", "_videos")
    }
    assert files == {"table.md", "table.json", "roc.png"} | of_sets
    assert (folder / "table.md").read_text() == markdown(rows, "What it shows.")
    table = json.loads((folder / "table.json").read_text(), parse_constant=pytest.fail)
    assert table == {"caption": "What it shows.", "rows": rows}
    assert same(read_scores(folder / "scores/Celeb-DF++.csv", dataset="Celeb-DF++"), sets[1])
    lines = list(csv.reader(io.StringIO((folder / "scores/Celeb-DF-v2_videos.csv").read_text())))
    assert [line[0] for line in lines[1:]] == sorted(BY_HAND)
    with Image.open(folder / "roc.png") as png:
        assert png.format == "PNG" and png.size[0] > 1000


def test_the_same_report_is_the_same_bytes(tmp_path):
    sets = [scored("a", BY_HAND), scored("b", {"r": (0.5,)})]
    for name in ("one", "two"):
        write_report(tmp_path / name, [row_of(sets[0])], sets, caption="x")
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path


def test_json_that_would_not_be_strict_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "x", [{"dataset": "a", "auc": float("nan")}], [], caption="x")
    assert not (tmp_path / "x").exists()


def test_tables_alone_have_no_picture(tmp_path):
    write_report(tmp_path, [{"dataset": "a", "auc": 0.5}], [], caption="x")
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "table.json"}


def test_a_set_without_images_has_no_files(tmp_path):
    sets = [scored("a", BY_HAND), scored("b", {})]
    write_report(tmp_path, [row_of(sets[0])], sets, caption="x")
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"a.csv", "a_videos.csv"}


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Celeb-DF-v2", "Celeb-DF-v2"),
        ("Celeb-DF++", "Celeb-DF++"),
        ("DiFF T2I", "DiFF_T2I"),
        ("MSU (last)", "MSU_last"),
        ("../../etc/passwd", "etc_passwd"),
        ("/etc/passwd", "etc_passwd"),
        ("a\\..\\b", "a_.._b"),
        (".hidden", "hidden"),
        ("a\0b\nc", "a_b_c"),
        ("脸", "脸"),
    ],
)
def test_a_sets_name_becomes_a_files(name, stem):
    assert file_stems([name]) == {name: stem}


@given(st.text())
def test_no_name_leaves_the_folder(name):
    try:
        (stem,) = file_stems([name]).values()
    except DataError:
        return
    assert os.path.basename(f"{stem}.csv") == f"{stem}.csv"
    assert "\0" not in stem and not stem.startswith(".") and "\\" not in stem


@pytest.mark.parametrize("name", ["", "..", "/", "...", "__"])
def test_a_name_that_leaves_nothing_is_refused(name):
    with pytest.raises(DataError, match="leaves no name for a file"):
        file_stems([name])


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a/b", "a b"), ("FF", "ff"), ("x", "x_videos"), ("x_videos", "x")]
)
def test_two_names_do_not_fall_on_one_file(tmp_path, names):
    sets = [scored(name, BY_HAND) for name in names]
    with pytest.raises(DataError, match=r"would both be in .*\.csv"):
        write_report(tmp_path / "x", [], sets, caption="x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"table\.md cannot be written"):
        write_report(tmp_path / "file", [{"dataset": "a"}], [], caption="x")


def test_a_report_is_written_through_no_link_and_into_no_pipe(tmp_path):
    scores = scored("a", BY_HAND)
    outside = tmp_path / "outside"
    (outside / "scores").mkdir(parents=True)
    (outside / "table.json").write_text("of somebody else")
    report = tmp_path / "report"
    report.mkdir()
    (report / "table.json").symlink_to(outside / "table.json")
    (report / "roc.png").symlink_to(outside / "missing.png")
    (report / "scores").symlink_to(outside / "scores")
    os.mkfifo(report / "table.md")
    write_report(report, [{"dataset": "a"}], [scores], caption="x")
    assert (outside / "table.json").read_text() == "of somebody else"
    assert sorted(path.name for path in outside.rglob("*")) == ["scores", "table.json"]
    assert read_rows(report / "table.json") == [{"dataset": "a"}]
    assert same(read_scores(report / "scores" / "a.csv", dataset="a"), scores)
    assert (report / "table.md").is_file() and (report / "roc.png").is_file()


def test_a_report_is_written_into_a_linked_folder(tmp_path):
    """Tests a folder on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "report").symlink_to(tmp_path / "disk")
    write_report(tmp_path / "report", [{"dataset": "a"}], [], caption="x")
    assert read_rows(tmp_path / "disk" / "table.json") == [{"dataset": "a"}]
