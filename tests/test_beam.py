"""Packing as an Apache Beam pipeline gives the same set."""

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import face_trees
import pytest

from fsvfm_jax import prepare
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.prepare import pack as pack_module
from fsvfm_jax.prepare.pack import pack

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(
    not HAS_BEAM and "CI" not in os.environ, reason="apache-beam, of the extra beam, is not there"
)
COUNT = 14


@needs_beam
@pytest.mark.filterwarnings("ignore")  # of Beam's own
@pytest.mark.parametrize(
    "options",
    ["", "--direct_num_workers=2 --direct_running_mode=multi_processing"],
)
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


def test_without_beam_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 1)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "fsvfm_jax.prepare.beam", raising=False)
    monkeypatch.delattr(prepare, "beam", raising=False)
    parser = argparse.ArgumentParser()
    pack_module.add_arguments(parser)
    args = parser.parse_args([str(tree), str(tmp_path / "set"), "--beam="])
    with pytest.raises(ConfigError, match=r"--beam needs Apache Beam .*fsvfm_jax\[beam\]"):
        pack_module.run(args)
