"""Tests that the reports of several runs become one table."""

import contextlib
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from odd_json import CONTENTS, changed
from scored_sets import BY_HAND, scored

from fsvfm_jax.errors import DataError
from fsvfm_jax.report.__main__ import main
from fsvfm_jax.report.rows import mean_rows, spoof_row
from fsvfm_jax.report.summary import summary
from fsvfm_jax.report.write import write_report

pytestmark = pytest.mark.usefixtures("few_draws")


def write(folder, *, dataset, seed, selection="last", videos=BY_HAND):
    scores = scored(dataset, videos)
    row = spoof_row(scores, thresholds={}, selection=selection, step=1, seed=seed)
    write_report(folder, [row, *mean_rows([row, row])], [], caption="x")
    return str(folder / "table.json")


def test_means_over_seeds_and_over_the_sets_of_all_runs(tmp_path):
    better = BY_HAND | {"f2": (0.9, 0.9)}
    tables = [
        write(tmp_path / f"{name}{seed}", dataset=name, seed=seed, videos=videos)
        for name, seed, videos in (
            ("MSU", 0, BY_HAND),
            ("MSU", 1, better),
            ("OULU", 0, BY_HAND),
            ("OULU", 1, better),
        )
    ]
    rates = [json.loads(Path(table).read_text())["rows"][0]["hter@test"] for table in tables]
    lines = [line for line in summary(tables).splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["MSU", "OULU", "mean of 2 sets"]
    mean = 100 * (rates[0] + rates[1]) / 2
    assert all(f"{mean:.2f} +- " in line and "(n=2)" in line for line in lines[2:])


def test_one_seed_and_one_set_have_no_mean(tmp_path, capsys):
    main(["summary", write(tmp_path, dataset="MSU", seed=0)])
    said = capsys.readouterr().out
    assert "MSU" in said and "mean of" not in said and "+- 0" not in said


def test_seeds_of_unlike_sets_are_refused(tmp_path):
    tables = [
        write(tmp_path / "a", dataset="MSU", seed=0),
        write(tmp_path / "b", dataset="OULU", seed=1),
    ]
    with pytest.raises(DataError, match="of the same sets; there are 0: MSU; 1: OULU"):
        summary(tables)


def test_the_same_row_twice_is_refused(tmp_path, capsys):
    table = write(tmp_path, dataset="MSU", seed=0)
    with pytest.raises(SystemExit) as ended:
        main(["summary", table, table])
    assert ended.value.code == 65
    assert "2 of the tables report of 'MSU', last, seed 0" in capsys.readouterr().err


ROW = {"dataset": "x", "selection": "last", "seed": 0, "images": 1}


@pytest.mark.parametrize(
    "content",
    [
        *CONTENTS,
        b'{"rows": [1]}',
        *(
            json.dumps({"rows": [row]}).encode()
            for row in (
                {"images": 1, "dataset": "x"},
                ROW | {"dataset": ["x"]},
                ROW | {"selection": 7},
                ROW | {"seed": "0"},
                ROW | {"images": 1.5},
                ROW | {"images": True},
                ROW | {"video_auc": "high"},
                ROW | {"video_auc": 10**400},
                ROW | {"video_auc": float("nan")},
                ROW | {"video_auc": 1e308},
                ROW | {"threshold@test": -1e308},
                ROW | {"video_auc": 0.5, "video_auc_interval": "ab"},
                ROW | {"video_auc": 0.5, "video_auc_interval": [0.5]},
                ROW | {"video_auc": 0.5, "video_auc_interval": [0.5, None]},
                ROW | {"video_auc": {"mean": 1}},
            )
        ),
    ],
    ids=lambda content: repr(content[:80]),
)
def test_what_is_no_table_is_named(tmp_path, content, capsys):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["summary", str(tmp_path / "x.json")])
    assert ended.value.code == 65 and "is no table of an evaluation" in capsys.readouterr().err


def test_a_table_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(DataError, match="it is a named pipe"):
        summary([str(tmp_path / "x.json")])


def test_names_in_tables_and_of_files_do_nothing(tmp_path):
    hostile = "<img src=x>|`[a](b)\n# c"
    folder = tmp_path / "<b> `x`"
    folder.mkdir()
    (folder / "table.json").write_text(
        json.dumps({"rows": [ROW | {"dataset": hostile, f"hter@{hostile}": 0.5}]})
    )
    html = MarkdownIt("gfm-like", {"linkify": False}).render(summary([str(folder / "table.json")]))
    tags = set(re.findall(r"</?([a-z0-9]+)", html))
    assert tags <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert html.count("<tr>") == 2


@settings(max_examples=60)
@given(data=st.data())
def test_a_changed_table_is_shown_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed.json"
    rows = [
        ROW | {"seed": seed, "video_auc": 0.5, "video_auc_interval": [0.4, 0.6], "note": None}
        for seed in range(2)
    ]
    path.write_text(json.dumps(data.draw(changed({"caption": "x", "rows": rows}))))
    with contextlib.suppress(DataError):
        summary([str(path)])
