"""Tests that scores of any detector get the report that an evaluation writes."""

import csv
import functools
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from labelled_trees import write_pictures
from scored_sets import write_given, write_parquet

from configs import evaluation, face_sets, transfer
from fsvfm_jax import evaluate
from fsvfm_jax.config.downstream_fields import OF_LAYOUTS, ON_DISK
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.report import groups
from fsvfm_jax.report.__main__ import main
from fsvfm_jax.report.scores import read_scores
from fsvfm_jax.report.tabulate import SEVERAL, layout_options

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def few(few_draws, monkeypatch):
    draws = functools.partial(groups.bootstrap_interval, draws=50)
    monkeypatch.setattr(groups, "bootstrap_interval", draws)


def evaluated(detector, tree, folder):
    """Evaluates a detector on a tree of faces."""
    c = evaluation.get_config()
    c.init.params, c.select, c.batch_size, c.data.num_workers = str(detector), ("given",), 32, 0
    c.data.mean, c.data.std = (0.5,) * 3, (0.25,) * 3
    c.data.paths = (str(tree),)
    c.data.test["mine"] = transfer.face_set("folder", split="test", frames=2, exclude=("v03",))
    c.groups.update(file=str(tree / "groups.csv"), column="light")
    evaluate.evaluate(resolve(c), epath.Path(folder))


def exported(folder, tree):
    """Returns the rows of the scores of an evaluation, with paths relative to the tree."""
    scores = read_scores(folder / "scores/mine_given.csv", dataset="mine")
    columns = (scores.files.tolist(), scores.p_fake.tolist())
    return [(str(Path(file).relative_to(tree)), repr(p)) for file, p in zip(*columns, strict=True)]


def report(folder, file, root, *words):
    argv = ["scores", file, "--layout=folder", f"--root={root}", "--split=test"]
    main([*map(str, argv), f"--output={folder}", *map(str, words)])


def sentence(capsys, code, *argv):
    with pytest.raises(SystemExit) as ended:
        report(*argv)
    said = capsys.readouterr().err
    assert ended.value.code == code and "Traceback" not in said, said
    line = said.splitlines()[-1]
    assert line.startswith("error: ") and len(line) < 1000
    return line


@pytest.mark.e2e
def test_exported_scores_get_the_table_of_the_evaluation(
    detector_folder, labelled_tree, tmp_path, capsys
):
    evaluated(detector_folder, labelled_tree, tmp_path / "ours")
    printed = capsys.readouterr().out
    file = write_given(tmp_path / "scores.csv", exported(tmp_path / "ours", labelled_tree))
    words = ("--name=mine", "--frames=2", "--exclude", "v03")
    words += (f"--groups={labelled_tree / 'groups.csv'}", "--group=light")
    report(tmp_path / "theirs", file, labelled_tree, *words)
    files = {str(x.relative_to(tmp_path / "theirs")) for x in (tmp_path / "theirs").rglob("*.*")}
    assert files == {
        *(f"table{part}.{ending}" for part in ("", "_groups") for ending in ("md", "json")),
        *(f"scores/mine_given{part}.csv" for part in ("", "_videos")),
        "roc.png",
    }
    tables = [json.loads((tmp_path / x / "table.json").read_text()) for x in ("ours", "theirs")]
    assert tables[0]["rows"] == tables[1]["rows"] and len(tables[0]["rows"]) == 1
    assert tables[0]["rows"][0]["videos"] == 23 and tables[0]["rows"][0]["images"] == 46
    captions = [table["caption"].splitlines() for table in tables]
    assert captions[0][:-2] == captions[1][:-2]  # The two lines name the detector and the paths.
    assert captions[0][-1] == captions[1][-1].replace(f"path {labelled_tree}, ", "")
    for name in files - {"table.md", "table.json"}:
        ours, theirs = (tmp_path / x / name for x in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    theirs = capsys.readouterr().out
    assert theirs.splitlines()[2:] == printed.splitlines()[2:] and "frame AUC" in theirs


def test_one_table_has_the_detectors_of_several_people(tmp_path, capsys):
    names = [f"test/{x}/v{video}.png" for x in ("real", "fake") for video in range(4)]
    write_pictures(tmp_path / "set", names)
    for who, values in (("good", range(8)), ("bad", range(8, 0, -1))):
        rows = [(name, value / 10) for name, value in zip(names, values, strict=True)]
        report(tmp_path / who, write_given(tmp_path / f"{who}.csv", rows), tmp_path / "set")
    capsys.readouterr()
    tables = [f"{who}={tmp_path / who / 'table.json'}" for who in ("good", "bad")]
    main(["summary", *tables])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines] == ["method", "-" * 6, "good", "bad"]
    assert [line.split("|")[8].strip() for line in lines[2:]] == ["100.00 (n=1)", "0.00 (n=1)"]
    with pytest.raises(SystemExit):
        main(["summary", *(table.partition("=")[2] for table in tables)])
    assert "name the detector of each as METHOD=TABLE" in capsys.readouterr().err


