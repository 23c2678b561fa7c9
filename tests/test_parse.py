"""Tests that every crop has a map or a reason, and that a repeated stage repeats no work."""

from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.data.sources import FaceFolder
from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.average import AverageParser, average_map
from fsvfm_jax.prepare.manifest import read_lines
from fsvfm_jax.prepare.parse import Options, make_parser, maps_of_crops, parse

AVERAGE = Options(parser="average")


class Every:
    """Returns a map for every second image."""

    def __call__(
        self, names: list[str], images: list[UInt8[np.ndarray, "_H _W 3"]]
    ) -> list[UInt8[np.ndarray, "_H _W"] | str]:
        return [
            np.full(image.shape[:2], number, np.uint8) if number % 2 else f"no {name}"
            for number, (name, image) in enumerate(zip(names, images, strict=True))
        ]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Makes a tree with five crops, one of which is damaged."""
    for index, name in enumerate(["a", "b", "sub/c", "sub/d"]):
        file = tmp_path / "images" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render_face(index, image_size=32)[0]).save(file)
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    return tmp_path


def test_crops_keep_their_order_and_damaged_ones_their_reason(tree: Path) -> None:
    names = ["b.png", "bad.png", "a.png"]
    crops = [(name, (tree / "images" / name).read_bytes()) for name in names]
    lines, maps = zip(*maps_of_crops(crops, Every()), strict=True)
    assert [line["image"] for line in lines] == names
    assert [line["outcome"] for line in lines] == ["refused", "refused", "parsed"]
    assert lines[0]["reason"] == "no b.png"
    assert "cannot identify" in lines[1]["reason"]
    assert lines[2]["map"] == "a.npy"
    assert [x is None for x in maps] == [True, True, False]


@pytest.mark.e2e
def test_a_run_makes_a_folder_that_trains(tree: Path) -> None:
    counts = parse(tree, AVERAGE, processes=2, batch_size=2)
    assert counts == {"parsed": 4, "refused": 1}
    lines = list(read_lines(tree))
    assert [line["image"] for line in lines] == [
        "a.png",
        "b.png",
        "bad.png",
        "sub/c.png",
        "sub/d.png",
    ]
    stored = np.load(tree / "parsing_maps" / "sub" / "c.npy")
    assert stored.dtype == np.int8 and stored.shape == (1, 32, 32)
    (tree / "images" / "bad.png").unlink()
    faces = FaceFolder(str(tree), image_size=32)
    assert len(faces) == 4
    np.testing.assert_array_equal(faces[3]["parsing_map"], average_map(32, 32))


@pytest.mark.e2e
def test_large_crops_are_parsed_one_at_a_time(tmp_path: Path) -> None:
    """Checks 16 crops of 8 megapixels, which together would take too much memory."""
    (tmp_path / "images").mkdir()
    picture = Image.new("RGB", (4000, 2000))
    for index in range(16):
        picture.save(tmp_path / "images" / f"{index}.png", compress_level=1)
    assert parse(tmp_path, AVERAGE, processes=2) == {"parsed": 16}


@pytest.mark.e2e
def test_a_run_again_does_only_what_is_new(tree: Path) -> None:
    parse(tree, AVERAGE, processes=1)
    before = {x: x.stat().st_mtime_ns for x in tree.rglob("*.npy")}
    Image.fromarray(render_face(9, image_size=32)[0]).save(tree / "images" / "new.png")
    assert parse(tree, AVERAGE, processes=1) == {"parsed": 5, "refused": 1}
    after = {x: x.stat().st_mtime_ns for x in tree.rglob("*.npy")}
    assert set(after) - set(before) == {tree / "parsing_maps" / "new.npy"}
    assert before.items() <= after.items()


@pytest.mark.e2e
def test_another_parser_is_refused(tree: Path) -> None:
    parse(tree, AVERAGE, processes=1)
    with pytest.raises(ConfigError, match="parser was average and is import"):
        parse(tree, Options(parser="import", maps=str(tree)), processes=1)


@pytest.mark.e2e
def test_images_that_links_lead_out_to_are_refused(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "x.png"
    Image.fromarray(render_face(0, image_size=32)[0]).save(other)
    (tree / "images" / "x.png").symlink_to(other)
    parse(tree, AVERAGE, processes=1)
    lines = {line["image"]: line for line in read_lines(tree)}
    assert "it is a link out of" in lines["x.png"]["reason"]
    assert not (tree / "parsing_maps" / "x.npy").exists()


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["parsing_maps", "parsing_maps/sub"])
def test_maps_are_not_written_through_links(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    other = tmp_path_factory.mktemp("other")
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).symlink_to(other)
    with pytest.raises(DataError, match=f"{tree / name} is a link"):
        parse(tree, AVERAGE, processes=1)
    assert not list(other.iterdir())


@pytest.mark.e2e
def test_no_map_at_all_is_an_error(tree: Path) -> None:
    (tree / "maps").mkdir()
    with pytest.raises(DataError, match=r"no crop in .* got a map"):
        parse(tree, Options(parser="import", maps=str(tree / "maps")), processes=1)
    with pytest.raises(DataError, match="images does not exist"):
        parse(tree / "sub", AVERAGE, processes=1)


@pytest.mark.parametrize(
    ("options", "batch_size", "message"),
    [
        (Options(parser="import"), 1, "--parser import and --maps DIR go together"),
        (AVERAGE._replace(maps="x"), 1, "--parser import and --maps DIR go together"),
        (AVERAGE._replace(labels="celebamask19"), 1, "--labels celebamask19 is for --parser"),
        (AVERAGE, 0, "--batch-size is 0; it must be at least 1"),
    ],
)
def test_options_that_cannot_be(
    tree: Path, options: Options, batch_size: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(tree, options, processes=1, batch_size=batch_size)


def test_a_parser_by_its_name() -> None:
    assert isinstance(make_parser(AVERAGE, device="cpu", of_crops=False), AverageParser)


def half_of(tree: Path) -> Options:
    """Writes a map of half the size for each image; returns the function that imports them."""
    for index, name in enumerate(["a", "b", "sub/c", "sub/d"]):
        file = tree / "maps" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render_face(index, image_size=16)[1]).save(file)
    return Options(parser="import", maps=str(tree / "maps"))


@pytest.mark.e2e
def test_maps_of_half_the_size_are_brought_to_their_images(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tests the sizes of CelebAMask-HQ: maps of 512 x 512 for images of 1024 x 1024."""
    assert parse(tree, half_of(tree), processes=1) == {"parsed": 4, "refused": 1}
    stored = np.load(tree / "parsing_maps/sub/c.npy")
    expected = render_face(2, image_size=16)[1].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(stored, expected[None])
    (said,) = [x.getMessage() for x in caplog.records if "nearest pixels" in x.getMessage()]
    assert said.startswith(f"{tree}: 4 maps were of another size than their images")
    assert said.endswith("first a.png, resized from 16 x 16")
    (tree / "images/bad.png").unlink()
    face = FaceFolder(str(tree), image_size=32)[2]
    np.testing.assert_array_equal(face["parsing_map"], expected)


@pytest.mark.e2e
def test_a_map_of_the_whole_photograph_is_not_taken_for_a_crop(tree: Path) -> None:
    (tree / "options.json").write_text('{"detect": {"detector": "dlib"}}')
    with pytest.raises(DataError, match=r"no crop in .* got a map"):
        parse(tree, half_of(tree), processes=1)
    reasons = [line["reason"] for line in read_lines(tree)]
    assert sum("which was cut out of a photograph" in reason for reason in reasons) == 4
