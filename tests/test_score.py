"""Tests the command: the scores are those of an evaluation, and every file has its record."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import random_weights
from commands import ROOT, ForkServer
from golden_files import need
from hostile_files import write_hostile_files
from ml_collections import ConfigDict
from patience import PATIENCE
from PIL import Image
from pyarrow import parquet
from stored_calibration import CALIBRATION

from configs.transfer import face_set
from fsvfm_jax import scoring
from fsvfm_jax.convert import pth, reference
from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.data.listing import suffix_of
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.data.stats import save_stats
from fsvfm_jax.devices import sharding
from fsvfm_jax.errors import ConfigError, UserError
from fsvfm_jax.predict import arguments, batches, networks, opening
from fsvfm_jax.predict import faces as finding
from fsvfm_jax.predict.__main__ import _parser
from fsvfm_jax.predict.calibration import write_calibration
from fsvfm_jax.predict.faces import FaceOptions
from fsvfm_jax.prepare.files import VIDEO_SUFFIXES
from fsvfm_jax.prepare.workers import DIED
from fsvfm_jax.report.metrics import probability

COUNT = 21


@pytest.fixture(scope="module")
def model(detector_folder: Path) -> Path:
    return detector_folder


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of crops that are not square."""
    root, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    for number in range(COUNT):
        file = root / ("real" if number % 3 else "fake") / f"v{number // 2}_frame_{number % 2}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(256, size=(80, 70, 3), dtype=np.uint8)).save(file)
    return root


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Does the work of the processes in this process, out of order, without limits."""

    def in_process(items: Sequence, make: Callable, arguments: Sequence, **idle: Any) -> Iterator:
        work = make(arguments[0])
        yield from ((item, work(item)) for item in reversed(list(items)))

    monkeypatch.setattr(finding, "spread", in_process)
    monkeypatch.setattr(finding, "start_limits", lambda: None)


def run(*argv: str) -> int:
    """Runs the command, and returns its exit code."""
    args = _parser(["score"]).parse_args(["score", *argv])
    try:
        args.run(args)
    except UserError as error:
        return error.exit_code
    return 0


def records_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_scores_are_those_of_an_evaluation(
    tmp_path: Path, model: Path, crops: Path, here: None
) -> None:
    faces = open_sets(ConfigDict({"x": face_set("folder")}), [str(crops)], image_size=64)["x"]
    network = networks.load(model)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])
    predict = scoring.make_predict(network.model, stats=network.stats, mesh=mesh)
    feed = scoring.Feed(64, "resize", 8, 0, mesh)
    margins = scoring.score_set(predict, network.params, faces, feed=feed, name="x")
    expected = dict(zip(map(faces.name, range(COUNT)), probability(margins), strict=True))
    assert len(expected) == COUNT == len(set(expected.values()))
    orders = list(expected), list(reversed(expected)), [*sorted(expected)[::2], "none.png"]
    for number, (names, batch_size) in enumerate(zip(orders, (32, 1, 4), strict=True)):
        output = tmp_path / f"{number}.jsonl"
        argv = [f"--batch-size={batch_size}", "--cropped", f"--output={output}"]
        assert run(f"--model={model}", *names, *argv) == (66 if number == 2 else 0)
        found = records_of(output)
        assert [record["path"] for record in found] == names
        for record in found[: -1 if number == 2 else None]:
            assert record["p_fake"] == pytest.approx(expected[record["path"]], abs=1e-6, rel=0)
            assert record["faces"][0]["box"] == [0, 0, 70, 80] and record["frames"] == 1


def test_exit_codes(
    tmp_path: Path, model: Path, crops: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    good, bad = str(crops / "fake"), str(tmp_path / "bad.png")
    run_ = [f"--model={model}", "--cropped"]
    assert run(*run_, good) == 0
    assert run(*run_, bad, good) == 66
    assert run(*run_, bad, "nowhere.jpg") == 65
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    assert "cannot identify" in lines[0]["error"] and "does not exist" in lines[1]["error"]


def test_a_picture_without_a_face_is_scored(
    tmp_path: Path,
    model: Path,
    here: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nothing:
        box_scale = 1.0

        def __call__(self, image: Any) -> list:
            return []

    monkeypatch.setattr(finding, "make_detector", lambda name, **options: Nothing())
    Image.fromarray(render_face(0, image_size=64)[0]).save(tmp_path / "a.png")
    assert run(f"--model={model}", "--face-detector=none", str(tmp_path / "a.png")) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert record["note"] == "no face found" and record["p_fake"] is None
    assert record["error"] is None


def test_a_file_that_kills_its_process_has_a_record(
    model: Path, crops: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        finding, "spread", lambda items, make, arguments, **idle: ((item, None) for item in items)
    )
    assert run(f"--model={model}", "--cropped", str(crops / "fake/v0_frame_0.png")) == 65
    assert json.loads(capsys.readouterr().out)["error"] == DIED


def test_faces_are_found_as_the_model_tells_or_else_as_flags_tell(model: Path) -> None:
    network = networks.load(model)

    def options(*argv: str, **facts: Any) -> FaceOptions:
        args = _parser(["score"]).parse_args(["score", "--model=m", "x", *argv])
        network.facts = facts
        arguments.check_face_arguments(args)
        return opening.face_options(network, args)

    with pytest.raises(ConfigError, match="does not say how its faces were found: give --face-"):
        options()
    with pytest.raises(ConfigError, match="does not say the margin around its faces: give --crop"):
        options("--face-detector=dlib")
    with pytest.raises(ConfigError, match="'RetinaFace' found, which is not available here"):
        options(face_detector="RetinaFace", crop_margin=0.15)
    with pytest.raises(ConfigError, match="--cropped takes pictures whole"):
        options("--cropped", "--crop-margin=0.1")
    with pytest.raises(ConfigError, match="is not from 0 to 10"):
        options("--face-detector=dlib", "--crop-margin=-1")
    found = options(face_detector="dlib", crop_margin=0.25)
    assert (found.detector, found.crop_margin) == ("dlib", 0.25)
    assert options("--crop-margin=0.25", face_detector="dlib", crop_margin=0.25) == found
    given = {"face_detector": "dlib", "crop_margin": 0.15}
    for flag, message in (
        ("--face-detector=none", "--face-detector=none, but m was trained with 'dlib': leave out"),
        ("--crop-margin=0.3", r"--crop-margin=0\.3, but m was trained with 0\.15: leave out"),
        ("--frames=99999", "takes too much memory with faces of 64 pixels: give at most 8138"),
    ):
        with pytest.raises(ConfigError, match=message):
            options(flag, **given)
    with pytest.raises(ConfigError, match="has no margin: leave out --crop-margin"):
        options("--face-detector=none", "--crop-margin=0.15")
    assert options("--face-detector=none").detector == "none"
    assert options("--cropped", face_detector="RetinaFace").detector == "cropped"


def test_mistakes_are_found_before_the_work(tmp_path: Path, model: Path) -> None:
    (tmp_path / "x.csv").write_text("")
    (tmp_path / "encoder").mkdir()
    picture = f"--model={model}", "--cropped", "x.jpg"
    assert run(*picture, f"--output={tmp_path / 'x.csv'}") == 73
    assert run(*picture, f"--output={tmp_path / 'x.xls'}") == 78
    assert run(*picture, "--frames=20000") == 78
    assert run(*picture, "--threshold=fpr_1") == 78
    assert run("--model=nowhere", "x.jpg") == 65
    with pytest.raises(ConfigError, match="0' is no number from 1 up"):
        run(*picture, "--processes=0")
    with pytest.raises(ConfigError, match="required: --model"):
        run("x.jpg")


def test_a_calibration_in_the_folder_of_the_model_is_used(
    tmp_path: Path, model: Path, crops: Path, here: None
) -> None:
    network = networks.load(model)
    fitted = dataclasses.replace(CALIBRATION, weights_sha256=network.sha256)
    write_calibration(tmp_path, fitted)
    picture = str(crops / "fake/v0_frame_0.png")
    argv = [f"--model={model}", "--cropped", picture]
    assert run(*argv, f"--output={tmp_path / '0.jsonl'}") == 0
    calibration = f"--calibration={tmp_path / 'calibration.json'}"
    assert run(*argv, calibration, f"--output={tmp_path / '1.jsonl'}") == 0
    (plain,), (calibrated,) = (records_of(tmp_path / f"{number}.jsonl") for number in (0, 1))
    margin = network.margins(picture)
    assert plain["p_fake"] == pytest.approx(probability(margin)[0], abs=1e-6)
    assert calibrated["p_fake"] == pytest.approx(probability(margin / 2.5)[0], abs=1e-6)
    assert plain["threshold"] == {"value": 0.5, "name": "not calibrated"}
    assert calibrated["threshold"] == {"value": 0.7, "name": "fpr_5"}
    assert calibrated["temperature"] == 2.5
    assert run(*argv, calibration, "--view=resize256_crop224") == 78
    write_calibration(tmp_path, CALIBRATION)
    assert run(*argv, calibration) == 65


def test_an_anti_spoofing_network_gives_p_spoof(
    tmp_path: Path, crops: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    measures = random_weights.TINY | {"pool": "mean", "fas": True}
    description = random_weights.describe(measures, labels=("real", "fake"))
    write_folder(tmp_path / "m", random_weights.detector_params(measures), description)
    picture = str(crops / "fake/v0_frame_0.png")
    output = tmp_path / "x.csv"
    argv = [f"--model={tmp_path / 'm'}", "--cropped", picture]
    assert run(*argv) == 0 and run(*argv, f"--output={output}", "--threshold=0") == 0
    record = json.loads(capsys.readouterr().out)
    (expected,) = networks.load(tmp_path / "m").predict(picture)
    assert record["p_spoof"] == pytest.approx(expected, abs=1e-6)
    assert record["faces"][0]["p_spoof"] == record["people"][0]["p_spoof"] == record["p_spoof"]
    assert record["decision"] in ("spoof", "real") and "p_fake" not in record
    for file in (output, tmp_path / "x.faces.csv"):
        (row,) = csv.DictReader(file.read_text().splitlines())
        assert float(row["p_spoof"]) == pytest.approx(expected, abs=1e-6)
    assert next(csv.DictReader(output.read_text().splitlines()))["decision"] == "spoof"


def test_a_file_of_the_authors_is_opened_by_flags(
    tmp_path: Path, crops: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file, stats = tmp_path / "detector.pth", tmp_path / "stats.json"
    measures = random_weights.TINY | {"pool": "mean"}
    pth.write(file, reference.to_state_dict(random_weights.detector_params(measures)))
    save_stats(stats, random_weights.STATS)
    picture = str(crops / "fake/v0_frame_0.png")
    argv = [f"--model={file}", f"--stats={stats}", "--num-heads=4", picture]
    assert run(*argv, "--cropped", "--labels=fake,real") == 0
    record = json.loads(capsys.readouterr().out)
    network = networks.load(file, labels=("fake", "real"), stats=random_weights.STATS, num_heads=4)
    assert record["p_fake"] == pytest.approx(network.predict(picture)[0], abs=1e-6)
    assert run(*argv, "--labels=fake,real") == 78  # It does not say how its faces were found.
    assert run(*argv, "--cropped") == 78  # Nor which logit is which.
    assert run(*argv, "--labels=fake,real", "--face-detector=none") == 0


def test_a_video_has_a_record_without_the_library_that_decodes_it(
    tmp_path: Path,
    model: Path,
    here: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(modules: Collection[str], *, extra: str) -> None:
        assert modules == {"av"}
        raise ConfigError("av is not installed")

    monkeypatch.setattr(batches, "check_installed", missing)
    (tmp_path / "v.mp4").write_bytes(b"x")
    Image.fromarray(render_face(0, image_size=64)[0]).save(tmp_path / "a.png")
    assert run(f"--model={model}", "--cropped", str(tmp_path)) == 66
    photo, video = map(json.loads, capsys.readouterr().out.splitlines())
    assert photo["error"] is None and video["error"] == "it is a video, and av is not installed"


def test_every_photograph_has_a_picture_if_asked_for(
    tmp_path: Path, model: Path, crops: Path, here: None
) -> None:
    argv = [f"--model={model}", "--cropped", str(crops / "fake"), "none.png"]
    assert run(*argv, f"--plots={tmp_path / 'plots'}") == 66
    names = sorted(os.listdir(tmp_path / "plots"))
    assert names[0] == "0000-v0_frame_0.png.png" and len(names) == 7
    assert run(*argv, f"--plots={tmp_path / 'plots'}") == 73


@pytest.mark.e2e
def test_wrong_flags_are_found_before_jax_is_imported(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"")
    program = """
