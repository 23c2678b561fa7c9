"""Tests which groups the faces of a config's sets get."""

import pytest
from etils import epath
from labelled_faces import write_faces

from configs import evaluation, transfer
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.labelled.detection_sets import open_sets
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.grouping import open_groups
from fsvfm_jax.report.results import write_groups


def config_of(file, root, **sets):
    c = evaluation.get_config()
    c.init.params = "detector"
    c.data.paths = (str(root),)
    c.data.test.update(sets)
    c.groups.update(file=str(file), column="light")
    return resolve(c)


def opened(config):
    return open_sets(config.data.test, config.data.paths, image_size=32)


def test_paths_are_relative_to_the_root_of_the_set_or_those_of_rendered_videos(tmp_path):
    root = write_faces(tmp_path / "root" / "mine")
    with (root / "groups.csv").open("a") as file:
        file.write("swap-a/test/fake/00001,lamp\nswap-a/test/real,sun\n")
    sets = {"rendered": transfer.rendered_set("swap-a", "test", videos=2, frames=1)}
    sets["mine"] = transfer.face_set("folder", "mine", split="test")
    config = config_of(root / "groups.csv", tmp_path / "root", **sets)
    found = open_groups(config, opened(config))
    assert found.by_file[str(root / "test/real/v00/0.png")] == "day"
    assert found.by_file["swap-a/test/fake/00001_frame_0"] == "lamp"
    assert found.by_file["swap-a/test/real/00000_frame_0"] == "sun"
    assert len(found.without) == 3


def test_a_file_and_a_column_belong_together_and_neither_is_no_groups(tmp_path):
    root = write_faces(tmp_path / "mine", videos=2, frames=1)
    mine = transfer.face_set("folder", split="test")
    with pytest.raises(ConfigError, match="give both, or neither"):
        config_of("", root, mine=mine)
    config = config_of(root / "groups.csv", root, mine=mine)
    config.groups.update(file="", column="")
    assert open_groups(config, opened(config)) is None


def test_tables_of_an_earlier_evaluation_with_groups_do_not_stay_beside_one_without(tmp_path):
    for ending in ("md", "json"):
        (tmp_path / f"table_groups.{ending}").write_text("earlier")
    write_groups(epath.Path(tmp_path), [], None)
    assert not list(tmp_path.iterdir())
    write_groups(epath.Path(tmp_path), [], None)
