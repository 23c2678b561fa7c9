"""Tests the command that explains a detector's scores."""

import re

import numpy as np
import pytest

from fsvfm_jax.predict.networks import load
from fsvfm_jax.visualize import explain, shown_faces
from fsvfm_jax.visualize.__main__ import main


def test_without_an_input_faces_and_forgeries_are_explained(detector_folder, tmp_path, capsys):
    output = tmp_path / "a.png"
    main(["explain", f"--model={detector_folder}", "--count=2", f"--output={output}"])
    printed = capsys.readouterr().out
    rows = [x.strip("| ").split(" | ") for x in printed.splitlines() if x.startswith("| ")]
    real, forged = (row for row in rows if row[0].startswith(("1: ", "2: ")))
    assert real[0].endswith(", real") and forged[0].endswith(", forged")
    network = load(detector_folder)
    for index, (_, score, margin, *parts) in enumerate((real, forged)):
        pair = explain.render(index, network.image_size, 0)
        assert float(score) == pytest.approx(network.predict(pair.image)[0], abs=1e-3)
        assert sum(map(float, parts)) == pytest.approx(float(margin), abs=0.01)
    shares = [row[1] for row in rows[-7:]]
    assert sum(float(share.removesuffix(" %")) for share in shares) == pytest.approx(100, abs=0.5)
    assert output.read_bytes().startswith(b"\x89PNG")


def test_the_map_of_patches_is_in_the_picture(detector_folder, monkeypatch):
    network = load(detector_folder)
    pairs = [explain.render(index, network.image_size, 0) for index in range(2)]
    faces = shown_faces.ShownFaces(
        [pair.name for pair in pairs],
        np.stack([pair.image for pair in pairs]),
        np.stack([pair.parsing_map for pair in pairs]),
        [],
    )
    shown = {}
    rows = explain.face_rows

    def keep(columns, captions, **options):
        shown.update(columns)
        return rows(columns, captions, **options)

    monkeypatch.setattr(explain, "face_rows", keep)
    explain.draw(network, faces, name="a")
    drops = explain.patch_drops(network, faces.images)
    pixel = shown[explain.PATCHES].reshape(2, 4, 64, 4, 64, 3)[:, :, 32, :, 32].reshape(2, 16, 3)
    redness = pixel[..., 0].astype(int) - pixel[..., 2]
    clear = abs(drops) > 0.1 * abs(drops).max(axis=1, keepdims=True)
    assert (np.sign(redness) == np.sign(drops))[clear].all() and clear.any()


@pytest.mark.e2e
def test_an_encoder_is_refused(short_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["explain", f"--model={short_run}", f"--output={tmp_path / 'a.png'}"])
    assert ended.value.code == 65
    assert re.search("is no detector: fine-tune it first", capsys.readouterr().err)
