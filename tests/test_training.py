"""Tests that a run of the reference continues here, and that one of ours continues there."""

import golden_files
import golden_numbers
import jax
import numpy as np
import optax
import pytest
from golden_files import need, run

from fsvfm_jax import pretrain
from fsvfm_jax.convert import pth, training
from fsvfm_jax.convert.measures import network
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import DataError
from fsvfm_jax.models.fsvfm import split_positions
from fsvfm_jax.optim import make_optimizer
from fsvfm_jax.train_state import StepValues

torch = need("torch")

SETTINGS = {"learning_rate": 0.002, "betas": (0.9, 0.95), "weight_decay": 0.05}


def optimizer():
    return make_optimizer(
        betas=tuple(run()["betas"]),
        weight_decay=float(run()["weight_decay"]),
        grad_clip=float(run()["clip"]),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    paths = golden_files.write_run(tmp_path_factory.mktemp("run"), torch)
    return tuple(map(pth.read, paths))


@pytest.fixture(scope="module")
def state(files):
    return training.to_train_state(*files, tx=optimizer())


def test_the_state_is_whole_and_placed_by_name(state):
    assert int(state.step) == 2 == int(optax.tree.get(state.opt_state, "count"))
    trained, _ = split_positions(state.params)
    fresh = optimizer().init(trained)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(fresh)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), state.opt_state, fresh)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32"}


@pytest.mark.e2e
def test_training_goes_on_as_in_the_reference(state):
    model = network(state.params, **golden_files.RUN_HEADS)

    @jax.jit
    def step(state, images, bits, values):
        learner = pretrain.Pretraining(
            model=model,
            tx=optimizer(),
            sample=golden_numbers.masks_of_bits,
            stats=Stats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            loss=golden_numbers.LOSS,
            seed=0,
        )
        return learner.train_step(state, {"image": images, "classes": bits}, values, accum_steps=1)

    golden, history = run(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "normalize_images", lambda images, _: images)
        for i in range(2):
            images = golden["images"][i].transpose(0, 2, 3, 1)
            bits = golden["mask"][i] + 2 * golden["region_mask"][i]
            values = StepValues(np.float32(golden["lr"][i]), np.float32(1 - golden["momentum"][i]))
            state, metrics = step(state, images, bits, values)
            history.append(metrics)
    for ours, theirs in (
        ("loss", "loss"),
        ("loss_rec", "loss_rec_all"),
        ("loss_region", "loss_rec_sfr"),
        ("loss_sim", "loss_cl"),
        ("grad_norm", "grad_norm"),
    ):
        mine = [float(metrics[ours]) for metrics in history]
        np.testing.assert_allclose(mine, golden[theirs], rtol=0, atol=1e-5, err_msg=ours)
    assert int(state.step) == 4


@pytest.fixture(scope="module")
def back(state):
    return training.from_train_state(state, **SETTINGS)


def test_the_way_back_changes_no_digit(files, back):
    for ours, theirs in ((back.student, files[0]), (back.teacher, files[1])):
        assert list(ours) == list(theirs.state_dict)
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs.state_dict[name], err_msg=name)
    theirs = golden_files.run_optimizer()
    assert back.optimizer["state"].keys() == theirs["state"].keys()
    for number, entry in theirs["state"].items():
        assert back.optimizer["state"][number].keys() == entry.keys()
        for name, array in entry.items():
            np.testing.assert_array_equal(back.optimizer["state"][number][name], array)
    for ours, group in zip(back.optimizer["param_groups"], theirs["param_groups"], strict=True):
        assert ours["params"] == group["params"]
        assert ours["weight_decay"] == group["weight_decay"]
        assert (ours["lr"], ours["eps"], list(ours["betas"])) == (0.002, 1e-8, group["betas"])


def test_pytorch_takes_network_and_optimizer_and_can_step(tmp_path, back):
    path = tmp_path / "checkpoint-400.pth"
    pth.write(path, back.student, extra={"optimizer": back.optimizer, "epoch": 400})
    content = torch.load(path, weights_only=True)
    parameters = {
        name: torch.nn.Parameter(torch.zeros_like(tensor))
        for name, tensor in content["model"].items()
        if not name.endswith("pos_embed")
    }
    groups = [
        {"params": [p for p in parameters.values() if (p.ndim > 1) == decayed]}
        for decayed in (False, True)
    ]
    adamw = torch.optim.AdamW(groups, lr=1.0)
    adamw.load_state_dict(content["optimizer"])
    for name, parameter in parameters.items():
        moment = adamw.state[parameter]["exp_avg"]
        assert moment.shape == parameter.shape, name
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.0, 0.05]
    assert adamw.state[parameters["norm.bias"]]["step"] == 3


def with_optimizer(file, **changes):
    return file._replace(extra={"optimizer": golden_files.run_optimizer() | changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t: (t, t), "student's holds a network of kind 'teacher'"),
        (lambda s, t: (s, s), "teacher's holds a network of kind 'student'"),
        (lambda s, t: (s._replace(extra={}), t), "no optimizer state"),
        (lambda s, t: (with_optimizer(s, state={}), t), "no optimizer state"),
        (lambda s, t: (with_optimizer(s, param_groups=[]), t), "groups have \\[\\] parameters"),
        (lambda s, t: (s, t._replace(state_dict=dict(list(t.state_dict.items())[:9]))), "lacks"),
    ],
)
def test_files_that_make_no_state_are_refused(files, change, message):
    with pytest.raises(DataError, match=message):
        training.to_train_state(*change(*files), tx=optimizer())


def test_moments_of_other_shapes_are_refused_by_name(files):
    student, teacher = files
    entries = golden_files.run_optimizer()["state"]
    shapes = {number: entry["exp_avg"].shape for number, entry in entries.items()}
    other = next(number for number in shapes if shapes[number] != shapes[0])
    swapped = entries | {0: entries[other], other: entries[0]}
    with pytest.raises(DataError, match=r"shapes differ at \['"):
        training.to_train_state(with_optimizer(student, state=swapped), teacher, tx=optimizer())


def test_a_table_missing_is_named(files):
    student, teacher = files
    state_dict = {k: v for k, v in student.state_dict.items() if k != "decoder_pos_embed"}
    with pytest.raises(DataError, match="decoder_pos_embed"):
        training.to_train_state(student._replace(state_dict=state_dict), teacher, tx=optimizer())


@pytest.mark.parametrize(
    ("extra", "updates"),
    [
        ({}, None),
        ({"optimizer": {"state": {}}}, None),
        ({"optimizer": {"state": {3: {"step": 7.0}}}}, 7),
    ],
)
def test_the_number_of_updates(extra, updates):
    assert training.number_of_updates(pth.Pth({}, extra, "")) == updates


@pytest.mark.parametrize("entry", [{"step": "x"}, {"step": float("inf")}, {}, 5])
def test_an_optimizer_that_is_none_is_refused(entry):
    file = pth.Pth({}, {"optimizer": {"state": {0: entry}}}, "")
    with pytest.raises(DataError, match="makes no sense"):
        training.number_of_updates(file)
