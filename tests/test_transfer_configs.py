"""Tests that the configs of fine-tuning and evaluation match the papers, and that each runs."""

import hashlib
import importlib
import inspect
import json
import math
import re
from pathlib import Path

import jax
import pytest
from labelled_trees import write_json, write_pictures

from configs import sets, transfer
from fsvfm_jax import finetune, optim
from fsvfm_jax.config.resolve import resolve, to_json
from fsvfm_jax.data.labelled.detection_sets import labels_of, open_sets
from fsvfm_jax.data.labelled.faces import LABELS
from fsvfm_jax.data.labelled.layouts import read_ffpp
from fsvfm_jax.data.stats import Stats
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.models.vit import SIZES
from fsvfm_jax.report import published

CONFIGS = Path(__file__).parent.parent / "configs"
FILES = [
    str(path.relative_to(CONFIGS).with_suffix(""))
    for folder in ("finetune", "adapter", "fas", "eval")
    for path in sorted((CONFIGS / folder).glob("*.py"))
]
# These have no row in the papers' tables.
FOLDER = "finetune/folder"
OWN = (FOLDER, "finetune/leave_one_out")


def module(name):
    """Imports the module of a file, or of a recipe: a file, a colon and a size."""
    return importlib.import_module(f"configs.{name.partition(':')[0].replace('/', '.')}")


def doc_rows(name):
    """Returns the rows in the table of a docstring, by the size after the row's colon."""
    *_, rows = re.split(r"^    .*hardware.*$", module(name).__doc__, flags=re.MULTILINE)
    rows = re.split(r"^    :", rows.partition("\n\n")[0], flags=re.MULTILINE)[1:]
    return {row.split()[0]: row for row in rows}


TRAINED = [
    f"{file}:{size}"
    for file in FILES
    if not file.startswith("eval/") and file not in OWN
    for size in doc_rows(file)
]
NAMES = [*TRAINED, *OWN, *(file for file in FILES if file.startswith("eval/"))]
SPOOFS = [name for name in NAMES if name.startswith("fas/")]
TARGETS = {"mcio": ("M", "C", "I", "O"), "wcs": ("wmca", "cefa", "surf")}

# Papers' tables: blr, layer decay, weight decay.
FULL = {
    "finetune/dfd:fsfm_b": (2.5e-4, 0.65, 0.05),
    "finetune/diff:fsfm_b": (1e-4, 0.90, 0.03),
    "finetune/dfd:s": (2e-4, 0.65, 0.03),
    "finetune/dfd:b": (2e-4, 0.60, 0.03),
    "finetune/dfd:l": (5e-5, 0.90, 0.01),
    "finetune/diff:s": (5e-5, 0.95, 0.05),
    "finetune/diff:b": (5e-5, 0.90, 0.03),
    "finetune/diff:l": (5e-5, 0.90, 0.05),
}
# Batch, blr, epochs, lambda.
ADAPTER = {
    "adapter/dfd:s": (512, 1e-3, 60, 0.01),
    "adapter/dfd:b": (256, 5e-3, 50, 0.01),
    "adapter/dfd:l": (256, 1e-2, 50, 0.1),
    "adapter/diff:s": (256, 1e-2, 60, 0.01),
    "adapter/diff:b": (256, 1e-2, 50, 0.05),
    "adapter/diff:l": (1024, 5e-3, 50, 0.1),
}
# Learning rate, weight decay, lambda.
SPOOF = {
    "fas/mcio:fsfm_b": (1e-4, 1e-6, 0.0),
    "fas/mcio:s": (2.5e-5, 1e-6, 0.0),
    "fas/mcio:b": (2.5e-5, 1e-6, 0.0),
    "fas/mcio:l": (1e-5, 1e-5, 0.0),
    "fas/wcs:s": (2.5e-5, 1e-6, 0.0),
    "fas/wcs:b": (2.5e-5, 1e-6, 0.0),
    "fas/wcs:l": (1e-5, 1e-5, 0.0),
    "fas/mcio_adapter:s": (5e-2, 1e-6, 0.1),
    "fas/mcio_adapter:b": (5e-2, 5e-5, 0.1),
    "fas/mcio_adapter:l": (1e-3, 1e-7, 0.2),
    "fas/wcs_adapter:s": (5e-2, 1e-6, 0.1),
    "fas/wcs_adapter:b": (5e-2, 5e-5, 0.1),
    "fas/wcs_adapter:l": (1e-3, 1e-7, 0.2),
}
SIZE = {"s": "vit_small_patch16", "b": "vit_base_patch16", "l": "vit_large_patch16"}


