"""Tests what mode and schedule decide, and the errors for mistakes in them."""

import importlib

import pytest

from configs import evaluation, transfer
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.errors import ConfigError


def config(mode="full", **changes):
    c = transfer.get_config("vit_base_patch16", smoke=True, mode=mode)
    c.update_from_flattened_dict({name.replace("__", "."): x for name, x in changes.items()})
    return c


def resolved(mode="full", **changes):
    return resolve(config(mode, **changes))


def test_the_mode_decides_about_the_adapter():
    assert resolved("full").model.adapter_reduction == 0
    assert resolved("adapter").model.adapter_reduction == 4
    assert resolved("adapter", model__adapter_reduction=8).model.adapter_reduction == 8
    with pytest.raises(ConfigError, match=r"config\.mode = 'linear' with .*adapter_reduction = 4"):
        resolved("linear", model__adapter_reduction=4)


@pytest.mark.parametrize(
    ("mode", "lr", "decays"),
    [
        ("full", None, (0.01, 0.9)),
        ("partial", None, (0.01, 0.9)),
        ("linear", None, (0.01, 0.9)),
        ("norms", 3e-4, (0.0, 1.0)),
        ("lora", 5e-4, (0.0, 1.0)),
    ],
)
def test_the_mode_decides_about_the_learning_rate_unless_it_is_given(mode, lr, decays):
    changes = {"full__blr": 5e-5, "full__weight_decay": 0.01, "full__layer_decay": 0.9}
    optimizer = resolved(mode, **changes, optimizer__lr=None).optimizer
    assert (optimizer.lr, optimizer.blr) == (lr, 5e-5)
    assert (optimizer.weight_decay, optimizer.layer_decay) == decays
    given = {"optimizer__lr": None, "optimizer__blr": 1e-3, "optimizer__weight_decay": 0.2}
    optimizer = resolved(mode, **changes, **given).optimizer
    assert (optimizer.lr, optimizer.blr, optimizer.weight_decay) == (None, 1e-3, 0.2)


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("lora", {"lora__rank": 97}, r"lora\.rank = 97 is above config\.model\.width = 96"),
        ("lora", {"lora__rank": 0}, r"lora\.rank = 0 must be from 1"),
        ("lora", {"lora__alpha": 0.0}, r"lora\.alpha = 0\.0 must be above 0"),
        ("lora", {"lora__targets": ("query",)}, r"lora\.targets .* 'query' is unknown; .*qkv"),
        ("lora", {"lora__targets": ()}, r"lora\.targets = \(\) must name some kernels, each once"),
        ("lora", {"lora__targets": ("q", "q")}, "must name some kernels, each once"),
        ("lora", {"lora__targets": ("qkv", "v")}, "not both qkv and a part of it"),
        ("lora", {"model__adapter_reduction": 4}, r"config\.mode = 'lora' with .*_reduction = 4"),
        ("norms", {"model__adapter_reduction": 4}, "only and always mode 'adapter'"),
        ("partial", {"model__adapter_reduction": 4}, "only and always mode 'adapter'"),
        ("partial", {"partial__blocks": 5}, r"blocks = 5 is above config\.model\.depth = 4"),
        ("partial", {"partial__blocks": 0}, r"partial\.blocks = 0 must be from 1"),
    ],
)
def test_what_a_mode_cannot_train_is_refused(mode, changes, message):
    with pytest.raises(ConfigError, match=message):
        resolved(mode, **changes)


def test_a_constant_schedule_has_no_warm_up_and_no_end():
    c = resolved(optimizer__schedule="constant", optimizer__lr=3e-4)
    assert (c.optimizer.min_lr, c.optimizer.warmup_epochs) == (3e-4, 0)


