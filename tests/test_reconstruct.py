"""Tests that a reconstruction is that of training, and that what is given is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fsvfm_jax.convert import pth, reference
from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.learners import make_learner
from fsvfm_jax.masking import Masks, sample_masks
from fsvfm_jax.regions import GROUPS, patch_classes
from fsvfm_jax.visualize import reconstruct, shown_faces
from fsvfm_jax.visualize.__main__ import _parser, main

pytestmark = pytest.mark.e2e  # They read a training run.
COUNT = 3


@pytest.fixture(scope="module")
def args(short_run):
    argv = ["reconstruct", f"--model={short_run}", f"--count={COUNT}", "--output=a.png"]
    return _parser(argv).parse_args(argv)


@pytest.fixture(scope="module")
def student(args) -> reconstruct.Student:
    return reconstruct.open_student(args)


@pytest.fixture(scope="module")
def faces(args, student) -> shown_faces.ShownFaces:
    return shown_faces.read_faces(args, size=student.model.image_size)


@pytest.fixture(scope="module")
def masks(student, faces) -> Masks:
    classes = patch_classes(faces.parsing_maps, student.model.patch_size)
    return sample_masks(jax.random.key(0), classes)


@pytest.fixture(scope="module")
def made(student, faces, masks) -> reconstruct.Reconstruction:
    return reconstruct.Reconstruction(
        *map(np.asarray, reconstruct.reconstruct(student, faces.images, masks))
    )


def removed_pixels(masks: Masks, size: int) -> np.ndarray:
    return reconstruct.per_pixel(np.asarray(masks.mask), size) != 0


def test_the_first_columns_are_those_that_training_draws(short_run, student, faces, made):
    run = read_run(short_run)
    learner = make_learner(run.config, stats=run.stats)
    classes = patch_classes(faces.parsing_maps, student.model.patch_size)
    batch = {"image": jnp.asarray(faces.images), "classes": jnp.asarray(classes)}
    drawn = learner.draw(run.state, batch)
    np.testing.assert_array_equal(made.images[:3], drawn)


def test_what_the_network_alone_knows_does_not_depend_on_the_removed_pixels(
    student, faces, masks, made
):
    removed = removed_pixels(masks, student.model.image_size)
    rng = np.random.default_rng(0)
    other = np.where(removed[..., None], rng.integers(256, size=faces.images.shape), faces.images)
    again = reconstruct.reconstruct(student, other.astype(np.uint8), masks)
    given, alone = np.asarray(again.images[2]), np.asarray(again.images[3])
    np.testing.assert_array_equal(alone, made.images[3])
    assert (given != made.images[2])[removed].mean() > 0.5


def test_errors_are_the_distances_of_the_drawn_pixels(student, faces, masks, made):
    for image, error in zip(made.images[2:], made.errors, strict=True):
        wanted = abs(image.astype(float) - faces.images.astype(float)).mean(axis=-1)
        np.testing.assert_allclose(error, wanted, atol=1e-4)
    kept = ~removed_pixels(masks, student.model.image_size)
    assert (made.errors[:, kept] == 0).all()


def test_the_table_has_the_means_of_each_regions_removed_patches(student, faces, masks, made):
    sheet = reconstruct.draw(student, faces, masks, name="a")
    rows = {row[0]: row[1:] for row in sheet.tables[0].rows}
    assert [*rows] == [*GROUPS, "all"]
    removed = removed_pixels(masks, student.model.image_size)
    wanted = [f"{error[removed].mean():.1f}" for error in (*made.errors, made.flat_errors)]
    loss = made.loss[np.asarray(masks.mask) != 0].mean()
    count = int(np.asarray(masks.mask).sum())
    assert rows["all"] == [f"{count:,}", *wanted, f"{loss:.3f}"]
    assert reconstruct.NORM_PIX in sheet.notes


def test_a_network_that_predicts_pixels_has_one_reconstruction(student, faces, masks):
    raw = student._replace(norm_pix=False)
    assert reconstruct.reconstruct(raw, faces.images, masks).images.shape[0] == 3
    sheet = reconstruct.draw(raw, faces, masks, name="a")
    assert reconstruct.RAW in sheet.notes and len(sheet.tables[0].header) == 5


def test_a_pth_file_gives_the_same_network(tmp_path, student):
    file = tmp_path / "student.pth"
    pth.write(file, reference.to_state_dict(student.params))
    argv = ["reconstruct", f"--model={file}", "--output=a.png", "--raw-pixels"]
    heads = ("num_heads", "decoder_num_heads", "rep_decoder_num_heads")
    argv += [f"--{x.replace('_', '-')}={getattr(student.model, x)}" for x in heads]
    stats = tmp_path / "stats.json"
    stats.write_text(f'{{"mean": {[*tiny.STATS.mean]}, "std": {[*tiny.STATS.std]}}}')
    opened = reconstruct.open_student(_parser(argv).parse_args([*argv, f"--stats={stats}"]))
    assert not opened.norm_pix and opened.stats == student.stats
    assert jax.tree.all(jax.tree.map(np.array_equal, opened.params, student.params))


def test_the_command_draws_a_named_region(short_run, tmp_path, capsys):
    output = tmp_path / "a.html"
    main(
        ["reconstruct", f"--model={short_run}", "--count=2", "--region=nose", f"--output={output}"]
    )
    printed = capsys.readouterr().out
    assert "| nose |" in printed and f"{output}: written" in printed
    assert output.read_text().startswith("<!doctype html>")


def test_a_detector_is_refused(detector_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["reconstruct", f"--model={detector_folder}", f"--output={tmp_path / 'a.png'}"])
    assert ended.value.code == 65 and "has no pixel decoder" in capsys.readouterr().err


def test_a_region_is_refused_for_a_strategy_that_covers_none(tmp_path, capsys):
    flags = ["--model=none", "--strategy=random", "--region=nose", f"--output={tmp_path / 'a.png'}"]
    with pytest.raises(SystemExit) as ended:
        main(["reconstruct", *flags])
    assert ended.value.code == 78 and "--region=nose is for crfr_r" in capsys.readouterr().err
