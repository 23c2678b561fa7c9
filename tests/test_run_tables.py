"""Tests the tables: what they say of runs, and that text from runs is only text."""

import html
import json
import re
import time

import pytest
from etils import epath
from run_workdirs import numbers, write_lines, write_run

from fsvfm_jax.run.lock_holder import record
from fsvfm_jax.visualize.run_facts import Run, describe
from fsvfm_jax.visualize.run_folder import read_folder
from fsvfm_jax.visualize.run_tables import differences, events, outline, summary, text

LOOK = {"colour": "#000000", "dash": ""}
EVIL = "<script>alert(1)</script>\x1b[31m\n\u202e&\"'"


def described(workdir, name: str = "run") -> Run:
    return describe(read_folder(epath.Path(workdir)), name)


def cells_of(table: str) -> dict[str, list[str]]:
    """Returns the text of the cells by the name of their row."""
    rows = {}
    for row in re.findall("<tr>(.*?)</tr>", table):
        found = [re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t", row)]
        rows[found[0]] = [html.unescape(cell).strip() for cell in found[1:]]
    return rows


def test_the_summary_says_where_a_run_is(tmp_path):
    workdir = write_run(tmp_path / "run", starts=((1_700_000_000, 0), (1_700_000_500, 32)))
    (workdir / "run.lock").write_bytes(record("token"))
    write_lines(workdir / "validation.jsonl", [{"step": 60, "val_loss": 0.5}])
    alarm = {"step": 40, "alarm": "spike", "message": "the loss is 9"}
    write_lines(workdir / "alarms.jsonl", [alarm])
    rows = cells_of(summary([described(workdir)], [LOOK], ["consistent"]))
    assert rows[""] == ["run"] and rows["state"][0].startswith("running: process")
    assert rows["step"] == ["64 of 320 (20%), epoch 2.00 of 10"]
    assert rows["time left"][0].startswith("0:01:22, until 20")
    assert rows["starts"][0].startswith("2; the last ") and "step 32" in rows["starts"][0]
    assert rows["alarms"] == ["1; the last at step 40, spike: the loss is 9"]
    assert rows["validation: val_loss"] == ["0.5 (step 60)"]
    assert rows["loss_sim"] == ["-0.4"] and rows["skipped steps"] == ["0"]
    assert rows["against the authors"] == ["consistent"] and rows["workdir"] == [str(workdir)]
    assert outline(described(workdir)).endswith("step 64 of 320 (20%), epoch 2.00 of 10")


def test_what_differs_between_configs_is_marked(tmp_path):
    first = described(write_run(tmp_path / "a"), "a")
    other = write_run(tmp_path / "b", changes={"optimizer.blr": 1e-3, "seed": 7})
    config = json.loads((other / "config.json").read_text()) | {"invented": {"every": 5}}
    (other / "config.json").write_text(json.dumps(config))
    (tmp_path / "b" / "fingerprint.json").write_text(
        '{"fingerprint": {"images": 99}, "accepted": []}'
    )
    table = differences([first, described(other, "b")])
    changed, once, same = table.split("<details>")
    assert "Marked: differs from a." in changed and "<mark>0.001</mark>" in changed
    rows = cells_of(changed)
    assert rows["optimizer.blr"] == ["0.008", "0.001"] and rows["seed"] == ["0", "7"]
    assert rows["fingerprint.images"] == ["1024", "99"] and "batch_size" not in rows
    assert cells_of(once)["invented.every"] == ["-", "5"]
    assert cells_of(same)["batch_size"] == ["32", "32"]


def test_one_config_is_listed(tmp_path):
    table = differences([described(write_run(tmp_path / "a"))])
    assert table.startswith("<details>") and cells_of(table)["batch_size"] == ["32"]
    assert "<mark>" not in table


def test_what_happened_is_listed_by_step(tmp_path):
    workdir = write_run(tmp_path / "run", starts=((1_700_000_000, 0), (1_700_000_500, 32)))
    said = re.findall("<td>(.*?)</td>", events([described(workdir)]))
    assert said[3] == "started" and said[7] == "started again from step 32"
    assert said[2].startswith("2023-11-14") or said[2].startswith("2023-11-15")


@pytest.mark.parametrize("value", [EVIL, "x" * 10_000, "", "\ud800"])
def test_any_text_is_one_harmless_line(value):
    shown = text(value)
    assert not set(shown) & set("<>\"'\n\x1b\u202e") and len(shown) < 2000
    shown.encode()


def test_text_from_a_workdir_is_escaped_everywhere(tmp_path):
    workdir = write_run(tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config |= {"task": EVIL, "batch_size": EVIL, EVIL: EVIL, "model": {"width": EVIL}}
    (workdir / "config.json").write_text(json.dumps(config))
    write_lines(workdir / "metrics.jsonl", [numbers(4, **{EVIL[:70]: 1.0})])
    write_lines(workdir / "validation.jsonl", [{"step": 4, EVIL[:70]: 1.0}])
    write_lines(workdir / "alarms.jsonl", [{"step": 4, "alarm": EVIL, "message": EVIL}])
    (workdir / "origin.json").write_text(json.dumps({"source": EVIL}))
    changed = {"fingerprint": {"mean": EVIL}, "accepted": [{"step": 1, EVIL: EVIL}]}
    (workdir / "fingerprint.json").write_text(json.dumps(changed))
    holder = json.loads(record("token")) | {"host": EVIL[:100]}
    (workdir / "run.lock").write_text(json.dumps(holder))
    runs = [described(workdir, EVIL), described(write_run(tmp_path / "b"), "b")]
    for part in (summary(runs, [LOOK] * 2, [EVIL] * 2), differences(runs), events(runs)):
        assert "<script" not in part and "\x1b" not in part and "\u202e" not in part


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", {"step": 2**53, "epoch": 1e308, "images_per_second": 1e-300}),
        ("metrics.jsonl", {"step": 4, "epoch": 1e-300, "loss": 1e308}),
        ("metrics.jsonl", {"step": 4, "epoch": -5, "images_per_second": -1}),
        ("epochs.jsonl", {"step": 4, "epoch": 0, "steps": 1e300, "skipped": 1e300}),
        ("validation.jsonl", {"step": 4, "val_loss": float("nan")}),
        ("rewinds.json", [{"step": -(10**30), "skip_ranges": [[10**30]]}]),
        ("fingerprint.json", {"fingerprint": {"images": True}, "accepted": [{"step": "x"}]}),
    ],
)
def test_numbers_that_no_run_has_are_no_error(tmp_path, name, content):
    workdir = write_run(tmp_path / "run")
    (workdir / "run.lock").write_bytes(record("token"))
    (workdir / name).write_text(f"{json.dumps(content)}\n")
    run = described(workdir)
    assert summary([run], [LOOK], None) and events([run]) and differences([run])
    assert run.folder.written <= time.time() + 1000
