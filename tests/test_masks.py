"""Tests the table of removed shares, and the command that draws masks."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from fsvfm_jax import mask_pictures
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.host.pictures import LINE_HEIGHT, legend_strip
from fsvfm_jax.masking import STRATEGIES, group_members, sample_masks
from fsvfm_jax.regions import GROUPS, NUM_COVERABLE, patch_classes
from fsvfm_jax.visualize import masks
from fsvfm_jax.visualize.__main__ import main
from fsvfm_jax.visualize.masks import ROWS, removed_shares, table_rows

SIZE, PATCH = 64, 8
NUM_PATCHES = (SIZE // PATCH) ** 2
RATIO, BUDGET = 0.7, 44
SMALL = ("--image-size", f"{SIZE}", "--patch-size", f"{PATCH}", "--mask-ratio", f"{RATIO}")
# All tests use the same numbers, so that each strategy is compiled once.
COUNT = 10

sample_jitted = jax.jit(sample_masks, static_argnames=("strategy", "mask_ratio"))


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    """Returns images and parsing maps of 2 * COUNT synthetic faces."""
    source = SyntheticFaces(2 * COUNT, image_size=SIZE, seed=0)
    elements = [source[i] for i in range(len(source))]
    return tuple(np.stack([e[name] for e in elements]) for name in ("image", "parsing_map"))


def rows_of(table: str) -> dict[str, list[str]]:
    """Returns the cells of a Markdown table's rows, by the first cell."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines[2:]}


def fails(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """Returns exit code and message of a command that must print one line and nothing else."""
    with pytest.raises(SystemExit) as raised:
        main(["masks", *flags])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return raised.value.code, captured.err


# The table


def test_shares_of_a_worked_example():
    """Uses two faces of four patches, and two draws of two patches each."""
    background, skin, nose = 1 << 0, 1 << 1, 1 << 6
    classes = np.array(
        [[nose, nose + skin, skin, skin], [skin, skin, background, background]], np.uint16
    )
    removed = np.array(
        [[[1, 1, 0, 0], [1, 1, 0, 0]], [[1, 0, 1, 0], [0, 0, 1, 1]]], np.uint8
    )  # [draw, face, patch]
    shares = dict(zip(ROWS, removed_shares(removed, classes), strict=True))
    assert shares["nose"] == (2 + 1) / 4  # the second face has no nose
    assert shares["skin"] == ((1 + 1) / 6 + (2 + 0) / 4) / 2
    assert shares["all"] == 0.5
    assert shares["one region fully covered"] == 1 / 4  # only the nose; skin does not count
    assert np.isnan(shares["hair"])
    table = table_rows({"some": np.array(list(shares.values()))})
    assert ["nose", "75.0 %"] in table and ["hair", "-"] in table


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_covered_region_that_fits_the_budget_is_always_covered(faces, strategy):
    classes = patch_classes(faces[1], PATCH)
    sizes = np.asarray(group_members(classes))[:, :NUM_COVERABLE].sum(-1)
    classes = classes[((sizes > 0) & (sizes <= BUDGET)).all(axis=1)][:COUNT]
    assert len(classes) == COUNT
    sample = partial(sample_jitted, strategy=strategy, mask_ratio=RATIO)
    drawn = [sample(key, classes).mask for key in jax.random.split(jax.random.key(0), 50)]
    shares = dict(zip(ROWS, removed_shares(np.stack(drawn), classes), strict=True))
    assert shares["all"] == BUDGET / NUM_PATCHES
    if strategy in ("crfr_r", "crfr_p"):
        assert shares["one region fully covered"] == 1
    if strategy in ("random", "frp"):
        assert shares["one region fully covered"] < 1


# The command


def test_the_command_writes_the_picture_and_prints_the_table(tmp_path, capsys):
    output = tmp_path / "masks.png"
    main(["masks", *SMALL, "--count", f"{COUNT}", "--draws", "3", "--output", str(output)])
    printed = capsys.readouterr().out
    table = rows_of(printed)
    assert tuple(table) == ROWS == (*GROUPS, "all", "one region fully covered")
    assert table["all"] == [f"{100 * BUDGET / NUM_PATCHES:.1f} %"] * len(STRATEGIES)
    assert "10 faces and 3 draws for each; each mask removes 44 of 64 patches" in printed
    with Image.open(output, formats=["PNG"]) as picture:
        side = 4 * SIZE + 2  # Small faces are enlarged.
        width = 6 * side - 2
        # Eight of the ten faces are shown, in two grids; the title is above them.
        legend = legend_strip(mask_pictures.LEGEND, width).shape[0]
        height = 3 * LINE_HEIGHT + 2 * (8 * side - 2) + legend
        assert picture.size == (width + 16, height + 16)


def test_a_region_that_is_named_above_a_column_is_covered_there(tmp_path, monkeypatch):
    drawn = []

    def draw(_images, maps, shown, *, patch_size):
        drawn.append((maps, shown, patch_size))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(masks, "masks_picture", draw)
    main(["masks", *SMALL, "--count", "2", "--draws", "1", "--output", str(tmp_path / "a.html")])
    ((maps, shown, patch_size),) = drawn
    members = np.asarray(group_members(patch_classes(maps, patch_size)))
    assert [*shown][-NUM_COVERABLE:] == [f"crfr_p: {group}" for group in GROUPS[:NUM_COVERABLE]]
    for region in range(NUM_COVERABLE):
        covered = np.asarray(shown[f"crfr_p: {GROUPS[region]}"].region_mask) != 0
        np.testing.assert_array_equal(covered, members[:, region])


@pytest.mark.e2e
def test_a_missing_input_ends_in_one_sentence_and_exit_code_65(tmp_path):
    missing = tmp_path / "nowhere"
    command = [sys.executable, "-m", "fsvfm_jax.visualize", "masks", str(missing)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "masks.png")],
        capture_output=True,
        text=True,
        cwd=Path(mask_pictures.__file__).parents[1],
    )
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr == f"error: {missing}: it does not exist\n"


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    output = tmp_path / "nowhere" / "masks.png"
    code, message = fails(
        capsys, *SMALL, "--count", f"{COUNT}", "--draws", "1", "--output", str(output)
    )
    assert code == 73 and str(output) in message


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--patch-size", "15"), "--patch-size 15"),
        (("--count", "0"), "'0' is no number from 1 up"),
        (("--draws", "-1"), "--draws: '-1' is no number"),
        (("--seed", "-1"), "--seed is -1"),
        (("--image-size", "100000"), "--image-size is 100000; it must be at most 2048"),
        (("--draws", "1000000000"), "--draws is 1000000000; it must be at most 10000"),
        ((*SMALL, "--count", "1", "--mask-ratio", "1"), "mask_ratio 1.0 removes 64 of N = 64"),
        (("--count", "many"), "'many'"),
        (("--output", "masks.jpg"), "--output=masks.jpg does not end in .png or .html"),
        (("--colour", "red"), "--colour"),
    ],
)
def test_a_wrong_flag_ends_in_one_sentence_and_exit_code_78(tmp_path, capsys, flags, part):
    code, message = fails(capsys, "--output", str(tmp_path / "masks.png"), *flags)
    assert code == 78 and part in message
