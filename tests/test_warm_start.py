"""Tests starting weights, through the loop and separately."""

import golden_files
import golden_numbers
import jax
import numpy as np
import pytest
from etils import epath
from golden_files import need
from random_weights import TINY, describe, encoder_params
from tiny import STATS, detection_config, run, tiny_config

from configs import transfer
from fsvfm_jax import finetune, pretrain
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.convert import pth
from fsvfm_jax.convert.folder import read_folder, timm_names, write_folder
from fsvfm_jax.convert.reference import to_params, to_state_dict
from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.convert.safetensors import save_safetensors
from fsvfm_jax.convert.warm_start import load_encoder, load_weights, starting_stats, with_options
from fsvfm_jax.errors import ConfigError, DataError, StorageError
from fsvfm_jax.learners import make_learner
from fsvfm_jax.models.fsvfm import encoder_subset, teacher_subset
from fsvfm_jax.models.vit import OPTIONS, ViT
from fsvfm_jax.tasks import TASKS

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def workdir(short_run):
    return short_run


_states = {}


def first_state(make_learner, config, *, stats):
    """Returns the first state of a config's network, which is compiled once for each network."""
    key = (make_learner, repr(config.model))
    if key not in _states:
        _states[key] = jax.jit(make_learner(config, stats=stats).init)(jax.random.key(1))
    return _states[key]


def fresh(changes: dict | None = None):
    config = tiny_config({"seed": 1} | (changes or {}))
    return config, first_state(pretrain.make_learner, config, stats=STATS)


def load(workdir, **init):
    config, state = fresh({f"init.{name}": value for name, value in init.items()})
    config.init.params = str(workdir)
    return load_weights(state, init=config.init, model=config.model).state


@pytest.mark.parametrize("branch", ["student", "teacher"])
def test_the_teacher_starts_as_the_students_copy(workdir, branch):
    stored = read_run(workdir).state
    state = load(workdir, branch=branch)
    wanted = stored.params if branch == "student" else stored.teacher_params
    ours = {name: state.params[name] for name in wanted}
    jax.tree.map(np.testing.assert_array_equal, ours, wanted)
    jax.tree.map(np.testing.assert_array_equal, state.teacher_params, teacher_subset(state.params))
    assert int(state.step) == 0


def test_the_teacher_may_be_the_checkpoints_with_a_warning(workdir, caplog):
    with caplog.at_level("INFO", "fsvfm_jax"):
        state = load(workdir, teacher="checkpoint")
    assert "never updated" in caplog.text.replace("\n", " ")
    stored = read_run(workdir).state
    jax.tree.map(np.testing.assert_array_equal, state.teacher_params, stored.teacher_params)


def test_training_starts_from_them_at_step_0(workdir, tmp_path, caplog):
    with caplog.at_level("INFO", "fsvfm_jax"):
        run(tmp_path, {"epochs": 1, "schedule_epochs": 8, "init.params": str(workdir)})
    assert f"weights from {workdir}" in caplog.text
    assert int(read_run(tmp_path).state.step) == 3


@pytest.mark.parametrize("teacher", ["student", "checkpoint"])
def test_the_references_files_are_taken_too(tmp_path, teacher, caplog):
    files = golden_files.write_run(tmp_path, need("torch"))
    model = {f"model.{name}": value for name, value in golden_numbers.MODEL.items()}
    config, state = fresh(model | {"init.params": str(files[0]), "init.teacher": teacher})
    with caplog.at_level("WARNING", "fsvfm_jax"):
        state, origin = load_weights(state, init=config.init, model=config.model)
    assert origin["license"] == "cc-by-nc-4.0" and len(origin["source_sha256"]) == 64
    student, theirs = (to_params(pth.read(file).state_dict) for file in files)
    jax.tree.map(np.testing.assert_array_equal, state.params, student)
    wanted = theirs if teacher == "checkpoint" else teacher_subset(student)
    jax.tree.map(np.testing.assert_array_equal, state.teacher_params, wanted)
    assert ("never updated" in caplog.text.replace("\n", " ")) == (teacher == "checkpoint")
    assert not any(np.any(moment) for moment in jax.tree.leaves(state.opt_state))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model.num_heads": 8}, ConfigError, "num_heads = 4"),
        ({"model.decoder_num_heads": 2}, ConfigError, "decoder_num_heads = 4"),
        ({"model.image_size": 64}, DataError, "of another network: "),
    ],
)
def test_weights_of_another_network_are_refused(workdir, changes, error, message):
    config, state = fresh(changes)
    config.init.params = str(workdir)
    with pytest.raises(error, match=message):
        load_weights(state, init=config.init, model=config.model)