def test_balanced_batches_divide_over_sets_and_classes():
    assert resolved().data.weights == ()
    assert resolved(data__balanced=True).data.weights == (1, 1)
    with pytest.raises(ConfigError, match=r"batch_size = 33 does not divide over 2 groups"):
        resolved(data__balanced=True, batch_size=33)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "fully"}, r"config\.mode = 'fully' is unknown; did you mean 'full'"),
        ({"augment.erase": 1.5}, r"config\.augment\.erase = 1\.5 must be from 0 to 1"),
        ({"optimizer.warmup_epochs": 9.0}, r"leaves nothing of config\.epochs"),
        ({"data.mean": (0.5, 0.5, 0.5)}, r"give both config\.data\.mean and config\.data\.std"),
        ({"model.num_heads": 5}, r"model\.width = 96 is not divisible by model\.num_heads = 5"),
        ({"data.view": "crop"}, r"config\.data\.view = 'crop' is unknown"),
        ({"accum_steps": 0}, r"config\.accum_steps = 0 must be"),
        ({"total_steps": 0}, r"config\.total_steps = 0 must be from 1 to"),
        ({"optimizer.lr": -1.0}, r"config\.optimizer\.lr = -1\.0 must be above 0"),
        ({"optimizer.betas": (0.9, 2.0)}, r"config\.optimizer\.betas = \(0\.9, 2\.0\) must be two"),
        ({"optimizer.name": "adam"}, r"'adam' has no layer_decay and no grad_clip"),
        ({"loss.weight_anchor": 0.1}, r"is of an adapter's projection"),
        (
            {"task": "pretrain"},
            r"config\.recipe is missing, and config\.task = 'pretrain'",
        ),
    ],
)
def test_a_mistake_names_field_value_and_way_out(changes, message):
    c = transfer.get_config("vit_base_patch16", smoke=True)
    with pytest.raises(ConfigError, match=message):
        c.update_from_flattened_dict(changes)
        resolve(c)


def test_the_contrast_asks_for_a_number_of_micro_batches():
    with pytest.raises(ConfigError, match="'auto' would let the devices' memory decide"):
        resolved("adapter", accum_steps="auto", loss__weight_anchor=0.1)


def test_paths_that_no_set_reads_are_refused():
    with pytest.raises(ConfigError, match=r"data\.paths = \('DIR',\) is read by no set of .*train"):
        resolved(data__paths=("DIR",))


def test_sets_on_disk_need_a_root():
    c = transfer.get_config("vit_base_patch16")
    with pytest.raises(ConfigError, match=r"config\.data\.train names no set"):
        resolve(c)
    with c.data.unlocked():
        c.data.train = {"ff": transfer.face_set("ffpp", split="train")}
    with pytest.raises(ConfigError, match=r"data\.train\.ff has the layout 'ffpp': say where"):
        resolve(c)


def test_an_evaluation_names_its_detector_and_ways_of_choosing():
    c = evaluation.get_config()
    c.data.test.a = transfer.rendered_set("swap-a", "test", videos=2)
    with pytest.raises(ConfigError, match=r"config\.init\.params is empty: name the detector"):
        resolve(c)
    c.init.params = "run"
    assert resolve(c).select == ("validation", "last")
    c.select = ("validation", "best")
    with pytest.raises(ConfigError, match=r"'best' is unknown; known: validation, last"):
        resolve(c)


def test_balanced_micro_batches_and_the_contrast_do_not_go_together():
    changes = {"data__balanced": True, "loss__weight_anchor": 0.1, "batch_size": 8}
    resolved("adapter", **changes)
    with pytest.raises(ConfigError, match=r"accum_steps = 2: micro-batches of a balanced batch"):
        resolved("adapter", accum_steps=2, **changes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("select", (), r"config\.select is empty: name some of validation, last"),
        ("dtype", "fp16", r"config\.dtype = 'fp16' is unknown"),
    ],
)
def test_an_evaluations_mistakes_are_named(field, value, message):
    c = evaluation.get_config()
    c.init.params = "run"
    c.data.test.a = transfer.rendered_set("swap-a", "test", videos=2)
    c[field] = value
    with pytest.raises(ConfigError, match=message):
        resolve(c)


@pytest.mark.parametrize("name", ["dfd", "diff", "folder", "leave_one_out"])
def test_the_mode_norms_has_its_own_rates_in_every_recipe_of_full_fine_tuning(name):
    config = importlib.import_module(f"configs.finetune.{name}").get_config("")
    config.mode = "norms"
    config.data.paths = ("DIR",)
    optimizer = resolve(config).optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.layer_decay) == (3e-4, 0.0, 1.0)
