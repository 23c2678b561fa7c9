"""Tests that `predict embed` writes each face's features, and finds the nearest faces."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_weights import TINY, describe, detector_params, encoder_params

from fsvfm_jax.convert.folder import write_folder
from fsvfm_jax.errors import ConfigError
from fsvfm_jax.host.terminal import printable
from fsvfm_jax.predict import embed
from fsvfm_jax.predict import faces as finding
from fsvfm_jax.predict.__main__ import main
from fsvfm_jax.predict.inputs import Input
from fsvfm_jax.predict.networks import load

COUNT = 9
NOT_UTF8 = os.fsdecode(b"latin-\xe9.png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "encoder"
    write_folder(folder, encoder_params(TINY), describe(TINY))
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Returns a folder of nine faces; the last is a lighter copy of the first."""
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    names = ["a/0.png", "a/1.jpg", "b/c/2.png", *(f"{i}.png" for i in range(3, 7)), NOT_UTF8]
    coarse = [rng.integers(256, size=(8, 8, 3), dtype=np.uint8) for _ in names]
    coarse.append(np.uint8(coarse[0] * 0.95 + 12))
    for name, pixels in zip([*names, "z.png"], coarse, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((70, 80)).save(root / name)
    return root


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Does the work of the processes in this process, out of order, without limits."""

    def in_process(items, make, arguments, **idle):
        work = make(arguments[0])
        yield from ((item, work(item)) for item in reversed(list(items)))

    monkeypatch.setattr(finding, "spread", in_process)
    monkeypatch.setattr(finding, "start_limits", lambda: None)


def run(model, *arguments):
    main(["embed", f"--model={model}", *map(str, arguments)])


def ended_with(code, model, *arguments, capsys):
    """Runs the command, which fails with that exit code; returns its one sentence."""
    with pytest.raises(SystemExit) as error:
        run(model, *arguments)
    assert error.value.code == code
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    return line


def names(paths, root):
    return [os.path.relpath(path, root) for path in paths]


@pytest.mark.e2e
@pytest.mark.parametrize(("pool", "block"), [("mean", None), ("token", 1), ("patches", None)])
def test_an_npz_has_the_features_of_every_face(model, faces, tmp_path, pool, block):
    flags = [] if block is None else [f"--block={block}"]
    run(model, faces, "--output", tmp_path / "x.npz", "--pool", pool, *flags, "--batch-size=4")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as stored:
        found = dict(stored)
    assert len(found["paths"]) == COUNT and NOT_UTF8 in names(found["paths"], faces)
    assert names(found["paths"], faces) == sorted(names(found["paths"], faces))
    network = load(model, batch_size=4)
    expected = network.features(found["paths"].tolist(), pool=pool, block=block)
    np.testing.assert_array_equal(found["features"], expected)
    assert (found["pool"], found["block"]) == (pool, block or 0)
    assert found["sha256"] == network.sha256 and not len(found["unread"])


@pytest.mark.parametrize("pool", ["mean", "patches"])
def test_a_parquet_file_has_the_same(model, faces, tmp_path, pool, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(embed, "ROW_GROUP", 4)
    for name in ("x.npz", "x.parquet"):
        run(model, faces, "--output", tmp_path / name, "--pool", pool)
    table = parquet.read_table(tmp_path / "x.parquet")
    with np.load(tmp_path / "x.npz") as stored:
        features = np.stack(table["features"].to_numpy())
        np.testing.assert_array_equal(features, stored["features"].reshape(COUNT, -1))
        assert table["path"].to_pylist() == [printable(path) for path in stored["paths"].tolist()]
    about = table.schema.metadata
    assert about[b"pool"] == pool.encode() and about[b"width"] == b"48"


def test_without_pyarrow_one_sentence_names_the_extra(model, faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = ended_with(78, model, faces, "--output", tmp_path / "x.parquet", capsys=capsys)
    assert "pyarrow is not installed: pip install '.[parquet]'" in said


def test_the_nearest_faces_are_printed_and_drawn(model, faces, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    run(model, faces, "--query", faces / "a/0.png", "--top", 3, "--sheet", sheet)
    lines = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert names([path for _, path in lines][:2], faces) == ["a/0.png", "z.png"]
    assert len(lines) == 3 and lines[0][0] == "1.0000"
    similarities = [float(similarity) for similarity, _ in lines]
    assert similarities == sorted(similarities, reverse=True)
    drawn = np.asarray(Image.open(io.BytesIO(sheet.read_bytes())))
    assert drawn.shape[1] == embed.TILES_PER_ROW * (embed.TILE + 2) - 2
    query, first, second = (
        drawn[-embed.TILE :, column * (embed.TILE + 2) :][:, : embed.TILE] for column in range(3)
    )
    np.testing.assert_array_equal(query, first)
    assert 0 < np.abs(query.astype(int) - second).mean() < 20


def test_neighbours_are_those_of_every_cosine():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)).astype(np.float32)
    features[7] = 0
    query = rng.normal(size=8).astype(np.float32)
    rows, similarities = embed.nearest(query, features, top=50)
    cosines = [
        0 if index == 7 else x @ query / np.linalg.norm(x) / np.linalg.norm(query)
        for index, x in enumerate(features)
    ]
    np.testing.assert_array_equal(rows, np.argsort(-np.array(cosines)))
    np.testing.assert_allclose(similarities, np.sort(cosines)[::-1], rtol=0, atol=1e-6)
    rows, similarities = embed.nearest(np.zeros(8, np.float32), features, top=3)
    assert rows.tolist() == [0, 1, 2] and not similarities.any()


def test_a_file_that_is_no_picture_is_named_and_counted(
    model, faces, tmp_path, capsys, monkeypatch
):
    odd = {"x\n\x1b[31m.png": b"no picture", "y.txt": b"no picture", "v.mp4": b"no video"}
    monkeypatch.setattr(embed, "MAX_LOGGED", 2)
    for name, content in odd.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "z.png")
    out = tmp_path / "x.npz"
    with pytest.raises(SystemExit) as ended:
        run(model, tmp_path, faces, "none.png", "--output", out)
    said = capsys.readouterr().err
    assert ended.value.code == 66 and said.count("is left out:") == 2
    assert "2 more files are left out" in said
    assert said.endswith("error: 4 of 13 files cannot be read as a picture\n")
    with np.load(out) as stored:
        unread = ["v.mp4", "x\n\x1b[31m.png", "z.png"]
        assert stored["unread"].tolist() == [*(str(tmp_path / name) for name in unread), "none.png"]
        expected = load(model).features(stored["paths"].tolist())
        np.testing.assert_array_equal(stored["features"], expected)
        assert len(stored["paths"]) == COUNT


def test_wrong_flags_and_inputs_give_one_sentence(model, faces, tmp_path, capsys):
    out = tmp_path / "x.npz"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "x.png").write_bytes(b"no picture")
    for code, arguments, said in (
        (78, [faces], "give --output FILE"),
        (78, [faces, "--output=x.csv"], "does not end in .npz or .parquet"),
        (78, [faces, "--output", out, "--sheet", tmp_path / "x.png"], "give --query"),
        (78, [faces, "--query", faces / "z.png", "--pool=patches"], "give another --pool"),
        (78, [faces, "--query", faces / "z.png", "--top=0"], "argument --top: '0' is no number"),
        (78, [faces, "--output", out, "--block=3"], "give 1 to 2"),
        (78, [faces, "--output", out, "--pool=max"], "--pool"),
        (65, [faces / "none", "--output", out], "none of 1 files"),
        (65, [tmp_path / "empty" / "x.png", "--output", out], "none of 1 files"),
        (65, [faces, "--query", empty / "x.png"], "x.png: cannot identify it as PNG"),
        (73, [faces, "--output", tmp_path / "none" / "x.npz"], "cannot be written"),
        (78, [faces, "--query=z.png", "--sheet=x.jpg"], "--sheet=x.jpg does not end in .png"),
    ):
        assert said in ended_with(code, model, *arguments, capsys=capsys)
    assert not out.exists() and list(tmp_path.iterdir()) == [empty]
    said = ended_with(65, tmp_path / "no model", faces, "--output", out, capsys=capsys)
    assert "no model" in said


@pytest.mark.parametrize("flag", ["--output=mine.npz", "--sheet=mine.png"])
def test_no_file_is_replaced(model, faces, tmp_path, flag, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine.npz", "mine.png"):
        (tmp_path / name).write_bytes((faces / "3.png").read_bytes())
    said = ended_with(73, model, faces, "--query=mine.png", flag, capsys=capsys)
    assert "is there already; name another file" in said
    for name in ("mine.npz", "mine.png"):
        assert (tmp_path / name).read_bytes() == (faces / "3.png").read_bytes()


def test_features_that_do_not_fit_into_memory_are_refused_first(model):
    with pytest.raises(ConfigError, match="GB, more than half"):
        embed.embed(
            load(model), [Input("x.png", None, "none")] * 10**8, processes=1, pool="patches"
        )


@pytest.mark.e2e
def test_the_command_writes_the_features_of_a_detector(faces, tmp_path):
    write_folder(tmp_path / "d", detector_params(TINY), describe(TINY, labels=("fake", "real")))
    out = tmp_path / "x.npz"
    command = [sys.executable, "-m", "fsvfm_jax.predict", "embed", "--model", tmp_path / "d"]
    command += [faces, "--output", out, "--query", faces / "3.png", "--top", "1"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout == f"1.0000 {faces / '3.png'}\n"
    with np.load(out) as stored:
        expected = load(tmp_path / "d").features(stored["paths"].tolist())
        np.testing.assert_allclose(stored["features"], expected, rtol=0, atol=1e-5)