@pytest.mark.parametrize(
    ("kind", "pool"),
    [
        ("student", "token"),
        ("teacher", "mean"),
        ("pth", "token"),
        pytest.param("student", "mean", marks=pytest.mark.slow),
        pytest.param("teacher", "token", marks=pytest.mark.slow),
        pytest.param("pth", "mean", marks=pytest.mark.slow),
    ],
)
def test_a_detector_starts_from_an_encoder(workdir, tmp_path, kind, pool):
    stored = read_run(workdir)
    config = transfer.get_config("vit_small_patch16", smoke=True, init={"params": str(workdir)})
    for name in ("image_size", "patch_size", "width", "depth", "num_heads"):
        config.model[name] = stored.config.model[name]
    config.model.pool = pool
    config.init.branch = "teacher" if kind == "teacher" else "student"
    theirs = stored.state.teacher_params if kind == "teacher" else stored.state.params
    if kind == "pth":
        config.init.params = str(tmp_path / "encoder.pth")
        pth.write(tmp_path / "encoder.pth", to_state_dict(encoder_subset(theirs)), key="model")
    config = resolve(config)
    drawn = first_state(finetune.make_learner, config, stats=stored.stats)
    state, _ = load_encoder(drawn, config)
    for name in ("cls_token", "pos_embed", "patch_embed", "blocks"):
        jax.tree.map(np.testing.assert_array_equal, state.params[name], theirs[name])
    jax.tree.map(np.testing.assert_array_equal, state.params["head"], drawn.params["head"])
    if pool == "token":
        jax.tree.map(np.testing.assert_array_equal, state.params["norm"], theirs["norm"])
    if kind == "pth":
        with pytest.raises(ConfigError, match="does not contain the mean and std of"):
            starting_stats(config)
    else:
        assert starting_stats(config) == stored.stats


def test_heads_that_nothing_tells_are_taken_from_the_config_with_a_warning(tmp_path, caplog):
    encoder = encoder_params({**TINY, "image_size": 32, "patch_size": 8})
    save_safetensors(tmp_path / "encoder.safetensors", timm_names(encoder), metadata={})
    config, state = fresh({"model.width": 48})
    config.init.params = str(tmp_path / "encoder.safetensors")
    with caplog.at_level("WARNING", "fsvfm_jax"):
        state, origin = load_weights(state, init=config.init, model=config.model)
    assert "num_heads must be given" in caplog.text
    assert "the config's are used, config.model.num_heads = 4. With a wrong" in caplog.text.replace(
        "\n", " "
    )
    np.testing.assert_array_equal(state.params["cls_token"], encoder["cls_token"])
    assert origin["license"] is None