def test_a_report_of_spoofs_and_of_published_figures(tmp_path):
    names = [f"test/{x}/v{video}.png" for x in ("real", "fake") for video in range(4)]
    write_pictures(tmp_path / "set", names)
    rows = [(name, i / 10) for i, name in enumerate(names)]
    file = write_parquet(tmp_path / "x.parquet", path=names, p_fake=[p for _, p in rows])
    report(tmp_path / "a", file, tmp_path / "set", "--report=spoof", "--seed=3")
    row = json.loads((tmp_path / "a/table.json").read_text())["rows"][0]
    assert row["hter@test"] == 0 and row["seed"] == 3 and "hter@validation" not in row
    words = ("--name=CDFv2", "--compare=FS-VFM ViT-L", "--labels", "real=fake", "fake=real")
    report(tmp_path / "b", file, tmp_path / "set", *words)
    row = json.loads((tmp_path / "b/table.json").read_text())["rows"][0]
    assert row["published"] == 0.9517 and row["video_auc"] == 0.0


def test_mistakes_are_one_sentence(tmp_path, capsys):
    write_pictures(tmp_path / "set/test", "real/a.png fake/b.png")
    file = write_given(tmp_path / "x.csv", [("test/real/a.png", 0.1), ("test/fake/b.png", 0.2)])
    good = (tmp_path / "out", file, tmp_path / "set")
    assert "is no folder: name the folder" in sentence(capsys, 65, *good[:2], tmp_path / "no")
    said = sentence(capsys, 65, *good, "--exclude", "fake")
    assert "mine" not in said and "no fake face, and every metric needs both classes" in said
    assert "did you mean 'FS-VFM ViT-S'" in sentence(capsys, 78, *good, "--compare=FS-VFM ViT-T")
    assert "give --groups and --group together" in sentence(capsys, 78, *good, "--group=light")
    assert "give a class and its label" in sentence(capsys, 78, *good, "--labels", "real")
    assert "--output=" in sentence(capsys, 73, file, *good[1:])
    assert "is no option of the layout 'folder'" in sentence(capsys, 78, *good, "--methods", "x")
    assert "give 0 (all frames) or more" in sentence(capsys, 78, *good, "--frames=-1")
    assert "invalid choice" in sentence(capsys, 78, *good, "--layout=rendered")
    assert not (tmp_path / "out").exists()


def test_names_of_the_set_and_the_file_do_nothing_in_the_table(tmp_path, capsys):
    folder = tmp_path / "<b>`x`\n# y"
    write_pictures(folder / "test", ["real/a\n# b.png", "fake/[x](y).png"])
    rows = [("test/real/a\n# b.png", 0.1), ("test/fake/[x](y).png", 0.2), ("a\x1b[0m\n# z", 0.5)]
    report(tmp_path / "out", write_given(folder / "x.csv", rows), folder)
    text = (tmp_path / "out/table.md").read_text()
    assert "\n#" not in text and "\x1b" not in text and "<b>" not in text.replace("\\<", "")
    assert "1 rows of the file name no face of the set" in text
    assert "\x1b" not in capsys.readouterr().err


def test_every_option_of_a_set_of_a_config_is_a_flag():
    named = {"frames", "real_frames", "labels", "exclude"}
    assert set(ON_DISK) == named and set(OF_LAYOUTS) == set(layout_options())
    assert {name for name in OF_LAYOUTS if face_sets.face_set("ffpp")[name] == ()} == set(SEVERAL)
    source = inspect.getsource(sys.modules["fsvfm_jax.report.tabulate"].add_arguments)
    assert all(f'"--{name.replace("_", "-")}"' in source for name in named)


def test_the_command_imports_neither_jax_nor_the_training_code(tmp_path):
    write_pictures(tmp_path / "set/test", "real/a.png fake/b.png")
    file = write_given(tmp_path / "x.csv", [("test/real/a.png", 0.1), ("test/fake/b.png", 0.2)])
    code = (
        "import sys; from fsvfm_jax.report.__main__ import main; main(sys.argv[1:]);"
        "print(sorted({x.split('.')[0] for x in sys.modules} & {'jax', 'flax', 'torch',"
        " 'tensorflow'}), [x for x in sys.modules if x in ('fsvfm_jax.train',"
        " 'fsvfm_jax.finetune', 'fsvfm_jax.evaluate')])"
    )
    words = ["--layout=folder", f"--root={tmp_path / 'set'}", "--split=test"]
    said = subprocess.run(
        [sys.executable, "-c", code, "scores", file, *words, f"--output={tmp_path / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines()[-1] == "[] []"
    with (tmp_path / "out/scores/set_given.csv").open() as opened:
        assert [line["p_fake"] for line in csv.DictReader(opened)] == ["0.2", "0.1"]
