"""Tests the command as a user runs it: kills, hostile files, and calls of the other stages."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ForkServer
from golden_files import need
from hostile_files import write_hostile_files
from patience import PATIENCE
from PIL import Image
from video_files import write_video

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.prepare import detect, pack
from fsvfm_jax.prepare.__main__ import main
from fsvfm_jax.prepare.files import MediaFile, find_sources
from fsvfm_jax.prepare.manifest import Manifest, read_lines
from fsvfm_jax.prepare.workers import MEMORY_BYTES, spread

need("dlib", "prepare")
need("av", "prepare")


def write_faces(folder: Path, count: int) -> None:
    """Writes pictures with one face each."""
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(render_face(index, image_size=64)[0]).save(folder / f"{index}.png")


def bytes_of(tree: Path) -> dict[str, bytes]:
    """Returns the bytes of every file of a tree, by path."""
    return {str(x.relative_to(tree)): x.read_bytes() for x in tree.rglob("*") if x.is_file()}


def kill_at(lines: int, journal: Path, argv: list[str]) -> None:
    """Starts the command in a process and kills it when its journal has this number of lines."""
    command = [sys.executable, "-m", "fsvfm_jax.prepare", *argv, "--processes", "1"]
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=silent, stderr=silent)
    deadline = time.monotonic() + PATIENCE
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.e2e
def test_a_killed_command_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write_faces(tmp_path / "src", 30)
    for tree in (whole, killed):
        src = str(tmp_path / "src")
        detecting = ["detect", src, str(tree), "--detector", "none", "--size", "48"]
        parsing = ["parse", str(tree), "--parser", "average", "--batch-size", "2"]
        if tree == killed:
            kill_at(8, tree / ".detect.jsonl", detecting)
        main(detecting)
        if tree == killed:
            kill_at(4, tree / ".parse.jsonl", parsing)
        main(parsing)
    assert bytes_of(killed) == bytes_of(whole)
    assert len(list((whole / "parsing_maps").iterdir())) == 30


def measured(arguments: Any) -> Callable[[MediaFile], tuple[list[dict[str, Any]], float, int]]:
    """Returns a worker that also measures an item: CPU seconds, and bytes beyond its start."""
    work = detect._make_worker(arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def do(source: MediaFile) -> tuple[list[dict[str, Any]], float, int]:
        started = time.process_time()
        lines = work(source)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        return lines, time.process_time() - started, used * 1024

    return do


@pytest.mark.e2e
def test_hostile_files_are_refused_in_time(tmp_path: Path) -> None:
    src, tree = tmp_path / "src", tmp_path / "tree"
    harmless = write_hostile_files(src)
    sources, refusals = find_sources(str(src))
    assert len(sources) + len(refusals) > 80
    assert not {refusal.name for refusal in refusals} & harmless.keys()
    outcomes = {}
    with Manifest(tree, "detect", key="source", options={}):
        for source, result in spread(sources, measured, [(tree, detect.Options())]):
            assert result is not None, source
            (line, *_), seconds, used = result
            assert seconds < 5, source
            assert used < MEMORY_BYTES, source
            assert line["reason"] or line["outcome"] == "face"
            outcomes[source.name] = line["outcome"]
    assert {x: y for x, y in outcomes.items() if y != "refused"} == harmless
    written = {x.name for x in (tmp_path / "tree" / "images").rglob("*.png")}
    assert written == {Path(x).stem + ".png" for x, y in harmless.items() if y == "face"}
    assert {x.name for x in tmp_path.iterdir()} == {"src", "tree", "secret.jpg"}


@pytest.mark.e2e
def test_a_video_gives_evenly_spaced_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 100)
    main(["detect", str(tmp_path / "v.avi"), str(tmp_path / "t"), "--detector", "none"])
    lines = list(read_lines(tmp_path / "t"))
    frames = [line["frame"] for line in lines]
    assert frames == np.linspace(0, 99, 32).round().tolist()
    for line in lines:
        assert line["image"] == f"v_frame_{line['frame']}.png"
        pixels = np.asarray(Image.open(tmp_path / "t" / "images" / line["image"]))
        assert abs(int(pixels[100, 100, 0]) - 2 * line["frame"]) < 4


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """Replaces `pack` and records its arguments."""
    asked: list[tuple[str, str, str]] = []
    monkeypatch.setattr(pack, "run", lambda args: asked.append((args.dir, args.set, args.encoding)))
    return asked


@pytest.mark.e2e
def test_three_commands_from_photographs_to_a_trained_network(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    write_faces(tmp_path / "src", 16)
    tree = tmp_path / "tree"
    main(["run", str(tmp_path / "src"), str(tree), "--detector=none", "--parser=average"])
    main(["check", str(tree / "set")])
    size = {"image_size": 32, "width": 32, "depth": 1, "decoder_width": 32, "decoder_depth": 1}
    done = fork_server.run(
        "fsvfm_jax.main",
        "--config=configs/vit_s.py:smoke",
        *(f"--config.model.{name}={value}" for name, value in size.items()),
        "--config.data.source=tfds",
        f"--config.data.paths=('{tree}/set',)",
        "--config.batch_size=8",
        "--config.epochs=2",
        "--config.schedule_epochs=2",
        f"--workdir={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    assert [x.name for x in (tmp_path / "run" / "checkpoints").iterdir()] == ["4"]


@pytest.mark.e2e
def test_run_goes_through_all_stages(tmp_path: Path, packed: list[tuple[str, str, str]]) -> None:
    write_faces(tmp_path / "src", 2)
    tree = str(tmp_path / "tree")
    flags = ["--detector", "none", "--parser", "average", "--encoding", "original"]
    main(["run", str(tmp_path / "src"), tree, *flags])
    assert packed == [(tree, f"{tree}/set", "original")]
    assert len(list((tmp_path / "tree" / "parsing_maps").iterdir())) == 2
    # A folder that has images and maps is packed unchanged.
    main(["run", tree, str(tmp_path / "other")])
    assert packed[1:] == [(tree, str(tmp_path / "other" / "set"), "jpeg")]
    assert not (tmp_path / "other" / "images").exists()


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["detect", "nowhere", "t"], 65, "error: nowhere does not exist"),
        (["detect", "nowhere", "t", "--faces", "two"], 78, "invalid choice: 'two'"),
        (["detect", "nowhere", "t", "--encoding", "raw"], 78, "unrecognized arguments: --encoding"),
        (["parse", "nowhere"], 78, "pip install '.[farl]'"),
        (["parse", "nowhere", "--parser", "average"], 65, "images does not exist"),
        (["run", "nowhere", "t", "--x"], 78, "unrecognized arguments: --x"),
        (["run", "nowhere", "t", "--encoding", "raw"], 78, "give --image-size"),
        (["run", "--split", "val", "nowhere", "t", "--parser", "average"], 65, "nowhere does not"),
    ],
)
def test_mistakes_are_one_sentence(
    argv: list[str],
    code: int,
    message: str,
    packed: list[tuple[str, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "facer" else name)
    with pytest.raises(SystemExit) as ended:
        main(argv)
    said = capsys.readouterr().err
    assert ended.value.code == code and message in said and said.count("\n") == 1
    assert os.listdir(tmp_path) == []
