"""Tests recipes and checks, and the config files themselves."""

import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import transfer
from configs.face_sets import face_set
from fsvfm_jax.config.resolve import ADDED, ADDED_SECTIONS, resolve, resolve_stored, to_json
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models import build

NAMES = ("vit_s", "vit_b", "vit_l", "vit_h")


def get_config(name: str, arg: str = ""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


def test_paper_is_the_default_recipe():
    config = resolve(get_config("vit_b"))
    assert config.teacher.mode == "ema"
    assert config.model.rep_pos == "sincos"
    assert config.mask.region_choice == "per_image"
    assert config.optimizer.grad_clip == 1.0
    assert config.schedule_epochs == config.epochs == 600


def test_released_sets_its_switches_together():
    config = get_config("vit_b")
    config.recipe = "released"
    config = resolve(config)
    assert config.teacher.mode == "frozen"
    assert config.model.rep_pos == "zeros"
    assert config.mask.region_choice == "per_group"
    assert config.optimizer.grad_clip == 0.0
    assert (config.epochs, config.schedule_epochs) == (600, 800)


def test_an_explicit_value_wins_over_the_recipe():
    config = get_config("vit_b")
    config.recipe = "released"
    config.teacher.mode = "ema"
    config.optimizer.grad_clip = 3.0
    config = resolve(config)
    assert (config.teacher.mode, config.optimizer.grad_clip) == ("ema", 3.0)
    assert config.model.rep_pos == "zeros"


def test_resolving_leaves_the_given_config_alone():
    config = get_config("vit_b")
    resolve(config)
    assert config.teacher.mode is None


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize("name", NAMES)
def test_config_files_resolve_build_and_become_json(name, arg):
    config = resolve(get_config(name, arg))
    build(config.model)
    stored = json.loads(to_json(config))
    assert stored["model"]["width"] == config.model.width
    assert stored["optimizer"]["betas"] == [0.9, 0.95]


def test_configs_hold_the_papers_recipe():
    config = get_config("vit_l")
    assert (config.batch_size, config.optimizer.blr, config.optimizer.warmup_epochs) == (
        4096,
        1.5e-4,
        40,
    )
    assert (config.loss.weight_region, config.loss.weight_sim) == (0.007, 0.1)
    assert (config.mask.strategy, config.mask.mask_ratio) == ("crfr_p", 0.75)
    assert (config.teacher.momentum, config.optimizer.weight_decay) == (0.996, 0.05)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("recipe", "papr", "config.recipe = 'papr' is unknown; did you mean 'paper'"),
        ("mask.strategy", "crfr_q", "did you mean 'crfr_[pr]'"),
        ("loss.similarity", "simsaim", "did you mean 'simsiam'"),
        ("teacher.mode", "emma", "did you mean 'ema'"),
        ("mask.mask_ratio", 0.0, "mask_ratio 0.0 removes 0 of N = 196"),
        ("mask.mask_ratio", 1.0, "mask_ratio 1.0 removes 196 of N = 196"),
        ("model.image_size", 225, "image size 225 is not divisible by patch size 16"),
        ("batch_size", 0, "config.batch_size = 0 must be from 1 to 2147483647"),
        ("schedule_epochs", 10, "config.schedule_epochs = 10 .* ends before config.epochs = 600"),
        ("optimizer.warmup_epochs", 600, "leaves nothing of config.schedule_epochs = 600"),
        ("data.mean", (0.5, 0.5), r"config.data.mean = \(0.5, 0.5\) must be three values"),
        ("data.mean", (0.5, 0.5, 0.5), "give both config.data.mean and config.data.std"),
        ("seed", -1, "config.seed = -1 must be from 0 to"),
        ("model.num_heads", 0, "config.model.num_heads = 0 must be from 1"),
        ("model.depth", 0, "config.model.depth = 0 must be from 1"),
        ("teacher.momentum", 2.0, "config.teacher.momentum = 2.0 must be from 0 to 1"),
        ("optimizer.warmup_epochs", -1, "config.optimizer.warmup_epochs = -1 must be from 0"),
        ("data.num_workers", -1, "config.data.num_workers = -1 must be from 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(path, value, message):
    config = get_config("vit_b")
    config.update_from_flattened_dict({path: value})
    with pytest.raises(ConfigError, match=message):
        resolve(config)


@pytest.mark.parametrize("std", [(0.0, 0.2, 0.2), (0.2, 0.2), (0.2, 0.2, 2.0)])
def test_a_standard_deviation_that_cannot_be_is_refused(std):
    config = get_config("vit_b")
    config.data.update(mean=(0.5, 0.5, 0.5), std=std)
    with pytest.raises(ConfigError, match=r"config\.data\.std = .* must be three values"):
        resolve(config)


def test_an_unknown_argument_is_refused():
    with pytest.raises(ConfigError, match=r"no argument 'smok'; it takes smoke$"):
        get_config("vit_b", "smok")


@pytest.mark.parametrize("name", ["vit_s", "vit_b", "vit_l", "vit_h", "vit_s-smoke"])
def test_resolved_configs_are_those_on_file(name):
    """Makes a change of a default visible as a diff of `tests/golden`."""
    stored = Path(__file__).parent / "golden" / f"{name}.json"
    assert to_json(resolve(get_config(*name.split("-")))) + "\n" == (stored.read_text())


@pytest.mark.parametrize("path", ADDED)
def test_a_run_of_before_a_field_came_is_read(path):
    resolved = resolve(get_config("vit_s", "smoke"))
    content = json.loads(to_json(resolved))
    section, name = path.split(".")
    del content[section][name]
    assert to_json(resolve_stored(content)) == to_json(resolved)


def test_a_run_of_before_probes_and_alarms_is_read():
    resolved = resolve(get_config("vit_s", "smoke"))
    content = json.loads(to_json(resolved))
    for section in ADDED_SECTIONS["pretrain"]:
        del content[section]
    stored = resolve_stored(content)
    assert stored.probe.every == 0 and stored.monitor.collapse == "off"
    assert {name: value.keys() for name, value in ADDED_SECTIONS["pretrain"].items()} == {
        name: resolved[name].to_dict().keys() for name in ADDED_SECTIONS["pretrain"]
    }


def test_a_run_of_fine_tuning_of_before_its_modes_had_sections_is_read():
    config = transfer.get_config("vit_small_patch16", smoke=True, mode="linear")
    content = json.loads(to_json(resolve(config)))
    sections = {name: content.pop(name) for name in ADDED_SECTIONS["finetune"]}
    stored = resolve_stored(content).to_dict()
    assert {name: value.keys() for name, value in sections.items()} == {
        name: stored[name].keys() for name in ADDED_SECTIONS["finetune"]
    }
    assert stored["optimizer"] == content["optimizer"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {}}, r"config\.probe\.train names no set"),
        ({"test": {"x": face_set("folder")}}, r'layout \'folder\': .* --config\.probe\.paths="'),
        ({"k": 129}, r"config\.probe\.k = 129 is above config\.probe\.faces = 128"),
        ({"paths": ("/my",)}, r"config\.probe\.paths = \('/my',\) is read by no set"),
        ({"every": -1}, r"config\.probe\.every = -1 must be from 0"),
        ({"branch": "both"}, "config.probe.branch = 'both' is unknown"),
        ({"test": {"x": face_set("foldr")}}, "config.probe.test.x.layout = 'foldr' is unknown"),
    ],
)
def test_a_probe_that_cannot_be_made_is_refused(changes, message):
    config = get_config("vit_s", "smoke")
    with config.unlocked(), config.probe.unlocked():
        for name, value in changes.items():
            config.probe[name] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=message):
        resolve(config)
