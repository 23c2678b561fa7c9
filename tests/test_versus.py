"""Tests the command that compares the reports of two detectors."""

import json
import os
import re

import numpy as np
import pytest
from labelled_trees import write_pictures
from markdown_it import MarkdownIt
from scored_sets import scored

from fsvfm_jax.report import paired
from fsvfm_jax.report.__main__ import main
from fsvfm_jax.report.bootstrap import bootstrap_values
from fsvfm_jax.report.rows import detection_row
from fsvfm_jax.report.write import write_report

FIRST = {"f0": (0.9, 0.8), "f1": (0.7,), "f2": (0.6,), "r0": (0.1,), "r1": (0.2,), "r2": (0.3,)}
SECOND = FIRST | {"f0": (0.2, 0.1), "r0": (0.8,)}


@pytest.fixture(autouse=True)
def few(few_draws, monkeypatch):
    def values(*args, **options):
        return bootstrap_values(*args, draws=50, **options)

    monkeypatch.setattr(paired, "bootstrap_values", values)


def write(folder, videos, *, names=("CDFv2",), ways=("given",), root=""):
    rows, scores = [], []
    for name in names:
        for way in ways:
            one = scored(name, videos)
            files = np.array([f"{root}{file}" for file in one.files])
            row = detection_row(one, selection=way, step=None, seed=None)
            rows.append(row)
            scores.append(one._replace(dataset=f"{name} {way}", files=files))
    write_report(folder, rows, scores, caption="x")
    return str(folder)


def compare(folder, first, second, *words):
    main(["compare", str(first), str(second), f"--output={folder}", *map(str, words)])


def sentence(capsys, code, *argv):
    with pytest.raises(SystemExit) as ended:
        compare(*argv)
    said = capsys.readouterr().err
    assert ended.value.code == code and "Traceback" not in said, said
    line = said.splitlines()[-1]
    assert line.startswith("error: ") and len(line) < 1000
    return line


def test_two_reports_become_tables_a_list_and_a_picture(tmp_path, capsys):
    first = write(tmp_path / "a", FIRST, names=("CDFv2", "DFDC"), root="/here/")
    second = write(tmp_path / "b", SECOND, names=("DFDC", "CDFv2", "WDF"), ways=("last", "given"))
    write_pictures(tmp_path / "root", "f0_frame_1.png r0_frame_0.png")
    words = ("--select=last", f"--root={tmp_path / 'root'}")
    compare(tmp_path / "out", f"ours={first}", f"theirs={second}", *words)
    rows = json.loads((tmp_path / "out/differences.json").read_text())["rows"]
    assert [(row["dataset"], row["measure"]) for row in rows] == [
        (name, measure)
        for name in ("CDFv2", "DFDC")
        for measure in ("video AUC", "frame AUC", "AP", "EER")
    ]
    assert rows[0]["value@ours"] == 1.0 and rows[0]["value@theirs"] < 1
    decided = json.loads((tmp_path / "out/verdicts.json").read_text())["rows"]
    assert [row["disagree"] for row in decided] == [2, 2] and decided[0]["videos"] == 6
    assert {"only_right@ours", "threshold@theirs"} < decided[0].keys()
    text = (tmp_path / "out/differences.md").read_text()
    assert '"difference" is theirs minus ours' in text
    assert "1 sets are only in theirs: 'WDF'." in text
    lines = (tmp_path / "out/disagreements.csv").read_text().splitlines()
    assert len(lines) == 5 and '"/here/f0_frame_1.png"' in lines[1] + lines[2]
    assert (tmp_path / "out/disagreements.png").stat().st_size > 1000
    assert "only right @theirs" in capsys.readouterr().out
    compare(tmp_path / "out", first, first)
    assert not (tmp_path / "out/disagreements.png").exists()
    assert len((tmp_path / "out/disagreements.csv").read_text().splitlines()) == 1


def test_mistakes_are_one_sentence(tmp_path, capsys):
    first, out = write(tmp_path / "a", FIRST), tmp_path / "out"
    assert "is no folder: name the folder of a report" in sentence(
        capsys, 65, out, first, tmp_path / "no"
    )
    second = write(tmp_path / "b", SECOND, names=("DFDC",))
    said = sentence(capsys, 65, out, first, second)
    assert "has 'CDFv2', and" in said and "has 'DFDC': no set with both classes is in both" in said
    second = write(tmp_path / "c", SECOND, ways=("validation", "last"))
    said = sentence(capsys, 78, out, first, second)
    assert "has rows of 'validation', 'last': name one of them with --select" in said
    assert "both reports are called 'A'" in sentence(capsys, 78, out, first, f"A={first}")
    less = {video: frames for video, frames in SECOND.items() if video != "f1"}
    said = sentence(capsys, 65, out, first, write(tmp_path / "d", less))
    assert "1 of 7 faces only in A" in said and "0 of 6 faces only in B" in said
    os.remove(tmp_path / "a/scores/CDFv2_given.csv")
    said = sentence(capsys, 65, out, first, first)
    assert "cannot be read as scores" in said
    good = write(tmp_path / "e", FIRST)
    assert "is no folder" in sentence(capsys, 65, out, good, good, f"--root={tmp_path / 'no'}")
    assert "--output=" in sentence(capsys, 73, f"{good}/table.json", good, good)
    assert not out.exists()


def test_names_of_strangers_do_nothing(tmp_path):
    hostile = "<img src>|`[a](b)\n# c"
    first = write(tmp_path / "<b> `x`", FIRST, names=(hostile,))
    compare(tmp_path / "out", f"{hostile}={first}", f"x@y={first}")
    for name in ("differences.md", "verdicts.md"):
        text = (tmp_path / "out" / name).read_text()
        html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
        tags = set(re.findall(r"</?([a-z0-9]+)", html))
        assert tags <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