def resolved(name, arg=""):
    """Resolves a config with roots, and with a model to evaluate; smoke configs need no roots."""
    size = name.partition(":")[2]
    config = module(name).get_config(",".join(word for word in (size, arg) if word))
    if "smoke" not in arg:
        config.data.paths = ("DIR",)
    if config.task == "evaluate":
        config.init.params = "RUN"
    return resolve(config)


def targets(name):
    return TARGETS[re.split("[_:]", name.split("/")[1])[0]]


def test_each_is_in_one_of_the_tables_here():
    assert sorted([*FULL, *ADAPTER, *SPOOF]) == sorted(TRAINED)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_short_names_its_command_and_resolves_to_json(name):
    file = name.partition(":")[0]
    text, doc = (CONFIGS / f"{file}.py").read_text(), module(name).__doc__
    assert len(text.splitlines()) < 45
    command = next(line for line in doc.splitlines() if "python -m fsvfm_jax.main" in line)
    assert f"--config=configs/{file}.py" in command.replace(".py:", ".py ").split()
    assert "`:smoke`" in doc or "`smoke`" in doc
    config = resolved(name)
    assert config.is_locked
    json.loads(to_json(config))


WITHOUT_FIGURES = (
    *OWN,
    *(f"eval/{name}" for name in ("df40", "folder", "gend", "leave_one_out", "rendered")),
)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_FIGURES])
def test_each_says_hardware_and_the_published_figures_with_their_selection(name):
    doc = module(name).__doc__
    assert any(f'"{word}"' in doc for word in ("validation", "test-oracle", "given"))
    folder, _, rest = name.partition("/")
    if folder == "eval":
        assert "  one GPU  " in doc
        return
    row = doc_rows(name)[rest.partition(":")[2]]
    assert "  one GPU with " in row
    task, size = re.split("[_:]", rest)[0], rest[-1].upper()
    method = "FSFM" if "fsfm" in rest else "FS-Adapter" if "adapter" in name else "FS-VFM"
    metric = {"dfd": "video_auc", "diff": "frame_auc"}.get(task, "hter@test")
    key = (f"{method} ViT-{size}", metric)
    figures = [one.percent for one in published.PUBLISHED if (one.model, one.metric) == key]
    if name == "finetune/diff:fsfm_b":
        assert not figures and row.strip().endswith("none known here")
    else:
        assert figures and f"  {method} ViT-{size}  " in row
    for percent in figures:
        assert f" {percent:g}" in row, percent


@pytest.mark.parametrize("name", NAMES)
def test_sets_lie_under_the_roots_and_have_names_that_flags_can_hold(name):
    data = resolved(name).data
    for kind in ("train", "val", "test"):
        for key, one in data.get(kind, {}).items():
            assert not Path(one.path).is_absolute() and ".." not in one.path
            assert key.isidentifier() or one.layout == "rendered"