import sys
from fsvfm_jax.predict.__main__ import main
for argv in {argvs!r}:
    try:
        main(argv.split())
    except SystemExit as end:
        print(end.code, "jax" in sys.modules)
"""
    here, file = f"--model={tmp_path}", f"--model={tmp_path}/m.pth"
    argvs = {
        "score --model=/none x.jpg": 65,
        f"score {here} x.jpg --output=x.xls": 78,
        f"score {here} x.jpg --output=/none/x.csv": 73,
        f"score {here} x.jpg --plots={tmp_path}": 73,
        f"score {here} x.jpg --threshold=2": 78,
        f"score {here} x.jpg --threshold=fpr_1": 78,
        f"score {here} x.jpg --calibration=/none": 65,
        f"score {here} x.jpg --stats=/none": 65,
        f"score {here} x.jpg --crop-margin=-1": 78,
        f"score {here} x.jpg --root=/": 78,
        f"score {here} x.jpg --frames=0": 78,
        f"score {file} x.jpg": 78,
        f"score {file} x.jpg --face-detector=dlib": 78,
        "serve --model=/none": 65,
        f"serve {here} --port=99999": 78,
        f"serve {here} --threshold=fpr": 78,
    }
    command = [sys.executable, "-c", program.format(argvs=[*argvs])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{code} False" for code in argvs.values()], done.stderr


def write_video(file: Path, count: int) -> None:
    """Writes a video of two rendered faces beside each other."""
    av = need("av", "prepare")
    faces = [render_face(number, image_size=96)[0] for number in (5, 2)]
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 160, "yuv420p"
        for index in range(count):
            picture = np.full((160, 320, 3), 128, np.uint8)
            for face, left in zip(faces, (20 + index, 190 - index), strict=True):
                picture[32:128, left : left + 96] = face
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


@pytest.mark.e2e
def test_two_people_in_a_video(
    tmp_path: Path, model: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    need("dlib", "prepare")
    write_video(tmp_path / "two = $x$\n.mp4", 20)
    argv = [f"--model={model}", str(tmp_path), "--face-detector=dlib", "--crop-margin=0.15"]
    plots = tmp_path.with_name("plots")
    assert run(*argv, "--faces=all", "--frames=6", f"--plots={plots}", "--timings") == 0
    out, err = capsys.readouterr()
    (record,) = map(json.loads, out.splitlines())
    assert record["frames"] == 6 and len(record["faces"]) == 12
    assert [person["frames"] for person in record["people"]] == [6, 6]
    assert record["p_fake"] == max(person["p_fake"] for person in record["people"])
    for track, place in ((0, 0), (1, 1)):
        own = [face for face in record["faces"] if face["track"] == track]
        assert [face["frame"] for face in own] == [0, 4, 8, 11, 15, 19]
        sides = {(face["box"][0] + face["box"][2]) // 2 // 160 for face in own}
        assert len(sides) == 1, place
    assert (
        "decode and detect: 1 files, 6 frames, 12 faces" in err
        and "the network alone would need" in err
    )
    (plot,) = plots.iterdir()
    assert plot.name == "0000-two_x_.mp4.png"
    with Image.open(plot) as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert run(*argv, "--frames=6") == 0
    record = json.loads(capsys.readouterr().out)
    assert "up to 2 faces found in a frame, the largest one is scored" in record["note"]


@pytest.mark.e2e
def test_every_hostile_file_has_a_record(tmp_path: Path, model: Path) -> None:
    """Uses the real processes, whose time and memory are limited."""
    need("av", "prepare")
    harmless = write_hostile_files(tmp_path / "src")
    found = (name for _, _, names in os.walk(tmp_path / "src") for name in names)
    files = [name for name in found if suffix_of(name) in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)]
    output = tmp_path / "x.csv"
    argv = [f"--model={model}", str(tmp_path / "src"), "--face-detector=none", "--processes=2"]
    assert run(*argv, f"--output={output}") == 66
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert len(rows) == len(files)
    scored = {row["path"].removeprefix(f"{tmp_path}/src/") for row in rows if row["p_fake"]}
    assert scored == {name.replace("\n", r"\n") for name in harmless}
    assert all((row["p_fake"] != "") != (row["error"] != "") for row in rows)


@pytest.mark.e2e
def test_the_command_end_to_end(
    tmp_path: Path, model: Path, crops: Path, fork_server: ForkServer
) -> None:
    output = tmp_path / "x.parquet"
    argv = ["score", f"--model={model}", "--cropped", "--processes=1", str(crops), "none.jpg"]
    done = fork_server.run("fsvfm_jax.predict", *argv, f"--output={output}")
    assert (done.returncode, done.stdout) == (66, ""), done.stderr
    rows = parquet.read_table(output).to_pylist()
    assert [row["error"] is None for row in rows] == [True] * COUNT + [False]
    assert "score: 22/22 (100 %)" in done.stderr
    assert "error: 1 of 22 files could not be scored; their records say why" in done.stderr


@pytest.mark.e2e
def test_a_signal_leaves_whole_lines(tmp_path: Path, model: Path, crops: Path) -> None:
    (tmp_path / "list.txt").write_text("fake/v0_frame_0.png\n" * 20_000)
    output = tmp_path / "x.jsonl"
    argv = [f"--model={model}", "--cropped", str(tmp_path / "list.txt"), f"--root={crops}"]
    argv += [f"--output={output}"]
    command = [sys.executable, "-m", "fsvfm_jax.predict", "score", *argv, "--processes=1"]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE
        while not output.exists() or not output.stat().st_size:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 75
    assert "stopped: all that was written is complete" in said
    content = output.read_text()
    assert content.endswith("\n") and 0 < len(records_of(output)) < 20_000
    scored, left = re.search(r"files scored: ([0-9,]+); not scored: ([0-9,]+)", said).groups()
    assert int(scored.replace(",", "")) == len(records_of(output))
    assert int(left.replace(",", "")) == 20_000 - len(records_of(output))
    assert "semaphore" not in said and "Warning" not in said