DINOV3 = {
    **{"registers": 4, "layer_scale": True, "positions": "rope"},
    **{"layer_norm_epsilon": 1e-5, "key_bias": False},
}


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory):
    """Returns the folder of an exported encoder with DINOv3's options."""
    measures = {**TINY, "image_size": 32, "patch_size": 8}
    params = encoder_params(measures | DINOV3)
    params["blocks"]["attn"]["qkv"]["bias"][:, 48:96] = 0
    folder = tmp_path_factory.mktemp("dinov3") / "x"
    write_folder(folder, params, describe(measures | DINOV3))
    return folder


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_the_weights_decide_the_options_of_the_encoder(task, dinov3, tmp_path, caplog):
    changes = {"model.width": 48, "init.params": str(dinov3)}
    made = tiny_config(changes) if task == "pretrain" else detection_config("linear", changes)
    with caplog.at_level("INFO", "fsvfm_jax"):
        config = with_options(made, epath.Path(tmp_path))
    assert (
        "by its weights: config.model.registers = 4, config.model.positions = rope" in caplog.text
    )
    assert {name: config.model[name] for name in DINOV3} == DINOV3
    assert (config.model.class_token, config.model.activation) == (True, "gelu")
    state = jax.jit(make_learner(config, stats=STATS).init)(jax.random.key(0))
    state, _ = TASKS[task].load_weights(state, config)
    encoder = read_folder(dinov3).params
    if task == "finetune":  # The mean of the patches has a norm of its own.
        del encoder["norm"]
    ours = {name: state.params[name] for name in encoder}
    jax.tree.map(np.testing.assert_array_equal, ours, encoder)
    # A run in the workdir precedes the weights, which may be gone.
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(to_json(config))
    again = tiny_config(changes | {"init.params": str(tmp_path / "gone")})
    assert with_options(again, epath.Path(tmp_path)).model.positions == "rope"


@pytest.fixture(scope="module")
def with_pool(tmp_path_factory):
    """Returns the folder of an exported encoder with an attention pool."""
    measures = {**TINY, "image_size": 32, "patch_size": 8, "pool_heads": 4, "pool": "attention"}
    measures |= {"class_token": False, "prefix_positions": 0}
    folder = tmp_path_factory.mktemp("pool") / "x"
    params = encoder_params({name: x for name, x in measures.items() if name != "pool"})
    write_folder(folder, params, describe(measures))
    return folder


@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_the_attention_pool_of_the_weights_is_used_or_named(pool, with_pool, tmp_path, caplog):
    changes = {"model.width": 48, "init.params": str(with_pool), "model.pool": pool}
    config = with_options(detection_config("full", changes), epath.Path(tmp_path))
    assert config.model.pool_heads == (4 if pool == "attention" else 0)
    state = jax.jit(make_learner(config, stats=STATS).init)(jax.random.key(0))
    with caplog.at_level("INFO", "fsvfm_jax"):
        state, _ = TASKS["finetune"].load_weights(state, config)
    if pool == "mean":
        assert "attn_pool" not in state.params
        assert "random weights for fc_norm, head; not used: attn_pool, norm" in caplog.text
        return
    assert "random weights for head" in caplog.text and "not used" not in caplog.text
    expected = read_folder(with_pool).params["attn_pool"]
    jax.tree.map(np.testing.assert_array_equal, dict(state.params["attn_pool"]), expected)


@pytest.mark.parametrize(
    ("task", "pool", "heads", "message"),
    [
        ("pretrain", None, 4, "since config.model.pool is not 'attention'"),
        ("finetune", "mean", 4, "since config.model.pool is not 'attention'"),
        ("finetune", "attention", 2, "has pool_heads = 4, config.model.pool_heads = 2"),
    ],
)
def test_heads_of_a_pool_that_is_not_there_are_a_mistake(
    task, pool, heads, message, with_pool, tmp_path
):
    changes = {"model.width": 48, "model.pool_heads": heads}
    if task == "pretrain":
        config = tiny_config(changes)
    else:
        changes |= {"model.pool": pool, "init.params": str(with_pool)}
        config = detection_config("full", changes)
    with pytest.raises(ConfigError, match=message):
        with_options(config, epath.Path(tmp_path))


