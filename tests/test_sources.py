"""Tests that sources return faces in a fixed order, and that errors name the file."""

import io
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import face_trees
import numpy as np
import pytest
from PIL import Image

from fsvfm_jax.data import sources
from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.data.sources import FaceFolder, JoinedSets, SyntheticFaces, make_source
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.pack import pack

SIZE = 16


def write_face(root: Path, name: str, *, index: int = 0, size: int = SIZE) -> None:
    """Writes a synthetic face as <root>/images/<name> and its map beside it, as int8 [1, H, W]."""
    image, parsing_map = render_face(index, image_size=size)
    image_file = root / "images" / name
    map_file = (root / "parsing_maps" / name).with_suffix(".npy")
    image_file.parent.mkdir(parents=True, exist_ok=True)
    map_file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(image_file)
    np.save(map_file, parsing_map[None].astype(np.int8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Returns a data folder with one face, a.png."""
    write_face(tmp_path, "a.png")
    return tmp_path


def read_only_face(root: Path) -> None:
    """Reads the only face of a folder, whose source must open without an error."""
    source = FaceFolder(str(root), image_size=SIZE)
    assert len(source) == 1
    source[0]


def test_synthetic_faces_are_those_of_the_renderer() -> None:
    source = SyntheticFaces(3, image_size=SIZE, seed=7)
    image, parsing_map = render_face(2, image_size=SIZE, seed=7)
    assert len(source) == 3
    np.testing.assert_array_equal(source[2]["image"], image)
    np.testing.assert_array_equal(source[2]["parsing_map"], parsing_map)
    with pytest.raises(IndexError):
        source[3]


def test_synthetic_faces_stay_in_memory_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []

    def render(index: int, **options: int) -> tuple[np.ndarray, np.ndarray]:
        rendered.append(index)
        return render_face(index, **options)

    monkeypatch.setattr(sources, "render_face", render)
    monkeypatch.setattr(sources, "KEPT_BYTES", 2 * 4 * SIZE**2)
    source = SyntheticFaces(3, image_size=SIZE, seed=7)
    first = source.read(range(3))
    again = source.read([0, 1, 2, 2, 0])
    assert rendered == [0, 1, 2, 2, 2]
    for index, face in zip([0, 1, 2, 2, 0], again, strict=True):
        np.testing.assert_array_equal(face["image"], first[index]["image"])
    with pytest.raises(ValueError, match="read-only"):
        again[0]["image"][:] = 0
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[0]["parsing_map"], first[0]["parsing_map"])
    assert rendered[5:] == [0]


def test_folders_follow_each_other_and_files_are_sorted(tmp_path: Path) -> None:
    first, second = tmp_path / "z", tmp_path / "a"
    names = {first: ["n2/0.png", "n10/0.png", "b.jpg", "ä.png"], second: ["c.webp", "B.PNG"]}
    for root, of_root in names.items():
        for index, name in enumerate(of_root):
            write_face(root, name, index=index)
    (first / "images" / "notes.txt").write_text("not an image")
    source = JoinedSets([FaceFolder(str(root), image_size=SIZE) for root in (first, second)])
    expected = [first / "b.jpg", first / "n10/0.png", first / "n2/0.png", first / "ä.png"]
    expected += [second / "B.PNG", second / "c.webp"]
    assert len(source) == 6
    for face, file in zip(source, expected, strict=True):
        root = first if first in file.parents else second
        name = str(file.relative_to(root))
        with Image.open(root / "images" / name) as image:
            np.testing.assert_array_equal(face["image"], np.asarray(image))
        index = names[root].index(name)
        np.testing.assert_array_equal(face["parsing_map"], render_face(index, image_size=SIZE)[1])
        assert face["image"].dtype == face["parsing_map"].dtype == np.uint8


def test_a_face_of_the_right_size_is_not_resampled(root: Path) -> None:
    image, parsing_map = render_face(0, image_size=SIZE)
    face = FaceFolder(str(root), image_size=SIZE)[0]
    np.testing.assert_array_equal(face["image"], image)
    np.testing.assert_array_equal(face["parsing_map"], parsing_map)


def test_a_larger_face_is_resized(tmp_path: Path) -> None:
    write_face(tmp_path, "a.png", size=40)
    image, parsing_map = render_face(0, image_size=40)
    face = FaceFolder(str(tmp_path), image_size=SIZE)[0]
    bicubic = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(face["image"], np.asarray(bicubic))
    assert set(face["parsing_map"].flat) <= set(parsing_map.flat)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [(1, SIZE, SIZE), (SIZE, SIZE)])
def test_every_whole_number_map_is_read(root: Path, dtype: type, shape: Sequence[int]) -> None:
    parsing_map = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 11
    np.save(root / "parsing_maps" / "a.npy", parsing_map.astype(dtype).reshape(shape))
    face = FaceFolder(str(root), image_size=SIZE)[0]
    np.testing.assert_array_equal(face["parsing_map"], parsing_map)
    assert face["parsing_map"].dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_other_modes_become_rgb(root: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    (root / "images" / "a.png").unlink()
    with Image.new(mode, (SIZE, SIZE)) as image:
        image.save(root / "images" / f"a.{suffix}")
    face = FaceFolder(str(root), image_size=SIZE)[0]
    assert face["image"].shape == (SIZE, SIZE, 3)


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; a data folder holds images/"):
        FaceFolder(str(tmp_path / "nowhere"), image_size=SIZE)


@pytest.mark.parametrize("folder", [".", "images", "images/deeper", "parsing_maps"])
def test_a_root_without_images_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "a.txt").write_text("no image")
    with pytest.raises(
        DataError,
        match=r"no PNG, JPEG, WebP, BMP or TIFF image .* under .*/images; .*_maps/\*\*\.npy",
    ):
        FaceFolder(str(tmp_path), image_size=SIZE)


def test_missing_maps_are_counted_before_the_first_read(root: Path) -> None:
    for name in ("b.png", "sub/c.png"):
        write_face(root, name)
        (root / "parsing_maps" / name).with_suffix(".npy").unlink()
    with pytest.raises(
        DataError, match=r"2 of 3 images .* first b\.png, which needs .*/parsing_maps/b\.npy; make"
    ):
        FaceFolder(str(root), image_size=SIZE)


def test_two_images_do_not_share_a_map(root: Path) -> None:
    write_face(root, "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png under .* share one parsing map"):
        FaceFolder(str(root), image_size=SIZE)


def test_a_pipe_is_no_image(root: Path) -> None:
    (root / "images" / "a.png").unlink()
    os.mkfifo(root / "images" / "a.png")
    with pytest.raises(
        DataError, match=r"a\.png cannot be read \(it is a named pipe, not a plain file"
    ):
        read_only_face(root)


def test_a_folder_that_cannot_be_listed_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_face(root, "sub/b.png")
    scandir = os.scandir

    def refuse_sub(folder: str) -> Iterator[os.DirEntry]:
        if folder.endswith("sub"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse_sub)
    with pytest.raises(DataError, match=r"images/sub cannot be listed \(Permission denied\); make"):
        FaceFolder(str(root), image_size=SIZE)


def test_linked_folders_are_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for folder in ("images", "parsing_maps"):
        (other / folder).mkdir()
        (other / folder / "linked").symlink_to(root / folder)
    assert len(FaceFolder(str(other), image_size=SIZE)) == 1


def test_a_map_of_another_size_is_refused(root: Path) -> None:
    np.save(root / "parsing_maps" / "a.npy", np.zeros((1, SIZE, 20), np.int8))
    with pytest.raises(
        DataError, match=r"images/a\.png has 16 x 16 .*parsing_maps/a\.npy has 16 x 20; make"
    ):
        read_only_face(root)


@pytest.mark.parametrize(("dtype", "wrong"), [(np.int8, 11), (np.int8, -1), (np.uint8, 255)])
def test_an_unknown_class_is_refused(root: Path, dtype: type, wrong: int) -> None:
    parsing_map = np.zeros((1, SIZE, SIZE), dtype)
    parsing_map[0, 3, 5] = wrong
    np.save(root / "parsing_maps" / "a.npy", parsing_map)
    with pytest.raises(DataError, match=rf"a\.npy holds class {wrong}; .* classes 0 to 10"):
        read_only_face(root)


def damaged_maps() -> dict[str, bytes]:
    """Returns files that are not parsing maps, by their fault."""

    def saved(array: np.ndarray) -> bytes:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    good = saved(np.zeros((1, SIZE, SIZE), np.int8))
    archive, huge = io.BytesIO(), io.BytesIO()
    np.savez(archive, np.zeros((1, SIZE, SIZE), np.int8))
    header = {"descr": "|i1", "fortran_order": False, "shape": (1, 10**6, 10**6)}
    np.lib.format.write_array_header_1_0(huge, header)
    return {
        "empty": b"",
        "text": b"class 0",
        "truncated": good[:-1],
        "broken header": good.replace(b"'shape'", b"'sha(e'"),
        "terabyte": huge.getvalue(),
        "archive": archive.getvalue(),
        "pickle": saved(np.array([{}], dtype=object)),
        "float": saved(np.zeros((1, SIZE, SIZE), np.float32)),
        "three maps": saved(np.zeros((3, SIZE, SIZE), np.int8)),
        "number": saved(np.array(0, np.int8)),
    }


@pytest.mark.parametrize("content", damaged_maps().values(), ids=damaged_maps())
def test_a_damaged_map_is_refused(root: Path, content: bytes) -> None:
    (root / "parsing_maps" / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy cannot be read \(.+\); make it anew"):
        read_only_face(root)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_image_is_refused(root: Path, suffix: str) -> None:
    (root / "images" / "a.png").unlink()
    file = root / "images" / f"a.{suffix}"
    write_face(root, file.name)
    content = file.read_bytes()
    for length in (0, 20, len(content) // 2, len(content) - 40):
        file.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"a\.{suffix} cannot be read \(.+\); replace it"):
            read_only_face(root)


@pytest.mark.parametrize("image_format", ["GIF", "PPM"])
def test_other_formats_are_refused_whatever_they_are_called(root: Path, image_format: str) -> None:
    with Image.new("RGB", (SIZE, SIZE)) as image:
        image.save(root / "images" / "a.png", image_format)
    with pytest.raises(DataError, match=r"a\.png cannot be read \(cannot identify"):
        read_only_face(root)


def test_a_decompression_bomb_is_an_error(root: Path) -> None:
    with Image.new("1", (8001, 8000)) as image:
        image.save(root / "images" / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read \(8001 x 8000 pixels"):
        read_only_face(root)


def test_sixteen_bits_are_refused_instead_of_clipped(root: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 40000, np.uint16)).save(root / "images" / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read \(16 bits"):
        read_only_face(root)


def test_joined_sets_are_read_in_the_order_asked_for() -> None:
    sets = [SyntheticFaces(count, image_size=SIZE, seed=count) for count in (3, 1, 2)]
    joined = JoinedSets(sets)
    assert len(joined) == 6 and joined.sizes == [3, 1, 2]
    alone = [face for one in sets for face in one]
    order = [5, 0, 3, 5, 2, 4]
    for face, index in zip(joined.read(order), order, strict=True):
        np.testing.assert_array_equal(face["image"], alone[index]["image"])
    assert joined.name(4) == "synthetic face 0"
    np.testing.assert_array_equal(joined[-1]["image"], alone[5]["image"])
    with pytest.raises(IndexError):
        joined[6]
    assert joined.stats() is None
    assert joined.fingerprint() != JoinedSets(sets[::-1]).fingerprint()


def test_make_source_chooses_by_name(root: Path) -> None:
    synthetic = make_source("synthetic", image_size=SIZE, num_samples=4, seed=0)
    folder = make_source("folder", image_size=SIZE, paths=(str(root),), num_samples=4, seed=0)
    assert len(synthetic) == 4
    assert len(folder) == 1


@pytest.mark.parametrize(
    ("name", "num_samples", "message"),
    [
        ("imagenet", 1, "config.data.source is 'imagenet'; the choices are 'synthetic', 'fol"),
        ("synthetic", 0, "config.data.num_samples is 0; it must be at least 1"),
        ("folder", 1, "config.data.paths is empty"),
        (
            "folder",
            1,
            """--config.data.paths="('DIR',)", or with --config.data.source=tfds packed sets""",
        ),
    ],
)
def test_a_source_that_cannot_be_is_refused(name: str, num_samples: int, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_source(name, image_size=SIZE, num_samples=num_samples, seed=0)


def test_packed_sets_and_trees_are_one_source(tmp_path: Path) -> None:
    tree = face_trees.write_tree(tmp_path / "tree", 5)
    pack(str(tree), str(tmp_path / "set"), encoding="original")
    paths = (str(tmp_path / "set"), str(tree))
    size = face_trees.SIZE
    source = make_source("tfds", image_size=size, paths=paths, num_samples=0, seed=0)
    assert source.sizes == [5, 5]
    for packed, loose in zip(source.read(range(5)), source.read(range(5, 10)), strict=True):
        for name in ("image", "parsing_map"):
            np.testing.assert_array_equal(packed[name], loose[name])
    assert "record 0 of" in source.name(0) and source.name(5).startswith(str(tree))
