"""Tests the detection task: the reference's numbers, the trained parts, and resuming."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import traverse_util
from golden_files import detector, load, under
from labelled_trees import write_pictures
from tiny import STATS
from tiny import detection_config as tiny_config
from tiny import run_detection as run

from configs import transfer
from fsvfm_jax import finetune, losses, optim, tuning
from fsvfm_jax.convert import reference, runs
from fsvfm_jax.convert.measures import network
from fsvfm_jax.data.labelled.faces import REAL
from fsvfm_jax.devices import compilation, sharding
from fsvfm_jax.errors import ConfigError, DataError, Preempted
from fsvfm_jax.models import build_detector
from fsvfm_jax.models.adapter import unit_columns
from fsvfm_jax.models.vit import SIZES
from fsvfm_jax.run.checkpoint import Checkpoints
from fsvfm_jax.train_state import StepValues
from fsvfm_jax.tuning import Tuning

GOLDEN = load("downstream")
IMAGES = GOLDEN["images"].transpose(0, 2, 3, 1)
LABELS = jnp.asarray(GOLDEN["labels"], jnp.int32)


def golden_params(name):
    stored = under(f"{name}/params/", GOLDEN) or detector(name)
    return reference.to_params(stored)


# Numbers of the reference


@pytest.mark.parametrize("name", ["vit_gap", "vit_cls"])
def test_features_and_logits_are_the_references(name):
    params = golden_params(name)
    output = jax.jit(network(params, num_heads=4).apply)({"params": params}, IMAGES)
    for part in ("features", "logits"):
        theirs = GOLDEN[f"{name}/{part}"]
        np.testing.assert_allclose(getattr(output, part), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["adapter_gap", "adapter_cls"])
def test_an_adapters_output_losses_and_gradients_are_the_references(name):
    params = golden_params(name)
    model = network(params, num_heads=4)
    trained, frozen = tuning.split(params, Tuning("adapter"))
    section = {"weight_anchor": 0.1, "temperature": 0.07, "anchors": "real"}

    def loss_fn(trained):
        output = model.apply({"params": {**trained, **frozen}}, IMAGES)
        # The stored loss uses 0 for real; the cross-entropy is the same for any order of classes.
        cross_entropy = losses.soft_cross_entropy(output.logits, jax.nn.one_hot(LABELS, 2))
        anchored = losses.anchored_contrast(
            output.projection, LABELS, LABELS == 0, temperature=section["temperature"]
        )
        return cross_entropy + section["weight_anchor"] * anchored, output

    (loss, output), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(trained)
    for part in ("logits", "projection"):
        theirs = GOLDEN[f"{name}/{part}"]
        np.testing.assert_allclose(getattr(output, part), theirs, rtol=0, atol=1e-5)
    assert loss == pytest.approx(float(GOLDEN[f"{name}/loss"]), abs=1e-5)
    grads = reference.to_state_dict({**params, **grads})
    theirs = under(f"{name}/grad/", GOLDEN)
    assert len(theirs) == 6
    for key, grad in theirs.items():
        assert np.linalg.norm(grads[key] - grad) <= 1e-4 * max(np.linalg.norm(grad), 1e-3), key


@pytest.mark.parametrize("name", ["adapter_gap", "adapter_cls"])
def test_the_real_anchor_loss_is_the_references(name):
    z = jnp.asarray(GOLDEN[f"{name}/projection"])
    fakes = jnp.zeros(len(z), jnp.int32)
    for case, labels, anchors in (
        ("real0", LABELS, LABELS == 0),
        ("real1", LABELS, LABELS == 1),
        ("no_real", fakes, fakes == REAL),
    ):
        found = losses.anchored_contrast(z, labels, anchors, temperature=0.07)
        theirs = float(GOLDEN[f"{name}/real_anchor_loss_{case}"])
        assert found == pytest.approx(theirs, rel=1e-5), case


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_real_anchor_loss_has_no_factor_of_the_temperature(temperature):
    z = np.asarray(GOLDEN["adapter_gap/projection"], np.float64)
    exponents = z @ z.T / temperature
    others = ~np.eye(len(z), dtype=bool)
    expected = 0.0
    for i in np.flatnonzero(LABELS == REAL):
        partners = np.flatnonzero((LABELS == REAL) & others[i])
        denominator = np.exp(exponents[i][others[i]]).sum()
        expected -= np.log(np.exp(exponents[i][partners]) / denominator).mean() / len(z)
    found = losses.anchored_contrast(
        jnp.asarray(z), LABELS, LABELS == REAL, temperature=temperature
    )
    # Our denominator has 1e-6 added.
    assert found == pytest.approx(expected, rel=1e-3)


def test_total_is_cross_entropy_and_weighted_contrast_with_real_anchors_or_all():
    z = jnp.asarray(GOLDEN["adapter_gap/projection"])
    logits, targets = jnp.asarray(GOLDEN["adapter_gap/logits"]), jax.nn.one_hot(LABELS, 2)
    found = {}
    for anchors in ("real", "all"):
        section = {"weight_anchor": 0.1, "temperature": 0.07, "anchors": anchors}
        total, metrics = finetune.detection_loss(logits, z, targets, LABELS, loss=section)
        assert total == pytest.approx(metrics["loss_ce"] + 0.1 * metrics["loss_anchor"])
        found[anchors] = float(metrics["loss_anchor"])
    assert found["real"] == pytest.approx(float(GOLDEN["adapter_gap/real_anchor_loss_real1"]))
    fakes = float(GOLDEN["adapter_gap/real_anchor_loss_real0"])
    assert found["all"] == pytest.approx(found["real"] + fakes, rel=1e-5)


# Trained parameters


@pytest.mark.parametrize("size", ["vit_base_patch16", "vit_large_patch16"])
def test_layer_wise_decay_is_as_stored_for_every_parameter(size):
    """Reads one line per parameter: its name and multipliers, for blocks from first to last."""
    model = build_detector(SIZES[size])
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    decay = {"vit_base_patch16": 0.65, "vit_large_patch16": 0.9}[size]
    factors = optim.layer_factors(shapes, decay, depth=model.depth)
    lines = [
        f"{name} {' '.join(f'{x:.8g}' for x in np.ravel(factor))}"
        for name, factor in sorted(traverse_util.flatten_dict(factors, sep="/").items())
    ]
    stored = Path(__file__).parent / "golden" / f"{size}_layer_decay_{decay}.txt"
    assert "\n".join(lines) + "\n" == stored.read_text()


def test_tokens_positions_and_vectors_are_not_decayed():
    shapes = jax.eval_shape(
        build_detector(SIZES["vit_small_patch16"]).init_params, jax.random.key(0)
    )
    mask = optim.decay_mask(shapes, not_decayed=optim.NOT_DECAYED_IN_DETECTORS)
    names = {n for n, x in traverse_util.flatten_dict(mask, sep="/").items() if not x}
    assert {"cls_token", "pos_embed", "head/bias", "blocks/norm1/scale"} < names
    assert all(name.split("/")[-1] in optim.NOT_DECAYED_IN_DETECTORS for name in names)


def one_step(config, *, devices=1, fsdp=1, accum_steps=1, steps=1):
    task = finetune.make_learner(config, stats=STATS)
    sides = {"data": devices // fsdp, "fsdp": fsdp}
    mesh = sharding.make_mesh(sides, jax.devices()[:devices])
    shardings = sharding.shardings_of(compilation.state_template(task, mesh))
    state = jax.device_put(jax.jit(task.init)(jax.random.key(0)), shardings)
    before = jax.tree.map(np.array, state)
    lowered = compilation.lower_step(task, mesh, batch_size=16, accum_steps=accum_steps)
    program = lowered.compile()
    rng = np.random.default_rng(0)
    size = config.model.image_size
    batch = {
        "image": rng.integers(256, size=(16, size, size, 3), dtype=np.uint8),
        "label": rng.integers(2, size=16, dtype=np.int32),
    }
    for _ in range(steps):
        values = StepValues(np.float32(1e-3), np.float32(0))
        state, metrics = program(state, sharding.put_batch(batch, mesh), values)
    return before, jax.device_get(state), jax.device_get(metrics)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("mode", "fas"),
    [
        ("adapter", False),
        ("linear", True),
        pytest.param("norms", False, marks=pytest.mark.slow),
        ("lora", True),
        ("partial", False),
        pytest.param("adapter", True, marks=pytest.mark.slow),
        pytest.param("linear", False, marks=pytest.mark.slow),
    ],
)
def test_a_frozen_backbone_stays_to_the_bit_and_costs_no_optimizer_state(mode, fas):
    weight = 0.1 if mode == "adapter" else 0.0
    changes = {"model.fas": fas, "loss.weight_anchor": weight, "partial.blocks": 1}
    config = tiny_config(mode, changes | {"model.drop_path": 0.3})
    before, after, _ = one_step(config, steps=3)
    trained, frozen = tuning.split(before.params, tuning.make_tuning(config))
    changed, kept = tuning.split(after.params, tuning.make_tuning(config))
    jax.tree.map(np.testing.assert_array_equal, frozen, kept)
    for name, part in trained.items():
        equal = jax.tree.map(np.array_equal, part, changed[name])
        assert not any(jax.tree.leaves(equal)), (name, equal)
    # AdamW keeps two moments of each array, of its shape, and a count; Adam likewise.
    shapes = sorted(x.shape for x in jax.tree.leaves(trained))
    kept = [x.shape for x in jax.tree.leaves(after.opt_state) if x.ndim]
    assert sorted(kept) == sorted(2 * shapes)


@pytest.mark.e2e
def test_in_full_fine_tuning_all_moves_and_the_less_the_nearer_to_the_image():
    config = tiny_config("full", {"optimizer.layer_decay": 0.1, "optimizer.weight_decay": 0.0})
    before, after, _ = one_step(config)
    move = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), before.params, after.params)
    assert move["head"]["kernel"] == pytest.approx(1e-3, rel=0.01)
    assert move["pos_embed"] == pytest.approx(1e-6, rel=0.2)
    first, last = np.abs(
        before.params["blocks"]["mlp"]["fc1"]["kernel"]
        - after.params["blocks"]["mlp"]["fc1"]["kernel"]
    ).max(axis=(1, 2))
    assert first == pytest.approx(1e-5, rel=0.05) and last == pytest.approx(1e-4, rel=0.05)


def test_adam_with_coupled_l2_decays_all_parameters_in_the_gradient():
    params = {"head": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), -2.0)}}
    tx = optim.make_coupled_adam(betas=(0.9, 0.999), weight_decay=0.1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["head"]["kernel"], -1, rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["bias"], 1, rtol=1e-5)


@pytest.mark.e2e
def test_the_spoof_classifier_moves_as_one_of_unit_length():
    """Checks directions only: an update of Adam has one size whatever the length of the weights."""
    config = tiny_config("full", {"model.fas": True, "optimizer.layer_decay": 1.0})
    before, after, _ = one_step(config)
    unit = unit_columns(jnp.asarray(before.params["classifier"]["kernel"]))
    assert np.abs(before.params["classifier"]["kernel"]).max() < 0.1 < np.abs(unit).max()
    move = np.abs(after.params["classifier"]["kernel"] - unit)
    # Weight decay removes a few per cent of Adam's update.
    assert 0 < move.max() < 1.1e-3


@pytest.mark.e2e
def test_an_adapters_step_has_no_backward_pass_through_the_backbone():
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1}, jax.devices()[:1])

    def flops(mode):
        task = finetune.make_learner(tiny_config(mode, {"model.width": 64}), stats=STATS)
        lowered = compilation.lower_step(task, mesh, batch_size=16, accum_steps=1)
        return lowered.compile().cost_analysis()["flops"]

    assert flops("adapter") < 0.45 * flops("full")


@pytest.mark.slow  # test_train.py has it for pretraining
@pytest.mark.parametrize(
    ("mode", "fsdp", "pool"),
    [
        *(("full", 4, "mean"), ("full", 4, "attention"), ("adapter", 1, "mean")),
        *(("lora", 4, "mean"), ("partial", 4, "mean")),
    ],
)
def test_one_device_or_eight_the_same_step(mode, fsdp, pool):
    weight = 0.1 if mode == "adapter" else 0.0
    changes = {"loss.weight_anchor": weight, "model.drop_path": 0.3, "partial.blocks": 1}
    changes |= {"model.pool": pool, "model.pool_heads": 2 if pool == "attention" else 0}
    config = tiny_config(mode, changes)
    _, one, metrics = one_step(config)
    _, eight, of_eight = one_step(config, devices=8, fsdp=fsdp)
    for name in metrics:
        assert metrics[name] == pytest.approx(of_eight[name], rel=1e-5, abs=1e-6), name
    differences = jax.tree.map(lambda x, y: np.abs(x - y).max(), one.params, eight.params)
    assert max(jax.tree.leaves(differences)) < 1e-5


@pytest.mark.slow  # test_optim.py has the same in a smaller way
def test_micro_batches_give_the_gradient_of_the_batch():
    config = tiny_config("full", {"model.drop_path": 0.0})
    _, _, metrics = one_step(config)
    _, _, of_four = one_step(config, accum_steps=4)
    assert metrics["loss"] == pytest.approx(of_four["loss"], rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(of_four["grad_norm"], rel=1e-4)


@pytest.mark.e2e
def test_a_step_that_is_not_finite_changes_nothing_but_its_number():
    config = tiny_config("adapter", {"loss.weight_anchor": 0.1})
    task = finetune.make_learner(config, stats=STATS)
    state = jax.jit(task.init)(jax.random.key(0))
    batch = {"image": np.zeros((16, 32, 32, 3), np.uint8), "label": np.zeros(16, np.int32)}
    values = StepValues(np.float32(1e-3), np.float32(0), np.float32(np.nan))
    step = jax.jit(lambda *given: task.train_step(*given, accum_steps=1))
    after, metrics = step(state, batch, values)
    assert metrics["skipped"] == 1 and after.step == 1
    jax.tree.map(np.testing.assert_array_equal, state._replace(step=after.step), after)


# Complete runs


def lines(workdir, name="metrics.jsonl"):
    timed = ("images_per_second", "data_wait")
    read = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in read]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    run(workdir, tiny_config())
    return workdir


@pytest.mark.e2e
def test_a_run_validates_every_epoch_and_keeps_the_best_checkpoint(straight):
    assert [line["step"] for line in lines(straight)] == [1, 2, 3, 4, 5, 6]
    validated = lines(straight, "validation.jsonl")
    assert [line["step"] for line in validated] == [3, 6]
    assert validated[0].keys() == {
        "step",
        "val_loss",
        "val_frame_auc",
        "val_video_auc",
        "val_unread",
    }
    best = min(validated, key=lambda line: line["val_loss"])["step"]
    kept = {int(path.name) for path in (straight / "checkpoints").iterdir()}
    assert {best, 6} == kept
    assert list((straight / "images").glob("batch_*.png"))


@pytest.mark.e2e
def test_a_killed_run_goes_on_to_the_same_numbers(straight, tmp_path, ask):
    config = tiny_config()
    ask("step:5:raise")
    with pytest.raises(RuntimeError, match="FSVFM_FAULT asked for"):
        run(tmp_path, config)
    ask("")
    run(tmp_path, config)
    assert lines(tmp_path) == lines(straight)
    assert lines(tmp_path, "validation.jsonl") == lines(straight, "validation.jsonl")
    states = []
    for workdir in (straight, tmp_path):
        task = finetune.make_learner(config, stats=STATS)
        template = compilation.state_template(task, sharding.make_mesh(config.mesh))
        with Checkpoints(epath.Path(workdir) / "checkpoints", keep=3) as checkpoints:
            states.append(jax.device_get(checkpoints.restore_newest_valid(template).state))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.e2e
def test_sigterm_ends_a_validation_but_not_the_last_one(straight, tmp_path, ask):
    ask("validation:3:term")
    with pytest.raises(Preempted, match="stopped at step 3 and saved"):
        run(tmp_path, tiny_config())
    assert not (tmp_path / "validation.jsonl").exists()
    ask("validation:6:term")
    run(tmp_path, tiny_config())
    assert lines(tmp_path, "validation.jsonl") == lines(straight, "validation.jsonl")[1:]


@pytest.mark.e2e
def test_changed_augmentation_or_sets_are_refused_on_resume(straight):
    with pytest.raises(ConfigError, match=r"augment\.mixup was 0\.8 and is 0\.0"):
        run(straight, tiny_config(changes={"augment.mixup": 0.0, "epochs": 4}))
    config = tiny_config(changes={"epochs": 4})
    config.data.train.a.videos = 10
    with pytest.raises(ConfigError, match=r"data\.train\.a was .*12"):
        run(straight, config)


@pytest.mark.e2e
def test_check_reads_compiles_and_writes_nothing(tmp_path):
    run(tmp_path / "run", tiny_config("adapter"), check_only=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.e2e
def test_mean_and_deviation_come_with_the_weights_and_are_stored(straight, tmp_path):
    config = tiny_config(changes={"data.mean": None, "data.std": None, "epochs": 1})
    config.optimizer.warmup_epochs = 0.0
    config.init.params = str(straight)
    run(tmp_path, config)
    stored = json.loads((tmp_path / "data_stats.json").read_text())
    assert stored.pop("dataset")
    assert stored == {"mean": list(STATS.mean), "std": list(STATS.std)}
    assert runs.read_run(tmp_path).stats == STATS
    origin = json.loads((tmp_path / "origin.json").read_text())
    assert origin["source"] == straight.name


@pytest.mark.e2e
def test_sets_told_by_tuples_go_on_and_validation_sets_count(straight, tmp_path):
    """Compares fingerprints as JSON returns them, which has no tuples."""
    for split in ("train", "val"):
        write_pictures(tmp_path / split, "real/a.png fake/a.png real/b.png fake/b.png")
    options = {"exclude": ("c",), "labels": (("real", "real"),)}

    def config(**changes):
        config = tiny_config(changes={"epochs": 8, "optimizer.warmup_epochs": 0.0} | changes)
        config.data.paths = (str(tmp_path),)
        with config.data.unlocked():
            for kind in ("train", "val"):
                config.data[kind] = {"a": transfer.face_set("folder", split=kind, **options)}
        return config

    for split in ("train", "val"):
        write_pictures(tmp_path / split, "real/c/x.png")
    run(tmp_path / "run", config())
    with pytest.raises(ConfigError, match=r"data\.view was resize and is resize256_crop224"):
        run(tmp_path / "run", config(**{"data.view": "resize256_crop224", "epochs": 16}))
    run(tmp_path / "run", config(epochs=12))
    assert lines(tmp_path / "run")[-1]["step"] == 3


@pytest.mark.e2e
def test_validation_needs_both_classes_and_is_checked_before_the_first_step(tmp_path):
    config = tiny_config()
    write_pictures(tmp_path, "val/a.png val/b.png")
    (tmp_path / "val.txt").write_text("val/a.png real\nval/b.png real\n")
    config.data.paths = (str(tmp_path),)
    with config.data.unlocked():
        config.data.val = {"b": transfer.face_set("list", split="val")}
    for check_only in (True, False):
        with pytest.raises(DataError, match=r"^b \(config\.data\.val\): no fake face"):
            run(tmp_path / "run", config, check_only=check_only)
