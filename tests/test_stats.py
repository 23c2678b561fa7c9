"""Tests that the statistics of a set are exact, and that errors name a file that has none."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from fsvfm_jax.data.moments import MIN_STD
from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.data.stats import (
    STATS_FILE,
    Stats,
    compute_stats,
    forget_stats_of_other_data,
    load_stats,
    save_stats,
)
from fsvfm_jax.errors import DataError

SOURCE = SyntheticFaces(5, image_size=32, seed=0)


def test_statistics_equal_those_of_all_pixels_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.stack([SOURCE[index]["image"] for index in range(5)]).reshape(-1, 3) / 255
    stats = compute_stats(SOURCE)
    np.testing.assert_allclose(stats.mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(stats.std, pixels.std(axis=0), rtol=1e-12)
    assert "mean and std: 5/5" in capsys.readouterr().err


def test_statistics_are_the_same_bits_every_time() -> None:
    assert compute_stats(SOURCE) == compute_stats(SOURCE)


def test_saved_statistics_are_loaded_unchanged(tmp_path: Path) -> None:
    stats = Stats(mean=(0.1, 1 / 3, 0.54822), std=(0.27892, 2 / 7, 1.0))
    save_stats(tmp_path / "stats.json", stats)
    assert load_stats(tmp_path / "stats.json") == stats
    assert set(json.loads((tmp_path / "stats.json").read_text())) == {"mean", "std"}


def test_the_reference_reads_what_is_saved(tmp_path: Path) -> None:
    """Reads as the reference does: the first line of a file, to which every restart adds a line."""
    stats = Stats(mean=(0.1, 1 / 3, 0.54822), std=(0.27892, 2 / 7, 1.0))
    file = tmp_path / "pretrain_ds_mean_std.txt"
    save_stats(file, stats)
    with file.open() as opened:
        first = json.loads(opened.readline())
        assert opened.read() == ""
    assert first == {"mean": list(stats.mean), "std": list(stats.std)}


def test_the_reference_s_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pretrain_ds_mean_std.txt"
    file.write_text('{"mean": [0.5482, 0.4234, 0.3655], "std": [0.2789, 0.2439, 0.2349]}')
    assert load_stats(str(file)) == ((0.5482, 0.4234, 0.3655), (0.2789, 0.2439, 0.2349))


FIRST = {"mean": [0.5, 0.25, 0.75], "std": [0.2, 0.3, 0.1]}
LINE = json.dumps(FIRST)
OTHER = json.dumps({"mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1]})


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        f"{LINE}\n{OTHER}\n{OTHER}\n",
        f"{LINE}\r\n{OTHER}\r\n",
        f"{LINE} \n\nnot even JSON",
        json.dumps(FIRST, indent=1) + "\n",
        json.dumps(FIRST, indent=4) + f"\n{OTHER}\n",
        json.dumps(FIRST, indent=1).replace("\n", "\r\n"),
        f"\ufeff{LINE}\n",
        f"\n \n{LINE}\n",
        json.dumps(FIRST | {"images": 3}),
    ],
)
def test_the_first_value_of_a_file_counts(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_bytes(text.encode())
    assert load_stats(tmp_path / "x") == Stats(tuple(FIRST["mean"]), tuple(FIRST["std"]))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: os.mkfifo(path), "it is a named pipe"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.touch() or os.truncate(path, 50 * 10**9), "it has 50,000,000,000 bytes"),
    ],
)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, make, reason: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(DataError, match=rf"cannot be read \({reason}.* must be JSON like"):
        load_stats(tmp_path / "x")


def refused_or_in_range(file: Path) -> None:
    try:
        stats = load_stats(file)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert all(0 <= x <= 1 for x in stats.mean) and all(MIN_STD <= x <= 1 for x in stats.std)
    pixels = (np.float32([0, 1])[:, None] - np.float32(stats.mean)) / np.float32(stats.std)
    assert np.all(np.isfinite(pixels))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["mean", "std", "x"]), inner, max_size=3)
    ),
)


@given(st.dictionaries(st.sampled_from(["mean", "std"]), JSON, max_size=2) | JSON)
def test_no_json_gets_further_than_a_sentence(tmp_path_factory, value) -> None:
    file = tmp_path_factory.mktemp("json") / "x"
    file.write_text(json.dumps(value))
    refused_or_in_range(file)


@given(st.binary(max_size=200) | st.binary(max_size=20).map(lambda x: LINE.encode()[:60] + x))
def test_no_bytes_get_further_than_a_sentence(tmp_path_factory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("bytes") / "x"
    file.write_bytes(content)
    refused_or_in_range(file)


@pytest.mark.parametrize(
    "text",
    [
        None,
        LINE[:-1],
        LINE + "x",
        LINE + OTHER,
        "[" * 100_000,
        '{"mean": ' * 100_000,
        '{"mean": [0.5, 0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}',
        '{"mean": [0.5, 0.5, "0.5"], "std": [0.2, 0.2, 0.2]}',
        '{"mean": [0.5, 0.5, true], "std": [0.2, 0.2, 0.2]}',
        '{"mean": "abc", "std": "abc"}',
        '{"mean": [0.5, 0.5, 1e999], "std": [0.2, 0.2, 0.2]}',
        '{"mean": [0.5, 0.5, ' + "9" * 5000 + '], "std": [0.2, 0.2, 0.2]}',
        "",
        "mean 0.5",
        "[]",
        "3",
        "null",
        '{"mean": [0.5, 0.5, 0.5]}',
        '{"mean": [0.5, 0.5], "std": [0.2, 0.2, 0.2]}',
        '{"mean": [0.5, 0.5, null], "std": [0.2, 0.2, 0.2]}',
        '{"mean": 0.5, "std": 0.2}',
        '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.0]}',
        '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 1e-320]}',
        '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 1e-45]}',
        '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 9e-5]}',
        '{"mean": [127, 127, 127], "std": [50, 50, 50]}',
        '{"mean": [0.5, 0.5, NaN], "std": [0.2, 0.2, 0.2]}',
        '{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "std": [0.3, 0.3, 0.3]}',
        b"\xff\xfe",
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str | bytes | None) -> None:
    file = tmp_path / "stats.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"stats\.json cannot be read .* must be JSON like"):
        load_stats(file)


def test_statistics_of_other_data_are_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = epath.Path(tmp_path)
    forget_stats_of_other_data(workdir, "faces")  # there are no statistics
    stats = Stats((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    save_stats(workdir / STATS_FILE, stats, dataset="faces")
    forget_stats_of_other_data(workdir, "faces")
    assert load_stats(workdir / STATS_FILE) == stats
    with caplog.at_level("WARNING", "fsvfm_jax"):
        forget_stats_of_other_data(workdir, "others")
    assert not (workdir / STATS_FILE).exists() and "belongs to other data" in caplog.text
    save_stats(workdir / STATS_FILE, stats)  # A conversion stores statistics without their data.
    forget_stats_of_other_data(workdir, "faces")
    assert load_stats(workdir / STATS_FILE) == stats
