"""The statistics of a set are exact, and a file that is not one is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from fsvfm_jax.data.sources import SyntheticFaces
from fsvfm_jax.data.stats import Stats, compute_stats, load_stats, save_stats
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


def test_the_reference_s_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pretrain_ds_mean_std.txt"
    file.write_text('{"mean": [0.5482, 0.4234, 0.3655], "std": [0.2789, 0.2439, 0.2349]}')
    assert load_stats(str(file)) == ((0.5482, 0.4234, 0.3655), (0.2789, 0.2439, 0.2349))


@pytest.mark.parametrize(
    "text",
    [
        None,
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
        '{"mean": [127, 127, 127], "std": [50, 50, 50]}',
        '{"mean": [0.5, 0.5, NaN], "std": [0.2, 0.2, 0.2]}',
        b"\xff\xfe",
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str | bytes | None) -> None:
    file = tmp_path / "stats.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"stats\.json cannot be read .* must be JSON like"):
        load_stats(file)
