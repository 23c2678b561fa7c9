"""Tests that scores in files of others are read and matched, or refused in one sentence."""

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_trees import write_pictures
from scored_sets import HOSTILE, write_given, write_parquet

from fsvfm_jax.data.labelled.faces import LabelledFaces
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.errors import DataError
from fsvfm_jax.report import given_scores
from fsvfm_jax.report.given_scores import match_given, read_given

PATHS = [f"test/{label}/v{video}/{i}.png" for label in ("fake", "real") for video in (0, 1)
         for i in (0, 1)]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    write_pictures(folder, PATHS)
    return folder


def match(root, file, **options):
    faces = LabelledFaces(read_set("folder", str(root), split="test", name="mine"))
    options = {"root": str(root), "dataset": "mine", "allow_missing": False} | options
    return match_given(read_given(file), faces, **options)


def refused(root, file, **options):
    with pytest.raises(DataError) as error:
        match(root, file, **options)
    text = str(error.value)
    assert "\n" not in text and len(text) < 1500
    return text.replace(str(root), "ROOT")


def scored(paths=PATHS):
    return [(path, i / 10) for i, path in enumerate(paths)]


@pytest.mark.parametrize("absolute", [False, True])
def test_scores_come_in_the_order_of_the_set_whatever_the_order_of_the_file(
    root, tmp_path, absolute
):
    rows = [(os.path.join(root, path) if absolute else f"./{path}", p) for path, p in scored()]
    random.Random(0).shuffle(rows)
    found = match(root, write_given(tmp_path / "x.csv", rows))
    assert found.scores.files.tolist() == [str(root / path) for path in PATHS]
    assert found.scores.p_fake.tolist() == [i / 10 for i in range(8)]
    assert found.scores.fake.tolist() == [True] * 4 + [False] * 4
    assert len(set(found.scores.videos.tolist())) == 4
    assert (found.scores.skipped, list(found.unused)) == (0, [])


@pytest.mark.parametrize("name", ["{}", "./{}/", "{}/../{}"])
def test_the_root_may_be_a_relative_path(root, tmp_path, monkeypatch, name):
    monkeypatch.chdir(root.parent)
    given = write_given(tmp_path / "x.csv", scored())
    found = match(name.format(root.name, root.name), given)
    assert found.scores.p_fake.tolist() == [i / 10 for i in range(8)]
    absolute = [(str(root / path), p) for path, p in scored()]
    found = match(root.name, write_given(tmp_path / "y.csv", absolute))
    assert found.scores.p_fake.tolist() == [i / 10 for i in range(8)]


def test_other_columns_are_not_read_and_parquet_gives_the_same(root, tmp_path):
    rows = [(p, "note", path) for path, p in scored()]
    of_csv = match(root, write_given(tmp_path / "x.csv", rows, ("p_fake", "note", "path")))
    paths, values = zip(*scored(), strict=True)
    file = write_parquet(tmp_path / "x.parquet", path=paths, p_fake=values, other=[None] * 8)
    of_parquet = match(root, file)
    np.testing.assert_array_equal(of_csv.scores.p_fake, of_parquet.scores.p_fake)
    file = write_parquet(tmp_path / "y.parquet", path=paths, p_fake=np.float32(values))
    np.testing.assert_allclose(match(root, file).scores.p_fake, of_csv.scores.p_fake, atol=1e-7)


def test_faces_without_a_score_are_refused_or_counted(root, tmp_path, caplog):
    file = write_given(tmp_path / "x.csv", scored(PATHS[2:]))
    said = refused(root, file)
    assert "2 of 8 faces of mine have no score: test/fake/v0/0.png, test/fake/v0/1.png;" in said
    found = match(root, file, allow_missing=True)
    assert found.scores.skipped == 2 and len(found.scores.files) == 6
    assert "2 of 8 faces of mine have no score" in caplog.text