@pytest.mark.parametrize("name", [*TRAINED, *OWN])
def test_smoke_builds_a_tiny_step_on_rendered_faces_that_takes_few_steps(name):
    plain, config = resolved(name), resolved(name, "smoke")
    faces = sum(one.videos * one.frames for one in config.data.train.values())
    for one in (*config.data.train.values(), *config.data.val.values()):
        assert one.layout == "rendered"
    schedule = optim.make_schedule(config, faces)
    assert 60 <= schedule.total_steps <= 150
    # The learning rate is high from the first quarter of the run on.
    assert schedule.learning_rate(schedule.total_steps // 4) >= 4e-4
    # Everything else is the same as in the full run.
    for section in ("mode", "loss", "augment", "model.fas", "model.pool", "optimizer.name"):
        values = [one.to_dict() for one in (plain, config)]
        for part in section.split("."):
            values = [value[part] for value in values]
        assert values[0] == values[1], section
    task = finetune.make_learner(config, stats=Stats((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    shapes = jax.eval_shape(task.init, jax.random.key(0)).params
    assert ("adapter" in shapes, "classifier" in shapes) == ("adapter" in name, name in SPOOFS)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) < 1e6


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("eval/")])
def test_smoke_evaluates_few_rendered_faces(name):
    data = resolved(name, "smoke").data
    for one in (*data.test.values(), *data.val.values()):
        assert one.layout == "rendered" and one.videos <= 16
    assert data.num_workers == 0


def common_of_detection(config):
    """Checks the values that DfD and DiFF share, with an adapter and without."""
    assert config.task == "finetune" and config.total_steps is None
    assert (config.model.pool, config.model.drop_path, config.model.fas) == ("mean", 0.1, False)
    assert config.loss.smoothing == 0.1
    optimizer = config.optimizer
    assert (optimizer.name, tuple(optimizer.betas)) == ("adamw", (0.9, 0.999))
    assert (optimizer.schedule, optimizer.warmup_epochs, optimizer.min_lr) == ("cosine", 5, 1e-6)
    assert (optimizer.lr, optimizer.grad_clip) == (None, 0)
    assert config.augment.to_dict() == {
        "crop": 0.08,
        "flip": True,
        "rand_magnitude": 9,
        "saturation": 0.0,
        "erase": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
    }
    assert (config.checkpoint.every, config.checkpoint.keep_best) == (0, 1)
    assert not config.data.balanced
    # The authors' code validates with this view, but their tables are scored with "resize".
    assert config.data.view == "resize256_crop224"


@pytest.mark.parametrize("name", FULL)
def test_full_fine_tuning_has_the_papers_numbers(name):
    config = resolved(name)
    common_of_detection(config)
    optimizer = config.optimizer
    assert (optimizer.blr, optimizer.layer_decay, optimizer.weight_decay) == FULL[name]
    assert (config.mode, config.batch_size, config.epochs) == ("full", 64, 10)
    assert config.loss.weight_anchor == 0


@pytest.mark.parametrize("name", ADAPTER)
def test_the_adapter_has_the_papers_numbers(name):
    config = resolved(name)
    common_of_detection(config)
    loss, optimizer = config.loss, config.optimizer
    found = (config.batch_size, optimizer.blr, config.epochs, loss.weight_anchor)
    assert found == ADAPTER[name]
    assert (config.mode, optimizer.weight_decay, config.model.adapter_reduction) == (
        "adapter",
        0,
        4,
    )
    assert (loss.temperature, loss.anchors) == (0.07, "real")


@pytest.mark.parametrize("name", SPOOF)
def test_anti_spoofing_has_the_papers_numbers(name):
    config = resolved(name)
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.weight_decay, config.loss.weight_anchor) == SPOOF[name]
    assert (optimizer.name, optimizer.schedule, optimizer.min_lr) == (
        "adam",
        "constant",
        optimizer.lr,
    )
    assert config.mode == ("adapter" if "adapter" in name else "full")
    assert (config.model.fas, config.model.drop_path, config.loss.smoothing) == (True, 0, 0)
    assert (config.total_steps, config.data.balanced) == (4000, True)
    faces = 24 if "adapter" in name else 12
    assert config.batch_size == faces * 2 * (len(targets(name)) - 1)
    assert f"4,000 steps of {config.batch_size} faces" in module(name).__doc__
    # Every checkpoint is kept for "test-oracle".
    assert (config.checkpoint.every, config.checkpoint.keep_every) == (200, 200)
    augment = config.augment
    assert augment.flip and augment.saturation == 0.2 and augment.crop == 1
    # Training and validation use bicubic resizing.
    assert (config.model.image_size, config.data.view) == (224, "resize")
    assert not any(augment[key] for key in ("rand_magnitude", "erase", "mixup", "cutmix"))


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("eval/")])
def test_each_file_takes_the_sizes_of_its_table_and_by_default_the_one_marked_there(file):
    rows, get_config = doc_rows(file), module(file).get_config
    with pytest.raises(ConfigError, match=f"no argument 'x'; it takes {', '.join(rows)}, "):
        get_config("x")
    (default,) = [size for size, row in rows.items() if row.startswith(f"{size} (default)")]
    assert get_config().to_dict() == get_config(default).to_dict()
    assert get_config("l,smoke").to_dict() == get_config("smoke,l").to_dict()


def test_resolved_recipes_are_those_on_file():
    """Compares with digests from when each size had its own file; `digests` makes them anew."""
    stored = json.loads((Path(__file__).parent / "golden" / "recipes.json").read_text())
    assert digests() == stored


def digests():
    """Returns for each recipe the digests of its resolved config, smoke run and targets."""
    found = {}
    for name in TRAINED:
        domains = targets(name) if name in SPOOFS else ()
        args = ["", "smoke", *domains, *(f"{one},celeb" for one in domains)]
        texts = [to_json(resolved(name, arg)) for arg in args]
        found[name] = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    return found


@pytest.mark.parametrize("name", TRAINED)
def test_each_has_the_size_that_its_argument_names(name):
    model = resolved(name).model
    assert SIZES[SIZE[name[-1]]].items() <= model.to_dict().items()
    assert model.image_size == 224


