"""Tests that a run, a folder and a packed set of an earlier version of the package still work.

`golden/written_before.tar.xz` contains what these commands wrote on 28 November 2026, before the
modules moved: `main` with `FIELDS` on configs/vit_s.py:smoke (the checkpoint of step 6 of 8),
`convert to folder` of that run, and `prepare pack --image-size 16 --encoding raw` of four synthetic
faces. `state.json` has the SHA-256 of every array of the checkpoint, `steps_7_8.jsonl` the metrics
of the two steps that followed it in the same process. The tests compile without optimisation, and
another processor rounds differently: these metrics are compared within 1e-5, all else bit for bit.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from configs import vit_s
from fsvfm_jax import train
from fsvfm_jax.config.resolve import resolve
from fsvfm_jax.convert.__main__ import main as convert
from fsvfm_jax.convert.folder import read_folder
from fsvfm_jax.convert.runs import read_run
from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.prepare.__main__ import main as prepare
from fsvfm_jax.tasks import TASKS

FIELDS = {
    "epochs": 4,
    "batch_size": 8,
    "model.image_size": 16,
    "model.patch_size": 8,
    "model.width": 8,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.decoder_width": 8,
    "model.decoder_depth": 1,
    "model.decoder_num_heads": 2,
    "model.rep_decoder_depth": 1,
    "model.rep_decoder_num_heads": 2,
    "model.projection_dim": 8,
    "model.projection_hidden": 8,
    "data.num_samples": 16,
    "data.num_workers": 0,
    "data.mean": (0.5, 0.4, 0.4),
    "data.std": (0.2, 0.2, 0.2),
    "checkpoint.every": 3,
    "tracking.log_every": 1,
    "tracking.picture_every": 100,
    "probe.every": 0,
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "golden" / "written_before.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_array_of_the_checkpoint_is_read_bit_for_bit(written):
    run = read_run(written / "run")
    digests = {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for path, leaf in jax.tree_util.tree_flatten_with_path(run.state)[0]
    }
    assert digests == json.loads((written / "state.json").read_text())
    assert int(run.state.step) == 6


@pytest.mark.e2e
def test_the_run_goes_on(written):
    config = vit_s.get_config("smoke")
    config.update_from_flattened_dict(FIELDS)
    train.train(resolve(config), epath.Path(written / "run"), task=TASKS["pretrain"])
    before, after = (
        read_lines(written / name) for name in ("steps_7_8.jsonl", "run/metrics.jsonl")
    )
    assert [line["step"] for line in after] == list(range(1, 9))
    for old, new in zip(before, after[-2:], strict=True):
        timed = {"images_per_second", "data_wait"}
        assert old.keys() - timed <= new.keys()
        # Another processor rounds differently.
        for name in old.keys() - timed:
            np.testing.assert_allclose(new[name], old[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_exported_folder_is_read_and_written_again_bit_for_bit(written):
    assert read_folder(written / "encoder").params["blocks"]
    convert(["to", "folder", str(written / "run"), str(written / "again"), "--license=apache-2.0"])
    old, new = (load_file(written / name / "model.safetensors") for name in ("encoder", "again"))
    assert old.keys() == new.keys() and len(old) > 10
    for name, array in old.items():
        np.testing.assert_array_equal(new[name], array, err_msg=name)
    for name in ("config.json", "preprocess.json"):
        assert (written / "again" / name).read_bytes() == (written / "encoder" / name).read_bytes()


def test_the_packed_set_is_read_bit_for_bit(written):
    prepare(["check", str(written / "set")])
    faces = FaceRecords(str(written / "set"), image_size=16)
    assert len(faces) == 4
    images = {faces[i]["image"].tobytes() for i in range(4)}
    maps = {faces[i]["parsing_map"].tobytes() for i in range(4)}
    rendered = [render_face(index, image_size=16) for index in range(4)]
    assert maps == {parsing_map.tobytes() for _, parsing_map in rendered}
    assert images == {image.tobytes() for image, _ in rendered}