def test_rows_that_name_no_face_are_counted_and_named(root, tmp_path, caplog):
    file = write_given(tmp_path / "x.csv", [*scored(), ("val/real/a\nb.png", 0.5)])
    assert list(match(root, file).unused) == ["val/real/a\nb.png"]
    assert "1 of 9 rows are not used: they name no face of mine, or a frame that" in caplog.text
    said = refused(root, write_given(tmp_path / "x.csv", [("real/v0/0.png", 0.5)]))
    assert "names none of the 8 faces of mine: its paths, such as 'real/v0/0.png'," in said
    assert "must be relative to ROOT, such as 'test/fake/v0/0.png'" in said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [("a.png", "nan"), ("b.png", "1.5"), ("c.png", "0.5"), ("d.png", "")],
            "3 of 4 scores are no numbers from 0 to 1, the first 'nan' of 'a.png' (row 1); p_fake",
        ),
        ([("a.png", "-inf")], "1 of 1 scores are no numbers from 0 to 1, the first '-inf'"),
        ([("a.png", "high")], "the first 'high' of 'a.png'"),
        (
            [("a.png", 0.1), ("b.png", 0.2), ("./a.png", 0.1), ("x/../b.png", 0.3)],
            "2 of 4 rows have the path of an earlier row, the first './a.png' (row 3); a face has",
        ),
        (
            [("a.png", 0.1), ("/etc/passwd", 0.2), ("../b.png", 0.2), ("a/../../c.png", 0.2)],
            "3 of 4 paths are not those of a file below the root, the first '/etc/passwd' (row 2)",
        ),
        ([(".", 0.2)], "1 of 1 paths are not those of a file below the root, the first '.'"),
        ([("a.png", 0.1), ("", 0.2)], "line 3: row 2: 'path' is empty"),
        ([("a" * 5000, 0.1)], "line 2: row 1: a path has 5,000 characters, over 4096"),
        ([("a.png", 0.1, 7)], "line 2: 3 values under 2 headings"),
        ([("a\nb.png", "x"), ("c.png", 0.1)], "the first 'x' of 'a\\nb.png' (row 1)"),
        ([], "has no rows: write one for each face"),
    ],
)
def test_wrong_rows_are_counted_and_the_first_is_named(root, tmp_path, rows, said):
    assert said in refused(root, write_given(tmp_path / "x.csv", rows))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no columns path and p_fake in its first line"),
        (b"file,p_fake\na,0.5\n", "has no columns path and p_fake in its first line 'file,p_fake'"),
        (b"path,path,p_fake\n", "has 2 columns 'path'"),
        (b'path,p_fake\n"a', "line 2: unexpected end of data; correct the line"),
        (b'path,p_fake\n"a"b,1', "line 2: "),
        (b"path,p_fake\n" + b"a" * 200_000, "line 2: field larger than field limit"),
        (b"\xff\xfep\0a\0t\0h\0", "has no columns path and p_fake"),
    ],
)
def test_what_is_no_csv_of_scores_is_refused(root, tmp_path, content, said):
    (tmp_path / "x.csv").write_bytes(content)
    assert said in refused(root, str(tmp_path / "x.csv"))


def test_what_is_no_plain_file_or_too_large_is_refused(root, tmp_path, monkeypatch):
    assert "No such file" in refused(root, str(tmp_path / "no.csv"))
    os.mkfifo(tmp_path / "pipe.csv")
    assert "it is a named pipe" in refused(root, str(tmp_path / "pipe.csv"))
    assert "it is a folder" in refused(root, str(tmp_path))
    file = write_given(tmp_path / "x.csv", scored())
    monkeypatch.setattr(given_scores, "MAX_ROWS", 3)
    assert "line 5: there are over 3 rows" in refused(root, file)
    monkeypatch.setattr(given_scores, "MAX_BYTES", 100)
    assert "such a file has at most 100" in refused(root, file)


def test_what_is_no_parquet_of_scores_is_refused(root, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")

    def said(**columns):
        return refused(root, write_parquet(tmp_path / "x.parquet", **columns))

    assert "has no column 'p_fake'" in said(path=["a"])
    assert "the column path is int64: write text" in said(path=[1], p_fake=[0.5])
    assert "1 of 2 scores are no numbers from 0 to 1, the first None of 'b'" in said(
        path=["a", "b"], p_fake=[0.5, None]
    )
    assert "row 1: 'path' is empty" in said(path=[None, "a"], p_fake=[0.5, 0.5])
    assert "the column p_fake is list<" in said(path=["a"], p_fake=[[0.5]])
    assert "the column p_fake is string: write numbers" in said(path=["a"], p_fake=["0.5"])
    # A terabyte of text in a short file.
    rows = np.zeros(10**6, np.int8)
    path = pyarrow.DictionaryArray.from_arrays(rows, ["a" * 10**6])
    many = said(path=path, p_fake=np.zeros(10**6))
    assert "a path has 1,000,000 bytes, over 16,384" in many
    assert (tmp_path / "x.parquet").stat().st_size < 2 * 10**6
    for content in (b"", b"PAR1", b"PAR1" * 100):
        (tmp_path / "x.parquet").write_bytes(content)
        assert "cannot be read as Parquet" in refused(root, str(tmp_path / "x.parquet"))
    monkeypatch.setattr(given_scores, "MAX_ROWS", 3)
    assert "has 4 rows of" in said(path=["a"] * 4, p_fake=[0.5] * 4)


def test_names_that_no_text_can_hold_are_matched_byte_by_byte(tmp_path):
    names = [f"{label}/{name or 'x'}" for label in ("real", "fake") for name in HOSTILE[:-4]]
    names = [name if name.endswith(".png") else f"{name}.png" for name in names]
    names += [f"real/{os.fsdecode(bytes([233]))}.png", "fake/ü 脸.png"]
    write_pictures(tmp_path / "root", names)
    rows = [(name, i / 100) for i, name in enumerate(names)]
    file = write_given(tmp_path / "x.csv", rows)
    faces = LabelledFaces(read_set("folder", str(tmp_path / "root"), split="", name="x"))
    found = match_given(
        read_given(file), faces, root=str(tmp_path / "root"), dataset="x", allow_missing=False
    )
    by_file = dict(zip(found.scores.files.tolist(), found.scores.p_fake.tolist(), strict=True))
    assert by_file == {str(tmp_path / "root" / name): p for name, p in rows}


@settings(max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    suffix = data.draw(st.sampled_from(["csv", "parquet"]))
    file = folder / f"changed.{suffix}"
    paths, values = zip(*scored(), strict=True)
    if suffix == "csv":
        write_given(file, scored())
    else:
        write_parquet(file, path=paths, p_fake=values)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = read_given(str(file))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len(found.paths) == len(found.p_fake) and ((found.p_fake >= 0).all())