@pytest.mark.parametrize("name", [*FULL, *ADAPTER])
def test_deepfakes_are_learnt_from_all_methods_and_diffusion_from_one(name):
    data = resolved(name).data
    for split in ("train", "val"):
        (one,) = data[split].values()
        default = inspect.signature(read_ffpp).parameters["compression"].default
        assert (one.layout, one.split, one.get("compression", default)) == ("ffpp", split, "c23")
        methods = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
        assert tuple(one.methods) == (methods if "dfd" in name else methods[:1])
        # There are as many real faces as fake ones, of 4 methods or of one.
        assert (one.frames, one.real_frames) == (32, 32 * len(one.methods))


@pytest.mark.parametrize("name", SPOOFS)
def test_no_training_sees_its_target_nor_does_a_threshold_hang_on_it(name):
    for target in targets(name):
        evaluated = resolved("eval/fas", target)
        (tested,) = evaluated.data.test.values()
        assert (tested.split, tested.frames) == ("test", 0)
        with_celeb = resolved(name, f"{target},celeb").data.train
        trained = resolved(name, target).data
        assert set(with_celeb) - set(trained.train) == {"CelebASpoof"}
        others = {one.subset for one in trained.train.values()}
        assert tested.subset not in {one.subset for one in with_celeb.values()}
        assert len(others) == len(targets(name)) - 1
        # The source sets, and no others, choose checkpoint and threshold.
        assert {one.subset for one in trained.val.values()} == others
        assert trained.val.to_dict() == evaluated.data.val.to_dict()
        for one in trained.train.values():
            assert (one.split, one.frames, one.path) == ("", 1, tested.path)
        for one in trained.val.values():
            assert (one.split, one.frames) == ("test", 0)


def test_every_domain_is_once_the_target_and_the_first_by_default():
    for protocol, domains in TARGETS.items():
        tested = [dict(resolved("eval/fas", one).data.test) for one in domains]
        assert len({key for of_one in tested for key in of_one}) == len(domains)
        name = f"fas/{protocol}:b"
        assert resolved(name).data.to_dict() == resolved(name, domains[0]).data.to_dict()


def test_celeb_a_spoof_is_a_domain_of_the_batch():
    config = resolved("fas/mcio:b", "C,celeb")
    assert config.batch_size == 12 * 2 * 4 and len(config.data.weights) == 8


def test_smoke_leaves_a_domain_out_too():
    trained, evaluated = resolved("fas/mcio:b", "smoke").data, resolved("eval/fas", "smoke").data
    tested = {one.name for one in evaluated.test.values()}
    for kind in (trained.train, trained.val, evaluated.val):
        assert len(kind) == 3 and tested.isdisjoint(one.name for one in kind.values())


def test_anti_spoofing_prints_all_three_selections_and_the_release_the_published_figure():
    config = resolved("eval/fas")
    assert config.report == "spoof"
    assert config.select == ("validation", "last", "test-oracle")
    config = resolved("eval/released_vit_l")
    assert (config.select, config.init.labels) == (("given",), ("fake", "real"))
    assert (config.init.num_heads, config.data.view) == (16, "resize")
    for name in ("CDFv2", "DFD", "DFDC", "DFDCP"):
        assert published.find(config.compare, name, "video_auc") and name in config.data.test


def test_names_choose_among_the_test_sets():
    assert set(resolved("eval/dfd").data.test) == set(sets.DEEPFAKES)
    assert set(resolved("eval/dfd", "DFDC,CDFv2,list").data.test) == {"CDFv2", "DFDC"}
    assert set(resolved("eval/released_vit_l", "CDFv2").data.test) == {"CDFv2"}
    assert resolved("eval/dfd", "DFDC,list").data.test.DFDC.layout == "list"
    for one in resolved("eval/dfd").data.test.values():
        assert one.frames == 32


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        ("finetune/dfd", "smok", "no argument 'smok'; it takes s, b, l, fsfm_b, smoke$"),
        ("finetune/dfd", "h", "no argument 'h'; it takes s, b, l, fsfm_b, smoke$"),
        ("finetune/dfd", "b,l", "a run has one size, not b and l$"),
        ("adapter/diff", "fsfm_b", "no argument 'fsfm_b'; it takes s, b, l, smoke$"),
        ("fas/mcio", "b,wmca", "'wmca'; it takes s, b, l, fsfm_b, M, C, I, O, celeb, smoke$"),
        ("fas/mcio", "M,C", "one target domain, not M and C"),
        ("eval/fas", "M,wmca", "one target domain, not M and wmca"),
        ("eval/dfd", "DFDC,", "no argument ''; it takes CDFv2"),
        ("eval/diff", "T2V", "no argument 'T2V'; it takes smoke$"),
        ("eval/released_vit_l", "CDFv1", "no argument 'CDFv1'"),
        ("eval/rendered", "smok", "no argument 'smok'; it takes smoke$"),
        (FOLDER, "h", "no argument 'h'; it takes tiny, s, b, l, fsfm_b, smoke$"),
        (FOLDER, "b,l", "a run has one size, not b and l$"),
        ("eval/folder", "tiny", "no argument 'tiny'; it takes smoke$"),
    ],
)
def test_an_unknown_argument_is_refused(name, arg, message):
    with pytest.raises(ConfigError, match=message):
        module(name).get_config(arg)


