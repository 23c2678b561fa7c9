"""Tests which rows a comparison has, and what it refuses before anything is trained."""

import dataclasses

import jax
import pytest
import tiny
from golden_files import need
from random_weights import encoder_params

from configs import evaluation, sets
from configs.compare import dfd
from fsvfm_jax.benchmark import comparison_cells
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert import pth
from fsvfm_jax.convert.card import Description
from fsvfm_jax.convert.folder import read_folder, write_folder
from fsvfm_jax.convert.reference import to_state_dict
from fsvfm_jax.convert.source_files import file_sha256
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.models import build_encoder
from fsvfm_jax.models.vit import SIZE_FIELDS, SIZES
from fsvfm_jax.tuning import MODES

OTHER = {"image_size": 24, "patch_size": 8, "width": 48, "depth": 1, "num_heads": 4}


@pytest.fixture
def exported(tmp_path):
    """Returns the folder of an encoder that has other sizes than the recipes."""
    params = jax.device_get(build_encoder(OTHER).init_params(jax.random.key(0)))
    description = Description(
        model=OTHER | {"pool": "mean"},
        stats=Stats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        license="apache-2.0",
        source="a test",
        source_sha256="0" * 64,
    )
    write_folder(tmp_path / "exported", params, description)
    return tmp_path / "exported"


def test_heads_that_nothing_shows_are_asked_for_by_the_encoders_field(tmp_path):
    need("torch")
    file = tmp_path / "small.pth"
    pth.write(file, to_state_dict(encoder_params(SIZES["vit_small_patch16"])))
    config = tiny.comparison()
    config.encoders.mine.params = str(file)
    with pytest.raises(ConfigError, match=r"small\.pth .*give config\.encoders\.mine\.num_heads"):
        comparison_cells.cells_of(config)


@pytest.fixture
def pooled(exported, tmp_path):
    """Returns the folder of an encoder with an attention pool and without a class token."""
    measures = OTHER | {"pool_heads": 4, "class_token": False, "prefix_positions": 0}
    params = jax.device_get(build_encoder(measures).init_params(jax.random.key(0)))
    description = read_folder(exported).description
    description = dataclasses.replace(description, model=measures | {"pool": "attention"})
    write_folder(tmp_path / "pooled", params, description)
    return tmp_path / "pooled"


@pytest.mark.parametrize(
    ("params", "pool"), [("", "attention"), ("exported", "attention"), ("pooled", "token")]
)
def test_a_pool_that_an_encoder_does_not_have_is_refused(params, pool, exported, pooled):
    config = tiny.comparison()
    folder = {"exported": exported, "pooled": pooled}.get(params, "")
    config.encoders.mine.update(params=str(folder), pool=pool)
    with pytest.raises(ConfigError, match=rf"config\.encoders\.mine with the pool '{pool}'"):
        comparison_cells.cells_of(config)
    config.encoders.mine.pool = None
    for mode in config.modes:
        config.train[mode].model.pool = pool
    with pytest.raises(ConfigError, match=rf"with the pool '{pool}'"):
        comparison_cells.cells_of(config)


def test_each_encoder_may_have_a_pool_of_its_own(pooled):
    config = tiny.comparison()
    config.encoders.mine.update(params=str(pooled), pool="attention")
    cells, _ = comparison_cells.cells_of(config)
    assert [cell.config.model.pool for cell in cells] == ["attention"] * 2 + ["mean"] * 2
    # The start of a run finds this in the weights, as it does all options.
    assert {cell.config.model.pool_heads for cell in cells} == {None}


def test_the_rows_are_every_encoder_that_has_weights_in_every_mode(exported):
    config = tiny.comparison()
    config.encoders.mine.params = str(exported)
    config.encoders.mine.published.linear = "FSFM ViT-B"
    cells, left_out = comparison_cells.cells_of(config)
    assert [cell.name for cell in cells] == [
        *("mine-full", "mine-linear", "random-full", "random-linear"),
    ]
    assert [cell.published for cell in cells] == ["", "FSFM ViT-B", "", ""]
    assert "other" in left_out and "mine" not in left_out
    resolved = resolve(cells[1].run_config(rate=0.01, seed=7))
    assert (resolved.mode, resolved.seed, resolved.optimizer.lr) == ("linear", 7, 0.01)
    assert resolved.init.params == str(exported)
    sizes = {name: resolved.model[name] for name in SIZE_FIELDS}
    assert cells[0].sha256 == file_sha256(exported / "config.json") and not cells[2].sha256
    assert sizes == OTHER and resolved.data.mean == (0.1, 0.2, 0.3)
    assert cells[3].config.model.image_size == tiny.ENCODER["image_size"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "finetune"}, ConfigError, "task = 'finetune' .*compare"),
        ({"modes": ("full", "ful")}, ConfigError, r"modes = .*'ful'.*did you mean 'full'"),
        ({"modes": ("full", "full")}, ConfigError, r"modes = .* must be different"),
        (
            {"encoders.mine.published.full": "FS"},
            ConfigError,
            r"published\.full = .FS. is unknown",
        ),
        ({"encoders.mine.branch": "x"}, ConfigError, r"config\.encoders\.mine\.branch = 'x'"),
        ({"seeds": (0, 0)}, ConfigError, r"seeds = \(0, 0\) must be different"),
        ({"seeds": ()}, ConfigError, "must be different, at least one"),
        ({"seeds": (100,)}, ConfigError, "tuning_seed = 100 is among config.seeds"),
        ({"rates.full": (0.1, 0.1)}, ConfigError, r"rates\.full = .* must be different"),
        ({"rates.full": (-0.1,)}, ConfigError, r"rates\.full = .* above 0"),
        ({"rates.full": (1e9,)}, ConfigError, r"rates\.full = "),
        ({"encoders.random.params": None}, ConfigError, "encoders.clip.params=WEIGHTS"),
        ({"encoders.mine.params": "/none"}, DataError, r"mine\.params = '/none' does not exist"),
        ({"train.full.batch_size": 0}, ConfigError, "batch_size"),
        (
            {"train.full.mode": "lora"},
            ConfigError,
            r"full\.mode = 'lora': it must be 'full'",
        ),
        ({"test.batch_size": -5}, ConfigError, "batch_size = -5"),
        ({"test.select": ("validation", "last")}, ConfigError, "has several ways"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(changes, error, message):
    config = tiny.comparison()
    config.update_from_flattened_dict(changes)
    with pytest.raises(error, match=message):
        comparison_cells.cells_of(config)


def test_every_mode_of_the_papers_comparison_has_a_recipe_and_rates(tmp_path):
    c = dfd.get_config("l")
    assert set(c.modes) == set(c.train) == set(c.rates) == set(MODES)
    assert all(x.params is None for x in c.encoders.values())
    c.encoders.fsvfm.params = ""
    c.paths = (str(tmp_path),)
    with pytest.raises(DataError, match="Celeb-DF"):
        comparison_cells.cells_of(c)
    c.test = evaluation.get_config()
    c.test.data.test.update(sets.rendered(("swap-a",), "test", videos=4))
    c.test.select = ("validation",)
    cells, _ = comparison_cells.cells_of(c)
    assert {cell.config.data.paths for cell in cells} == {(str(tmp_path),)}
    only = dfd.get_config("b,CDFv2,DFDC").test.data.test
    assert set(only) == {"CDFv2", "DFDC"}
