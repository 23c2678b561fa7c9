"""Tests that sets have the options of their layouts; `test_fields` tests the tasks' tables."""

import inspect

import pytest

from configs import transfer
from fsvfm_jax.config.downstream_fields import FACE_SET, OF_LAYOUTS, OF_RENDERED, ON_DISK
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.labelled.layouts import LAYOUTS
from fsvfm_jax.data.labelled.protocols import read_set
from fsvfm_jax.data.rendered.rendered_sets import RenderedFaces
from fsvfm_jax.errors import ConfigError


def keywords(function, kinds=(inspect.Parameter.KEYWORD_ONLY,)) -> set[str]:
    parameters = inspect.signature(function).parameters.items()
    return {name for name, one in parameters if one.kind in kinds}


def test_the_tables_have_the_options_of_the_functions_that_read_sets():
    assert keywords(read_set) == {"split", "name", "roots", "field"} | ON_DISK.keys()
    options = set().union(*(keywords(read) for read in LAYOUTS.values())) - {"split"}
    assert options == OF_LAYOUTS.keys()
    both = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    of_rendered = keywords(RenderedFaces.__init__, both) - {"self", "image_size", "split"}
    assert of_rendered == OF_RENDERED.keys()
    assert FACE_SET.keys() == {"layout", "path", "split"}


def resolved(layout, **options):
    config = transfer.get_config("vit_base_patch16")
    config.data.paths = ("DIR",)
    with config.data.unlocked():
        config.data.train = {"mine": transfer.face_set(layout, "SET", split="train", **options)}
    return resolve(config).data.train.mine.to_dict()


def test_a_resolved_set_has_the_options_that_it_gives():
    common = {"path": "SET", "split": "train", "labels": (), "exclude": (), "frames": 0}
    common["real_frames"] = None
    assert resolved("folder") == common | {"layout": "folder"}
    given = {"subset": "msu", "labels": (("0", "fake"), ("1", "real")), "frames": 2}
    assert resolved("fas", **given) == common | {"layout": "fas"} | given


def test_the_layout_can_be_changed_where_options_of_the_other_are_empty():
    config = transfer.get_config("vit_base_patch16")
    config.data.paths = ("DIR",)
    with config.data.unlocked():
        config.data.train = {
            "mine": transfer.face_set("deepfakebench", "SET", split="train", list_file="a.json")
        }
    config.data.train.mine.layout = "folder"
    message = (
        r"config\.data\.train\.mine\.list_file = 'a\.json' is no option of the layout 'folder',"
        r" but of 'list' and 'lists' and 'deepfakebench'.*; leave it empty, or set"
        r" config\.data\.train\.mine\.layout$"
    )
    with pytest.raises(ConfigError, match=message):
        resolve(config)
    config.data.train.mine.list_file = ""
    assert "list_file" not in resolve(config).data.train.mine


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("foldr", {}, r"train\.mine\.layout = 'foldr' is unknown; did you mean 'folder'"),
        (
            "folder",
            {"frames": -1},
            r"train\.mine\.frames = -1 must be from 0 to .* \(evenly spaced",
        ),
        ("folder", {"real_frames": 1.5}, r"real_frames = 1\.5 must be a whole number"),
        ("folder", {"labels": ("a",)}, r"labels = \('a',\) is wrong: 'a' must be two values"),
        (
            "folder",
            {"colour": "x"},
            r"train\.mine\.colour = 'x' is no option .* videos; remove it$",
        ),
        ("folder", {"seed": 3}, r"seed = 3 is no option .*, but of 'rendered': its"),
        ("fas", {}, r"the layout 'fas' needs config\.data\.train\.mine\.subset: set it"),
        ("rendered", {"name": "swap-a"}, r"the layout 'rendered' needs .*train\.mine\.seed: set"),
        ("rendered", {"name": "swap-z"}, r"name = 'swap-z' is unknown; did you mean 'swap-"),
    ],
)
def test_an_option_that_cannot_be_names_its_field(layout, options, message):
    with pytest.raises(ConfigError, match=message):
        resolved(layout, **options)