def test_a_change_of_a_field_that_is_not_there_is_refused():
    with pytest.raises(KeyError, match="blrr"):
        transfer.get_config("vit_small_patch16", optimizer={"blrr": 1e-3})


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_ones_own_folder_is_trained_on_with_the_papers_values(size):
    config, papers = resolved(FOLDER, size), resolved(f"finetune/dfd:{size}")
    assert config.model.to_dict() == papers.model.to_dict()
    assert config.optimizer.to_dict() == papers.optimizer.to_dict()
    assert config.augment.to_dict() == papers.augment.to_dict()
    # Validation and tests use the same view.
    assert config.data.view == resolved("eval/folder").data.view == "resize"
    assert resolved(FOLDER).to_dict() == resolved(FOLDER, "b").to_dict()


def test_the_tiny_network_is_that_of_smoke_on_the_folder_itself():
    tiny, smoke = resolved(FOLDER, "tiny"), resolved(FOLDER, "smoke")
    for section in ("model", "optimizer", "augment", "loss"):
        assert tiny[section].to_dict() == smoke[section].to_dict()
    assert (tiny.epochs, tiny.batch_size) == (smoke.epochs, smoke.batch_size)
    assert {one.layout for one in tiny.data.train.values()} == {"folder"}


# Sets on disk


def counts(name, kind, root, arg=""):
    """Returns the numbers of fake and real faces of each set."""
    opened = open_sets(resolved(name, arg).data[kind], [str(root)], image_size=8)
    return {
        key: tuple(int((labels_of(one) == label).sum()) for label in range(len(LABELS)))
        for key, one in opened.items()
    }


def test_ffpp_gives_32_frames_of_a_fake_and_as_many_real_ones_as_fakes(tmp_path):
    root = tmp_path / "FF++"
    parts = {"original_sequences/youtube": ("a", "b")}
    for method in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"):
        parts[f"manipulated_sequences/{method}"] = ("a_b", "b_a")
    for part, ids in parts.items():
        frames = 130 if "youtube" in part else 33
        for one in ids:
            write_pictures(root, [f"{part}/c23/frames/{one}/{i}.png" for i in range(frames)])
    for split in ("train", "val"):
        write_json(root / f"{split}.json", [["a", "b"]])
        assert counts("finetune/dfd:b", split, tmp_path) == {"FFpp": (2 * 4 * 32, 2 * 128)}
        assert counts("adapter/diff:b", split, tmp_path) == {"FFpp": (2 * 32, 2 * 32)}


def test_anti_spoofing_trains_on_frame_0_of_both_splits_and_tests_on_both_frames(tmp_path):
    for subset in ("msu", "casia", "replay", "oulu", "celeb"):
        for split in ("train", "test"):
            for label in LABELS:
                names = [f"{split}/{label}/v_frame{frame}.png" for frame in (0, 1)]
                write_pictures(tmp_path / "MCIO" / "frame" / subset, names)
    sources = {"CASIA", "Replay", "OULU"}
    assert counts("fas/mcio:b", "train", tmp_path, "M") == dict.fromkeys(sources, (2, 2))
    assert counts("fas/mcio:b", "val", tmp_path, "M") == dict.fromkeys(sources, (2, 2))
    found = counts("fas/mcio:b", "train", tmp_path, "M,celeb")
    assert found == dict.fromkeys(sources, (2, 2)) | {"CelebASpoof": (1, 1)}
    assert counts("eval/fas", "test", tmp_path, "M") == {"MSU": (2, 2)}
    opened = open_sets(resolved("fas/mcio:b", "M").data.train, [str(tmp_path)], image_size=8)
    assert {opened["OULU"].name(i)[-5:] for i in range(4)} == {"0.png"}


