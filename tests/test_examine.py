"""Tests that every face is read once, and that each fault of a face is reported."""

from pathlib import Path

import face_trees
import numpy as np
import pytest

from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.set_manifest import read_manifest
from fsvfm_jax.prepare.examine import TreeFaces, examine
from fsvfm_jax.prepare.pack import pack
from fsvfm_jax.prepare.trees import list_tree

SIZE = face_trees.SIZE
COUNT = 12


@pytest.fixture
def packed(tree: Path, tmp_path: Path) -> Path:
    pack(str(tree), str(tmp_path / "set"), shard_records=5)
    return tmp_path / "set"


@pytest.mark.e2e
def test_workers_see_the_same(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = FaceRecords(str(packed), image_size=1)
    alone = examine(faces, workers=1, description="")
    monkeypatch.setattr("fsvfm_jax.prepare.examine.FACES_AT_ONCE", 1)
    spread = examine(faces, workers=2, description="")
    np.testing.assert_array_equal(alone.digests, spread.digests)
    assert alone.power_sums == spread.power_sums
    assert (
        alone.images_per_class
        == spread.images_per_class
        == list(read_manifest(packed)["train"].images_per_class)
    )


def test_what_is_wrong_with_a_face_is_said_and_the_others_are_seen(tmp_path: Path) -> None:
    tree = face_trees.write_tree(tmp_path, 4)
    copy, damaged = tree / "images/a/002.png", tree / "parsing_maps/b/003.npy"
    copy.write_bytes((tree / "images/a/000.png").read_bytes())
    damaged.write_bytes(b"text")
    seen = examine(TreeFaces(list_tree(str(tree)).pairs), workers=1, description="")
    assert [problem.partition(": ")[0] for problem in seen.problems] == [str(damaged)]
    assert seen.indices.tolist() == [0, 1, 2]
    assert seen.digests[0] == seen.digests[1] != seen.digests[2]
    assert seen.power_sums[0] == [3 * SIZE * SIZE] * 3
    assert seen.sizes == {(SIZE, SIZE): 3}
