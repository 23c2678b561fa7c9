"""Tests that a Markdown table is readable as text and when it is rendered."""

import re

import pytest
from scored_sets import BY_HAND, scored

from fsvfm_jax.report.rows import DETECTION_CAPTION, SPOOF_CAPTION, detection_row, spoof_row
from fsvfm_jax.report.table import COLUMNS, markdown, plain

pytestmark = pytest.mark.usefixtures("few_draws")

CHOSEN = {"selection": "validation", "step": 100, "seed": 0}
ROWS = [
    {"dataset": "first", "images": 20, "note": "n/a (only real)"},
    {
        "dataset": "CDFv2",
        "step": 12000,
        "images": 14267,
        "images_expected": 14268,
        "videos": 518,
        "videos_expected": None,
        "skipped": 1,
        "video_auc": 0.95432,
        "video_auc_interval": [0.9, 0.98765],
        "hter@0.5": 0.5,
        "hter_interval@0.5": [0.4, 0.6],
        "acer@0.5": 0.5,
        "published": 0.9517,
        "difference": 0.00262,
    },
    {
        "dataset": "mean of 2 sets",
        "video_auc": {"mean": 0.9, "sd": 0.0125, "n": 3},
        "hter@0.5": {"mean": 1.0, "sd": None, "n": 1},
        "difference": {"mean": -0.01, "sd": 0.002, "n": 3},
    },
]
# fmt: off
TABLE = """\
What it shows.

| set            |   step | images | expected | videos | skipped |            video AUC |     HTER = ACER @0.5 | published |          difference | note            |
| -------------- | -----: | -----: | -------: | -----: | ------: | -------------------: | -------------------: | --------: | ------------------: | --------------- |
| first          |        |     20 |          |        |         |                      |                      |           |                     | n/a (only real) |
| CDFv2          | 12,000 | 14,267 |   14,268 |    518 |       1 | 95.43 [90.00, 98.77] | 50.00 [40.00, 60.00] |     95.17 |               +0.26 |                 |
| mean of 2 sets |        |        |          |        |         |  90.00 +- 1.25 (n=3) |         100.00 (n=1) |           | -1.00 +- 0.20 (n=3) |                 |
"""  # noqa: E501
# fmt: on


def test_a_table_is_exactly_this():
    assert markdown(ROWS, "What it shows.") == TABLE


def test_no_name_ends_a_cell_begins_a_tag_or_breaks_the_line():
    row = {"dataset": "a|b\\|c\n<b>d</b>", "selection": "last", "images": 1}
    *_, line = markdown([row], "x").splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 4
    assert r"a\|b\\\|c \<b>d\</b>" in line


def test_every_line_of_a_table_is_of_one_width():
    scores = scored("mine", BY_HAND)
    rows = [detection_row(scores, **CHOSEN, model="FSFM ViT-B")]
    spoof = [spoof_row(scores, thresholds={"validation": 0.7}, **CHOSEN)]
    for of_task in (rows, spoof):
        lines = markdown(of_task, "x").splitlines()[2:]
        assert len(lines) == 3 and len({len(line) for line in lines}) == 1


def test_thresholds_of_one_rate_stand_together_by_where_they_come_from():
    row = spoof_row(scored("mine", BY_HAND), thresholds={"validation": 0.7}, **CHOSEN)
    heading = markdown([row], "x").splitlines()[2]
    sources = ("validation", "0.5", "test")
    places = [
        heading.index(f"{rate} @{source}")
        for rate in ("HTER = ACER", "APCER", "BPCER")
        for source in sources
    ]
    assert places == sorted(places)


def test_the_captions_name_columns_that_there_are():
    headings = {column.heading for column in COLUMNS.values()}
    for caption in (DETECTION_CAPTION, SPOOF_CAPTION):
        quoted = re.findall(r'"([^"]+)"', caption)
        named = {name.partition(" @")[0] for name in quoted} - {"test-oracle"}
        assert named and named <= headings
        assert "<" not in caption


def test_a_terminal_gets_the_main_columns_and_no_control_code():
    rows = [*ROWS, {"dataset": "a\x1b[2J|\n", "video_auc": 1.0}]
    assert plain(rows).splitlines() == [
        "set             videos  video AUC  HTER = ACER @0.5  note",
        "first                                                n/a (only real)",
        "CDFv2              518      95.43             50.00",
        "mean of 2 sets              90.00            100.00",
        r"a\x1b[2J|\n                100.00",
    ]


def test_a_detection_table_fits_into_80_columns():
    row = detection_row(scored("a set of 16 char", BY_HAND), **CHOSEN)
    assert max(map(len, plain([row]).splitlines())) <= 80
