"""Tests the page: offline, under a strict policy, with nothing of a stranger's in it but text."""

import base64
import hashlib
import html
import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from golden_files import need
from object_store import ObjectStore
from run_workdirs import numbers, write_like_authors, write_lines, write_picture, write_run

from fsvfm_jax.run.lock_holder import record
from fsvfm_jax.visualize import __main__ as visualize
from fsvfm_jax.visualize.run_facts import describe
from fsvfm_jax.visualize.run_figures import MAX_RUNS
from fsvfm_jax.visualize.run_folder import read_folder
from fsvfm_jax.visualize.run_page import make_page
from fsvfm_jax.visualize.run_pictures import read_pictures

PLOTLY = "const Plotly = {};"
EVIL = "</script><script>alert(1)</script><!--<script>"


class Page(html.parser.HTMLParser):
    """The tags of a page, and the content of its scripts and styles."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style") and self.raw[-1] == "":
            self.raw[-1] = data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def page_of(*workdirs: Path) -> str:
    runs = [describe(read_folder(epath.Path(workdir)), workdir.name) for workdir in workdirs]
    notes = [read_pictures(run.folder, runs=len(runs), notes=run.notes) for run in runs]
    return make_page(runs, notes, plotly=PLOTLY)


def traces_of(content: str) -> list[dict]:
    figures = json.loads(Page(content).raw[1])["figures"]
    return [trace for figure in figures for trace in figure["data"]]


def command(*arguments: object) -> None:
    need("plotly", "charts")
    visualize.main(["run", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Returns exit code and message of a command that must print one line and nothing else."""
    with pytest.raises(SystemExit) as raised:
        command(*arguments)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return raised.value.code, captured.err


def test_the_page_needs_no_network_and_its_policy_allows_only_its_own_script(tmp_path):
    content = page_of(write_run(tmp_path / "a", pictures=(1, 2)), write_run(tmp_path / "b"))
    page = Page(content)
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'" and allowed["img-src"] == "data: blob:"
    _, data, *scripts = page.raw
    digests = [hashlib.sha256(source.encode()).digest() for source in scripts]
    assert scripts[0] == PLOTLY and allowed["script-src"].split() == [
        f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests
    ]
    assert json.loads(data)["pictureSteps"] == [1, 2]
    assert not re.findall(r"[a-z]+://[^\s\"'<>]*", content)
    for tag, attributes in page.tags:
        assert not {"style", "onload", "onclick", "srcset"} & attributes.keys(), tag
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert all(attributes.get(name, "data:,") == "data:," for name in ("src", "href"))


def test_every_part_that_the_script_needs_is_there(tmp_path):
    content = page_of(write_run(tmp_path / "a", pictures=(1, 2, 3)), write_run(tmp_path / "b"))
    page = Page(content)
    data = json.loads(page.raw[1])
    charts = [x["id"] for x in page.all("div") if (x.get("id") or "").startswith("chart-")]
    assert charts == [f"chart-{n}" for n in range(len(data["figures"]))]
    for name in ("slider", "slider-step", "data"):
        assert content.count(f'id="{name}"') == 1
    [slider] = [x for x in page.all("input") if x.get("type") == "range"]
    assert slider["max"] == "2" and len(page.all("figure")) == len(data["pictures"]) == 2
    assert [len(pictures) for pictures in data["pictures"]] == [3, 0]
    assert "<title>Training: a, b</title>" in content and "fsvfm_jax 0." in content


def test_text_of_a_stranger_cannot_leave_its_place(tmp_path):
    workdir = write_run(tmp_path / "run")
    write_lines(workdir / "metrics.jsonl", [numbers(4, **{EVIL: 1.0})])
    write_lines(workdir / "alarms.jsonl", [{"step": 4, "alarm": EVIL, "message": EVIL}])
    run = describe(read_folder(epath.Path(workdir)), EVIL)
    content = make_page([run], [[]], plotly=PLOTLY)
    page = Page(content)
    assert len(page.all("script")) == content.count("<script") == content.count("</script") == 3
    assert "<!--" not in content and "alert(1)" in content
    shown = html.escape(EVIL)
    data = json.loads(page.raw[1])
    assert shown in data["marks"][0]["text"][0] and data["marks"][0]["name"] == shown
    assert f"<b>{shown[:20]}" in [
        figure["layout"]["title"]["text"][:23] for figure in data["figures"]
    ]


def test_what_is_left_out_is_named_in_the_page(tmp_path):
    workdir = write_run(tmp_path / "run", pictures=range(30))
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('x\n{"step": 68, "loss": NaN}\n{"step": 72, "lo')
    content = page_of(workdir)
    for part in (
        "run: left out of metrics.jsonl: lines that are no JSON of a step: 1",
        "run: left out of metrics.jsonl: half-written last lines: 1",
        "because they are NaN or too large: loss 1",
        "24 of 30 pictures are shown",
    ):
        assert part in content
    assert "<p>Nothing.</p>" in page_of(write_run(tmp_path / "whole"))


