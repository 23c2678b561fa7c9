"""Tests the metrics of groups, and the CSV file that names them."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import CONTENTS, KINDS, in_place_of
from scored_sets import scored

from fsvfm_jax.errors import DataError
from fsvfm_jax.report.groups import (
    MAX_BYTES,
    MAX_GROUPS,
    MAX_ROWS,
    Groups,
    caption,
    group_rows,
    match_groups,
    read_groups,
)
from fsvfm_jax.report.metrics import auc, video_means
from fsvfm_jax.report.table import markdown


def written(tmp_path, text):
    file = tmp_path / "groups.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def refused(tmp_path, text, column="light"):
    with pytest.raises(DataError) as error:
        read_groups(written(tmp_path, text), column)
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000
    return str(error.value).replace(str(tmp_path), "ROOT")


def test_a_file_gives_the_group_of_each_path(tmp_path):
    text = 'light,path,camera\nday,a/b.png,x\n"night, dark",./c,y\n\n-,d,z\n'
    found = read_groups(written(tmp_path, b"\xef\xbb\xbf" + text.encode()), "light")
    assert found == {"a/b.png": "day", "c": "night, dark", "d": "-"}
    assert read_groups(written(tmp_path, text.replace("\n", "\r\n")), "camera")["d"] == "z"


def test_names_that_are_not_utf8_are_kept(tmp_path):
    found = read_groups(written(tmp_path, b"path,light\nlatin-\xe9.png,day\n"), "light")
    assert found == {"latin-\udce9.png": "day"}


def test_a_wrong_line_is_named(tmp_path):
    head = "path,light\na,day\n"
    assert "line 3: 3 values under 2 headings" in refused(tmp_path, head + "b,day,x\n")
    assert "line 3: the path 'a' occurs a second time" in refused(tmp_path, head + "./a,day\n")
    assert "line 3: a group's name has 9,999 char" in refused(tmp_path, head + f"b,{'x' * 9999}\n")
    assert "line 3: 'light' is empty: name a group, or" in refused(tmp_path, head + "b, \n")
    assert "line 3: 'path' is empty: name a file" in refused(tmp_path, head + ",day\n")
    assert "line 3: unexpected end of data" in refused(tmp_path, head + '"b')
    assert "field larger than field limit" in refused(tmp_path, head + f"{'b' * 200_000},day\n")
    lines = "".join(f"{i},{i}\n" for i in range(MAX_GROUPS - 1))
    assert len(read_groups(written(tmp_path, head + lines), "light")) == MAX_GROUPS
    # The file is not read further than to the first group too many.
    too_many = head + lines + "x,night\n" + "wrong,line,\n"
    assert "has over 50 different values in the column 'light'" in refused(tmp_path, too_many)


def test_a_file_of_too_many_rows_is_refused_in_a_second(tmp_path):
    rows = "".join(f"{i},day\n" for i in range(MAX_ROWS))
    assert len(read_groups(written(tmp_path, "path,light\n" + rows), "light")) == MAX_ROWS
    said = refused(tmp_path, "path,light\n" + rows + "x,day\nwrong,line,\n")
    assert "has over 100,000 rows: name videos or folders" in said
    assert "such a file has at most" in refused(tmp_path, b" " * (MAX_BYTES + 1))


def test_a_wrong_heading_is_named(tmp_path):
    assert "has no column 'path' in its first line" in refused(tmp_path, "file,light\na,b\n")
    assert "no column 'light' in its first line; did you mean 'lights'" in refused(
        tmp_path, "path,lights\na,b\n"
    )
    assert "has 2 columns 'light'" in refused(tmp_path, "path,light,light\n")
    assert "the file is empty" in refused(tmp_path, "")


def test_other_files_are_refused(tmp_path):
    for content in CONTENTS.values():
        refused(tmp_path, content)
    for kind in KINDS:
        with in_place_of(tmp_path / kind, kind), pytest.raises(DataError, match="cannot be read"):
            read_groups(str(tmp_path / kind), "light")


@given(st.binary(max_size=80))
def test_any_bytes_give_groups_or_one_sentence(tmp_path_factory, content):
    try:
        found = read_groups(
            written(tmp_path_factory.getbasetemp(), b"path,light\n" + content), "light"
        )
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(x, str) for pair in found.items() for x in pair)


def test_the_most_exact_row_counts_and_what_is_left_over_is_named(caplog):
    table = {
        "real/a/1.png": "exact",
        "real/a": "folder",
        "fake/v": "video",
        "real/c.png": "no face",
        "../../etc/passwd": "no face",
    }
    names = ("real/a/1.png", "real/a/2.png", "fake/v_frame_7.png", "fake/w.png")
    files = {f"/root/set/{name}": name for name in names}
    with caplog.at_level(logging.WARNING):
        found = match_groups(table, files, column="light", what="groups.csv")
    assert [found.by_file.get(name) for name in files] == ["exact", "folder", "video", None]
    assert found.without == ("/root/set/fake/w.png",)
    assert "1 of 4 faces have no row and are in no group: /root/set/fake/w.png" in caplog.text
    assert "2 of 5 rows name no face of the set: real/c.png, ../../etc/passwd" in caplog.text
    assert found.unused == ("real/c.png", "../../etc/passwd")
    assert "2 rows of the file name no face: real/c.png, ../../etc/passwd." in caption(found)


def test_a_row_of_the_whole_set_counts_where_no_other_does():
    files = {"/s/a.png": "a.png", "/s/b/c.png": "b/c.png"}
    found = match_groups({".": "all", "b": "folder"}, files, column="c", what="g.csv")
    assert found.by_file == {"/s/a.png": "all", "/s/b/c.png": "folder"} and not found.unused


def test_long_names_are_cut_in_messages(caplog):
    long, face = "x" * 130_000, "y" * 130_000
    with pytest.raises(DataError, match="names none of the 1 faces") as error:
        match_groups({long: "day"}, {face: face}, column="c", what="g.csv")
    assert len(str(error.value)) < 1000
    with caplog.at_level(logging.WARNING):
        match_groups({long: "day", "a": "day"}, {face: face, "a": "a"}, column="c", what="g.csv")
    assert len(caplog.messages) == 2 and max(map(len, caplog.messages)) < 1000


def test_a_file_that_names_no_face_is_refused():
    with pytest.raises(DataError, match="names none of the 1 faces: its paths, such as 'x'"):
        match_groups({"x": "day"}, {"/s/real/a.png": "real/a.png"}, column="c", what="g.csv")


SCORES = scored(
    "mine",
    {
        **{f"f{i}": (0.9, 0.8) for i in range(4)},
        **{f"r{i}": (0.1, 0.3) for i in range(4)},
        "f8": (0.4, 0.2),
        "r8": (0.6, 0.6),
        "f9": (0.7, 0.7),
    },
)


def by_video(group_of):
    files = SCORES.files.tolist()
    known = {f: group_of[f.split("_")[0]] for f in files if f.split("_")[0] in group_of}
    return Groups("light", known, tuple(f for f in files if f not in known))


def test_the_worst_group_is_first_and_its_metrics_are_those_of_its_videos():
    names = np.unique(SCORES.videos).tolist()
    found = by_video({name: "night" if name[1] in "8" else "day" for name in names})
    rows = group_rows(SCORES, found, thresholds={"0.5": 0.5})
    assert [row["group"] for row in rows] == ["night", "day"]
    night, day = rows
    assert (night["auc"], night["tpr@0.5"], night["fpr@0.5"]) == (0.0, 0.0, 1.0)
    assert (night["faces"], night["real"], night["fake"]) == (4, 1, 1)
    assert (day["auc"], day["tpr@0.5"], day["fpr@0.5"]) == (1.0, 1.0, 0.0)
    assert day["fpr_interval@0.5"][1] > 0.3  # no error of 4 does not mean none
    assert "note" not in day


def test_a_group_of_one_class_compares_with_all_of_the_other():
    found = by_video({"f8": "gan", "f9": "swap", "f0": "swap", "r8": "real"})
    rows = {row["group"]: row for row in group_rows(SCORES, found, thresholds={"0.5": 0.5})}
    everything = video_means(SCORES.p_fake, SCORES.fake, SCORES.videos)
    kept = ~everything.positive | np.isin(everything.videos, ["f8"])
    assert rows["gan"]["auc"] == auc(everything.scores[kept], everything.positive[kept])
    assert rows["gan"]["note"] == "AUC against all real videos"
    assert rows["real"]["note"] == "AUC against all fake videos"
    assert "fpr@0.5" not in rows["gan"] and "tpr@0.5" not in rows["real"]
    assert rows["swap"]["tpr@0.5"] == 1.0


def test_frames_of_a_video_may_be_in_several_groups():
    files = SCORES.files.tolist()
    found = Groups("frame", {f: f[-5] for f in files}, ())
    rows = group_rows(SCORES, found, thresholds={})
    assert {row["group"]: row["faces"] for row in rows} == {"0": 11, "1": 11}


def test_hostile_names_have_no_effect_in_the_table():
    found = Groups("a|b\n# <b>", {f: "x|y\n<img>" for f in SCORES.files.tolist()}, ("f|<b>\n",))
    text = markdown(group_rows(SCORES, found, thresholds={"0.5": 0.5}), caption(found))
    assert "<img>" not in text.replace("\\<img", "") and "\n# " not in text
    assert text.count("\n|") == 3
    assert "1 faces have no row" in text
