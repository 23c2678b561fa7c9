"""Tests that the stages write the same files when they run as Apache Beam pipelines."""

import importlib.util
import os
import shutil
from pathlib import Path

import face_trees
import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.errors import ConfigError, StorageError
from fsvfm_jax.prepare import detect as detect_module
from fsvfm_jax.prepare import pack as pack_module
from fsvfm_jax.prepare.detect import Options, detect
from fsvfm_jax.prepare.manifest import keep_lines
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.prepare.parse import Options as ParseOptions
from fsvfm_jax.prepare.parse import parse

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
    not HAS_BEAM and "CI" not in os.environ, reason="apache-beam, of the extra beam, is not there"
)
COUNT = 14
RUNNERS = [
    "",
    pytest.param(
        "--direct_num_workers=2 --direct_running_mode=multi_processing", marks=pytest.mark.slow
    ),
]
CROPPED = Options(detector="none", size=16)


@needs_beam
@pytest.mark.filterwarnings("ignore")  # Beam itself warns.
@pytest.mark.parametrize("options", RUNNERS)
def test_both_ways_give_the_same_records(tmp_path: Path, options: str) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", COUNT)
    (tree / "parsing_maps/a/002.npy").unlink()
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    pack(str(tree), str(alone), shard_records=4)
    pack(str(tree), str(spread), shard_records=4, beam=options)
    one, other = (FaceRecords(str(path), image_size=32) for path in (alone, spread))
    assert one.records(range(COUNT - 1)) == other.records(range(COUNT - 1))
    assert face_trees.contents(alone) == face_trees.contents(spread)


@needs_beam
@pytest.mark.filterwarnings("ignore")
def test_beam_goes_on_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", COUNT)
    target = tmp_path / "set"
    pack(str(tree), str(target), shard_records=4)
    expected = face_trees.contents(target)
    folder = target / ".unfinished-train"
    write_shards = pack_module._write_shards

    def write_two(plan: object, folder: Path, missing: list[int], *, workers: int) -> None:
        write_shards(plan, folder, missing[:2], workers=workers)
        raise KeyboardInterrupt

    shutil.rmtree(target)
    monkeypatch.setattr(pack_module, "_write_shards", write_two)
    with pytest.raises(KeyboardInterrupt):
        pack(str(tree), str(target), shard_records=4)
    assert len(list(folder.glob("*.json"))) == 2
    pack(str(tree), str(target), shard_records=4, beam="")
    assert face_trees.contents(target) == expected


def write_photographs(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "notes.md").write_text("no photograph")
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "0.png").read_bytes())
    return folder


def detect_and_parse(photographs: Path, tree: Path, beam: str | None) -> dict[str, bytes]:
    detect(str(photographs), tree, CROPPED, processes=1, beam=beam)
    parse(tree, ParseOptions(parser="average"), processes=1, beam=beam)
    return face_trees.contents(tree)


@pytest.mark.e2e
@needs_beam
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", RUNNERS)
def test_both_ways_give_the_same_crops_maps_and_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.chdir(tmp_path)  # The pipeline's machine may have another current folder.
    monkeypatch.setattr(detect_module, "SOURCES_AT_ONCE", 2)
    photographs = write_photographs(tmp_path / "photographs")
    alone = detect_and_parse(photographs, Path("alone"), None)
    spread = detect_and_parse(photographs, Path("spread"), options)
    assert len([name for name in alone if name.startswith("parsing_maps/")]) == 6
    assert b"broken.png" in alone["manifest.jsonl"] and b"notes.md" in alone["manifest.jsonl"]
    assert spread == alone


@pytest.mark.slow  # the same for a packed set is above
@needs_beam
@pytest.mark.filterwarnings("ignore")
def test_a_stage_goes_on_with_what_was_done_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    expected = detect_and_parse(photographs, tmp_path / "alone", None)
    monkeypatch.setattr(detect_module, "SOURCES_AT_ONCE", 1)
    done: list[str] = []

    def fails_at_the_last(*args: object, **kwargs: object) -> None:
        done.append("one")
        if len(done) == 7:
            raise StorageError("the volume is gone")
        keep_lines(*args, **kwargs)

    monkeypatch.setattr("fsvfm_jax.prepare.stages.keep_lines", fails_at_the_last)
    with pytest.raises(StorageError, match=r"the Beam pipeline failed .*the volume is gone"):
        detect(str(photographs), tmp_path / "tree", CROPPED, processes=1, beam="")
    monkeypatch.undo()
    detected: list[object] = []
    work = detect_module._detected

    def counted(sources: list[object], **kwargs: object) -> object:
        detected.extend(sources)
        return work(sources, **kwargs)

    monkeypatch.setattr(detect_module, "_detected", counted)
    assert detect_and_parse(photographs, tmp_path / "tree", None) == expected
    assert len(detected) == 1


@needs_beam
def test_options_that_beam_does_not_understand(tmp_path: Path) -> None:
    photographs = write_photographs(tmp_path / "photographs")
    with pytest.raises(
        ConfigError, match=r"--beam is '--direct_num_workers=x', which .*invalid int"
    ):
        beam = "--direct_num_workers=x"
        detect(str(photographs), tmp_path / "tree", CROPPED, processes=1, beam=beam)


def test_shards_that_do_not_come_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "do", lambda *_, **__: None)
    tree = face_trees.write_tree(tmp_path / "tree", 6)
    with pytest.raises(StorageError, match=r"of 2 items, such as .*00000-of-00002, nothing came"):
        pack(str(tree), str(tmp_path / "set"), shard_records=4, beam="")