def test_the_command_compares_and_names_runs_of_the_same_name(tmp_path, capsys):
    workdirs = [write_like_authors(tmp_path / "x" / "vit", factor=1.2), tmp_path / "y" / "vit"]
    write_run(workdirs[1], pictures=(5,))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    output = tmp_path / "page.html"
    command(*workdirs, "--output", output, "--against=vggface2_b")
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("x/vit: ") and "off by +20.0% at epoch" in first
    assert second.startswith("y/vit: ") and "not compared with the authors'" in second
    assert last == f"The page is {output}."
    content = output.read_text()
    assert "off by +20.0% at epoch" in content and "not compared with" in content
    names = [trace["name"] for trace in traces_of(content)]
    assert names.count("the authors' ViT-B on VGGFace2") == 2
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != output}
    assert {path: after.get(path) for path in before if path != tmp_path} == {
        path: time for path, time in before.items() if path != tmp_path
    }


def test_no_curve_of_the_authors_is_drawn_for_runs_that_are_refused(tmp_path, capsys):
    output = tmp_path / "page.html"
    command(write_run(tmp_path / "run"), "--output", output, "--against=youtubefaces_b")
    traces = traces_of(output.read_text())
    assert traces and all(trace["name"].startswith("run") for trace in traces)


def test_wrong_arguments_end_in_one_sentence(tmp_path, capsys):
    workdir, output = write_run(tmp_path / "run"), tmp_path / "page.html"
    config = (workdir / "config.json").read_text()
    assert fails(capsys, workdir, "--output", workdir / "config.json")[0] == 78
    assert (workdir / "config.json").read_text() == config
    code, said = fails(capsys, workdir, "--output", workdir / "page.html")
    assert code == 78 and "lies in the workdir" in said and not (workdir / "page.html").exists()
    code, said = fails(capsys, workdir, "--output", tmp_path / "no" / "page.html")
    assert code == 73 and "its folder does not exist" in said
    code, said = fails(capsys, tmp_path / "none", "--output", output)
    assert code == 65 and "does not exist" in said
    code, said = fails(capsys, workdir, workdir, "--output", output)
    assert code == 78 and "given twice" in said
    many = [tmp_path / str(n) for n in range(MAX_RUNS + 1)]
    assert fails(capsys, *many, "--output", output)[0] == 78
    assert fails(capsys, workdir, "--output", output, "--against=imagenet")[0] == 78
    code, said = fails(capsys, "s3://bucket/run", "--output", output)
    assert code == 78 and "neither a folder nor in a bucket" in said
    assert not output.exists()


def test_without_plotly_one_sentence_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as raised:
        visualize.main(["run", str(tmp_path), "--output", str(tmp_path / "page.html")])
    said = capsys.readouterr().err
    assert raised.value.code == 78 and said.count("\n") == 1
    assert "plotly is not installed: pip install '.[charts]'" in said


def test_what_is_printed_has_no_control_codes(tmp_path, capsys):
    workdir = write_run(tmp_path / "a\x1b[31mb")
    holder = json.loads(record("token")) | {"host": "\x1b]0;title\x07"}
    (workdir / "run.lock").write_text(json.dumps(holder))
    command(workdir, "--output", tmp_path / "page.html")
    said = capsys.readouterr().out
    assert "running: process" in said and "\x1b" not in said and "\x07" not in said


def test_a_page_that_is_a_link_is_replaced_and_not_followed(tmp_path):
    workdir, output = write_run(tmp_path / "run"), tmp_path / "page.html"
    output.symlink_to(workdir / "config.json")
    command(workdir, "--output", output)
    assert not output.is_symlink() and (workdir / "config.json").read_text()[0] == "{"


@pytest.mark.e2e
def test_a_real_run_and_a_half_written_one(short_run, tmp_path):
    plotly = need("plotly.offline", "charts").get_plotlyjs()
    growing = write_run(tmp_path / "growing", pictures=(1,))
    write_picture(growing, 2)
    with (growing / "metrics.jsonl").open("a") as file:
        file.write('{"step": 68')
    output = tmp_path / "page.html"
    root = Path(__file__).parent.parent
    arguments = [str(short_run), str(growing), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, "-m", "fsvfm_jax.visualize", "run", *arguments],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "run: finished; step 5 of 5 (100%)" in done.stdout
    content = output.read_text()
    assert content.count(plotly) == 1 and content.count("</script") == 3
    data = json.loads(Page(content).raw[1])
    titles = {figure["layout"]["title"]["text"] for figure in data["figures"]}
    assert {"<b>loss</b>", "<b>loss_rec</b>", "<b>lr</b>", "<b>variance_z</b>"} <= titles
    assert data["pictures"][0] and data["pictureSteps"][:2] == [1, 2]


def test_a_run_in_a_bucket(fork_server, tmp_path):
    need("gcsfs", "gcs")
    need("plotly", "charts")
    workdir = write_run(tmp_path / "run", pictures=(1, 2))
    with ObjectStore() as store:
        for file in workdir.rglob("*"):
            if file.is_file():
                store.objects[f"run/{file.relative_to(workdir)}"] = (1, file.read_bytes())
        output = tmp_path / "page.html"
        done = fork_server.run(
            "fsvfm_jax.visualize",
            *("run", "gs://bucket/run", str(workdir), "--output", str(output)),
            environment=os.environ | store.environment,
        )
        assert done.returncode == 0, done.stderr
        assert store.writes == 0 and not store.unknown
    first, second, _ = done.stdout.splitlines()
    assert first.startswith("bucket/run: ")
    assert first.split(": ", 1)[1] == second.split(": ", 1)[1]
    content = output.read_text()
    data = json.loads(Page(content).raw[1])
    first, second = data["pictures"]
    assert first == second and first and "<p>Nothing.</p>" in content