def test_celeb_df_counts_only_celeb_real_as_real(tmp_path):
    root = tmp_path / "DeepfakeBench"
    folders = {"Celeb-real": "Real", "YouTube-real": "Real", "Celeb-synthesis": "Fake"}
    content: dict = {}
    for folder, label in folders.items():
        frames = [f"Celeb-DF-v2/{folder}/frames/v/{i}.png" for i in range(40)]
        write_pictures(root, frames)
        of_split = content.setdefault(label, {"test": {}})["test"]
        of_split[f"{folder}-v"] = {"label": label, "frames": frames}
    write_json(root / "Celeb-DF-v2.json", {"Celeb-DF-v2": content})
    assert counts("eval/dfd", "test", tmp_path, "CDFv2") == {"CDFv2": (32, 32)}


def test_gends_lists_name_the_faces_in_its_repository(tmp_path):
    lists = {
        "CDFv2": ("Celeb-real", "YouTube-real", "Celeb-synthesis"),
        "FF": ("real", "DF", "F2F", "FS", "NT"),
    }
    for name, classes in lists.items():
        folder = tmp_path / "GenD" / "config" / "datasets" / name / "test"
        folder.mkdir(parents=True)
        for label in classes:
            faces = [f"datasets/{name}/{label}/000/{i}.png" for i in range(2)]
            write_pictures(tmp_path / "GenD", faces)
            (folder / f"{label}.txt").write_text("\n".join(faces))
    assert counts("eval/gend", "test", tmp_path) == {"CDFv2": (2, 4), "FF": (8, 2)}
    opened = open_sets(resolved("eval/gend").data.test, [str(tmp_path)], image_size=8)
    assert len({opened["FF"].video(i) for i in range(10)}) == 5


def test_other_test_sets_are_found_in_folders_and_lists(tmp_path):
    for folder in ("WildDeepfake/test", "FFIW/test"):
        write_pictures(tmp_path / folder, "real/v_frame_0.png fake/w_frame_0.png")
    (tmp_path / "FFIW" / "test.txt").write_text("test/real/v_frame_0.png real\n")
    assert counts("eval/dfd", "test", tmp_path, "WDF,FFIW") == {"WDF": (1, 1), "FFIW": (1, 1)}
    assert counts("eval/released_vit_l", "test", tmp_path, "FFIW") == {"FFIW": (0, 1)}
    for subset in ("T2I", "I2I", "FS", "FE"):
        folder = tmp_path / "DiFF" / "test_subsets" / subset / "test"
        write_pictures(folder, "real/1.png fake/1.png fake/2.png")
    expected = dict.fromkeys(("T2I", "I2I", "FS", "FE"), (2, 1))
    assert counts("eval/diff", "test", tmp_path) == expected


def test_the_page_on_ones_own_folder_makes_the_tree_that_its_commands_read(tmp_path, monkeypatch):
    page = (CONFIGS.parent / "docs" / "own-folder.md").read_text()
    program = re.search(r"python - <<'END'\n(.*?)END\n", page, re.DOTALL)[1]
    few = re.sub(r"VIDEOS = .*", 'VIDEOS = {"train": 4, "val": 2, "test": 2}', program)
    assert few != program
    monkeypatch.chdir(tmp_path)
    exec(few, {})
    assert counts(FOLDER, "train", tmp_path / "faces") == {"mine": (8, 8)}
    assert counts(FOLDER, "val", tmp_path / "faces") == {"mine": (4, 4)}
    assert counts("eval/folder", "test", tmp_path / "faces") == {"mine": (4, 4)}
    for file, argument in re.findall(r"--config=(configs/\S+?\.py):?(\w*)", page):
        module(file.removeprefix("configs/").removesuffix(".py")).get_config(argument)


def test_ones_own_folder_has_a_split_for_each_purpose(tmp_path):
    for split, fakes in (("train", 3), ("val", 2), ("test", 1)):
        names = [f"{split}/fake/v_frame_{frame}.png" for frame in range(fakes)]
        write_pictures(tmp_path, [*names, f"{split}/real/w/v_frame_0.png"])
    assert counts(FOLDER, "train", tmp_path) == {"mine": (3, 1)}
    assert counts(FOLDER, "val", tmp_path, "tiny") == {"mine": (2, 1)}
    assert counts("eval/folder", "test", tmp_path) == {"mine": (1, 1)}
