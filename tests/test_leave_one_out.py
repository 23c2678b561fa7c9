"""Tests that a forgery that is left out is in no face of the training, and is the one tested."""

import pytest
from labelled_trees import write_json, write_pictures

from configs import sets
from configs.eval import leave_one_out as tested
from configs.finetune import leave_one_out as trained
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.data.labelled.detection_sets import labels_of, open_sets
from fsvfm_jax.data.labelled.faces import FAKE, REAL
from fsvfm_jax.data.labelled.layouts import FF_METHODS
from fsvfm_jax.errors import ConfigError

PAIRS = {"train": [["000", "001"]], "val": [["002", "003"]], "test": [["004", "005"]]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Returns a folder with a tiny FaceForensics++ and a tiny DF40."""
    folder = tmp_path_factory.mktemp("root")
    for split, ((a, b),) in PAIRS.items():
        (folder / "FF++").mkdir(exist_ok=True)
        write_json(folder / f"FF++/{split}.json", PAIRS[split])
        names = [f"original_sequences/youtube/c23/frames/{x}/0.png" for x in (a, b)]
        for method in FF_METHODS:
            part = f"manipulated_sequences/{method}/c23/frames"
            names += [f"{part}/{a}_{b}/0.png", f"{part}/{b}_{a}/0.png"]
        write_pictures(folder / "FF++", names)
    (folder / "DF40").mkdir()
    for method in sets.DF40["fs"]:
        by_label = {f"{method}_Real": {}, f"{method}_Fake": {}}
        for split, ((a, b),) in PAIRS.items():
            real = [f"FaceForensics++/original_sequences/youtube/c23/frames/{a}/0.png"]
            fake = [f"DF40\\{method}\\frames\\{a}_{b}\\0.png"]
            by_label[f"{method}_Real"][split] = {a: {"label": f"{method}_Real", "frames": real}}
            by_label[f"{method}_Fake"][split] = {
                f"{a}_{b}": {"label": f"{method}_Fake", "frames": fake}
            }
            write_pictures(folder / "DF40", [*real, fake[0].replace("\\", "/")])
        write_json(folder / f"DF40/{method}_ff.json", {f"{method}_ff": by_label})
    return folder


def opened(config, root):
    config.data.paths = (str(root),)
    if config.task == "evaluate":
        config.init.params = "RUN"
    data = resolve(config).data
    kinds = [kind for kind in ("train", "val", "test") if kind in data]
    return {kind: open_sets(data[kind], data.paths, image_size=32) for kind in kinds}


def files(found, label):
    """Returns the files of a class in all sets."""
    return {
        faces.name(index)
        for faces in found.values()
        for index in range(len(faces))
        if faces.label(index) == label
    }


@pytest.mark.parametrize("left_out", [*FF_METHODS, "simswap", "facedancer"])
def test_no_face_of_what_is_left_out_is_trained_on_or_chooses_the_checkpoint(root, left_out):
    of_training = opened(trained.get_config(f"s,{left_out}"), root)
    kind = FF_METHODS if left_out in FF_METHODS else sets.DF40["fs"]
    for found in of_training.values():
        fake = files(found, FAKE)
        assert fake and not any(f"/{left_out}/" in file for file in fake)
        methods = {method for method in kind if any(f"/{method}/" in file for file in fake)}
        assert methods == set(kind) - {left_out}
        assert files(found, REAL)
    of_test = opened(tested.get_config(left_out), root)["test"]
    assert [*of_test] == [left_out]
    assert files(of_test, FAKE) and all(f"/{left_out}/" in file for file in files(of_test, FAKE))
    for label in (FAKE, REAL):
        for found in of_training.values():
            assert files(of_test, label).isdisjoint(files(found, label))
    for faces in of_test.values():
        assert set(labels_of(faces).tolist()) == {FAKE, REAL}


def test_every_forgery_has_a_kind_and_names_that_flags_can_hold():
    found = sets.forgeries()
    assert len(found) == len(FF_METHODS) + 31 and "simswap" in found
    for method, kind in found.items():
        config = trained.get_config(method).data
        names = [*config.train] if len(config.train) > 1 else [*config.train.FFpp.methods]
        assert len(names) == len(kind) - 1 and sets.field_name(method) not in names
        assert all(name.isidentifier() for name in names)
        assert config.train.keys() == config.val.keys()
    assert list(tested.get_config("sd2.1").data.test) == ["sd21"]


def test_one_forgery_is_left_out_at_a_time():
    with pytest.raises(ConfigError, match="a run has one forgery, not simswap and DiT"):
        trained.get_config("simswap,DiT")