def test_a_pool_that_the_weights_do_not_have_is_a_mistake(dinov3, tmp_path):
    changes = {"model.width": 48, "init.params": str(dinov3), "model.pool": "attention"}
    for params, message in (
        (str(dinov3), "the encoder in '.*x' has no attention pool"),
        ("", "an encoder with random weights has no attention pool"),
        ("nowhere", "config.init.params = 'nowhere' does not exist: give another path"),
    ):
        config = detection_config("full", changes | {"init.params": params})
        with pytest.raises(ConfigError, match=message):
            with_options(config, epath.Path(tmp_path))


def test_all_sizes_that_differ_are_named_at_once(dinov3, tmp_path):
    changes = {"model.width": 32, "model.depth": 1, "init.params": str(dinov3)}
    message = "give --config.model.width=48 --config.model.depth=2"
    with pytest.raises(ConfigError, match=message):
        with_options(tiny_config(changes), epath.Path(tmp_path))


def test_without_weights_the_options_are_those_of_the_papers(tmp_path, caplog):
    with caplog.at_level("INFO", "fsvfm_jax"):
        config = with_options(tiny_config(), epath.Path(tmp_path))
    papers = {name: getattr(ViT, name) for name in OPTIONS}
    assert {name: config.model[name] for name in OPTIONS} == papers
    assert not caplog.text


@pytest.mark.parametrize(("option", "value"), [("registers", 0), ("activation", "quick_gelu")])
def test_an_option_that_the_weights_do_not_have_is_a_mistake(option, value, dinov3, tmp_path):
    changes = {"model.width": 48, "init.params": str(dinov3), f"model.{option}": value}
    with pytest.raises(ConfigError, match=option):
        with_options(tiny_config(changes), epath.Path(tmp_path))


def test_pretraining_needs_a_class_token():
    with pytest.raises(ConfigError, match="the decoders of pretraining need a class token"):
        tiny_config({"model.class_token": False, "model.prefix_positions": 0})


@pytest.mark.parametrize(("entry", "value"), [("", 1), ("model_ema", 2)])
def test_the_entry_of_a_file_is_chosen_in_the_config(tmp_path, entry, value, caplog):
    torch = need("torch")
    arrays = timm_names(encoder_params({**TINY, "image_size": 32, "patch_size": 8}))
    content = {
        name: {key: torch.full(x.shape, float(n)) for key, x in arrays.items()}
        for n, name in enumerate(("model", "model_ema"), 1)
    }
    torch.save(content, tmp_path / "x.pth")
    config, state = fresh({"model.width": 48, "init.entry": entry})
    config.init.params = str(tmp_path / "x.pth")
    state, _ = load_weights(state, init=config.init, model=config.model)
    assert np.all(state.params["cls_token"] == value)
    assert f"'{'model_ema' if entry else 'model'}' is read, not" in caplog.text


@pytest.mark.slow
def test_the_licence_of_what_a_run_started_from_stays(tmp_path):
    files = golden_files.write_run(tmp_path, need("torch"))
    model = {f"model.{name}": value for name, value in golden_numbers.MODEL.items()}
    workdir = tmp_path / "run"
    run(workdir, model | {"epochs": 1, "schedule_epochs": 8, "init.params": str(files[0])})
    assert read_run(workdir).license == "cc-by-nc-4.0"


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is damaged"), ("[]", "is damaged"), ('{"model": 3}', "is damaged"),
     ('{"model": {"registers": "x"}}', "is damaged")],
)  # fmt: skip
def test_a_damaged_config_of_the_run_is_refused(tmp_path, content, message):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(StorageError, match=message):
        with_options(tiny_config(), epath.Path(tmp_path))


def test_another_option_than_that_of_the_run_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text('{"model": {"width": 32}}')
    with_options(tiny_config({"model.activation": "gelu"}), epath.Path(tmp_path))
    with pytest.raises(ConfigError, match=r"activation = 'quick_gelu', and the run in .* 'gelu'"):
        with_options(tiny_config({"model.activation": "quick_gelu"}), epath.Path(tmp_path))
