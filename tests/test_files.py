"""Tests which files are read: none outside the root, and none is skipped without a report."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from fsvfm_jax.errors import ConfigError, DataError
from fsvfm_jax.prepare.files import Refusal, find_images, find_sources, hash_file


def touch(root: Path, names: Iterable[str]) -> None:
    """Makes empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(src: Path, *, root: str | None = None) -> tuple[list[str], dict[str, str]]:
    """Returns the names of sources, and the reasons of refusals by name."""
    sources, refusals = find_sources(str(src), root=root)
    return [source.name for source in sources], {one.name: one.reason for one in refusals}


def test_a_folder_is_searched_recursively_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, ["b.jpg", "sub/deep/a.PNG", "ä.webp", "v.mp4", "sub/notes.txt", "x.gif", "y"])
    names, refused = found(tmp_path)
    assert names == ["b.jpg", "sub/deep/a.PNG", "v.mp4", "ä.webp"]
    assert refused == dict.fromkeys(
        ["sub/notes.txt", "x.gif", "y"], "it is no image or video by its name"
    )


def test_a_source_knows_what_its_crops_are_called_by(tmp_path: Path) -> None:
    touch(tmp_path, ["sub/v.1.mp4", "sub/b.c.jpg"])
    image, video = find_sources(str(tmp_path))[0]
    assert (image.stem, image.is_video) == ("sub/b.c", False)
    assert (video.stem, video.is_video) == ("sub/v.1", True)


def test_one_file_is_a_source(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "b.jpg"])
    assert found(tmp_path / "a.jpg") == (["a.jpg"], {})


def test_a_list_names_files_of_its_folder_or_of_a_root(tmp_path: Path) -> None:
    touch(tmp_path, ["in/a.jpg", "in/sub/b.jpg", "in/ö.jpg"])
    (tmp_path / "in" / "list.txt").write_text("sub/b.jpg\n\n  a.jpg\r\nsub/../a.jpg\nö.jpg")
    assert found(tmp_path / "in" / "list.txt") == (["a.jpg", "sub/b.jpg", "ö.jpg"], {})
    (tmp_path / "list.txt").write_text(f"a.jpg\n{tmp_path}/in/sub/b.jpg\n")
    assert found(tmp_path / "list.txt", root=str(tmp_path / "in"))[0] == ["a.jpg", "sub/b.jpg"]


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n")
    sources, refusals = find_sources(str(tmp_path / "list.txt"))
    assert [source.name for source in sources] == ["a.png"] and refusals == []


def test_a_list_cannot_lead_out_of_its_root(tmp_path: Path) -> None:
    touch(tmp_path, ["secret.jpg", "in/a.jpg", "in2/b.jpg"])
    lines = [
        b"a.jpg",
        b"../secret.jpg",
        b"sub/../../secret.jpg",
        b"../in2/b.jpg",
        str(tmp_path / "secret.jpg").encode(),
        b"/dev/zero.jpg",
        b"a\0.jpg",
        b"\xff\xfe.jpg",
        b"missing.jpg",
        b"x" * 2000 + b".jpg",
        b"y" * 250 + b".jpg",
        b"http://127.0.0.1/a.jpg",
        b".",
        b"~/a.jpg",
        b"$HOME/a.jpg",
    ]
    (tmp_path / "in" / "list.txt").write_bytes(b"\n".join(lines))
    names, refused = found(tmp_path / "in" / "list.txt")
    assert names == ["a.jpg"]
    assert len(refused) == len(lines) - 1
    out = [name for name, reason in refused.items() if "leads out" in reason]
    assert len(out) == 5 and "the folder itself" in refused["."]
    assert refused["a\0.jpg"] == refused["x" * 1000] == "it has a NUL or over 1000 characters"


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["secret.jpg", "other/b.jpg", "in/sub/a.jpg"])
    root = tmp_path / "in"
    (root / "inside.jpg").symlink_to(root / "sub" / "a.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "out2.jpg").symlink_to("../secret.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "gone.jpg").symlink_to("gone")
    (root / "folder.jpg").symlink_to(root / "sub")
    (root / "linked").symlink_to(tmp_path / "other")
    os.mkfifo(root / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(root / "socket.jpg"))
    names, refused = found(root)
    assert names == ["inside.jpg", "sub/a.jpg"]
    assert {name for name, reason in refused.items() if "link out of" in reason} == {
        "out.jpg",
        "out2.jpg",
        "zero.jpg",
    }
    assert refused["pipe.jpg"] == refused["socket.jpg"] == "it is no regular file"
    assert refused["folder.jpg"] == "it is no regular file"
    assert {"loop.jpg", "gone.jpg", "linked"} < set(refused)


def test_names_that_crops_would_share_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "a.png", "b.jpg", "v.mp4", "v_frame_3.jpg", "v_frame_3_0.jpg"])
    names, refused = found(tmp_path)
    assert names == ["b.jpg", "v.mp4"]
    assert set(refused) == {"a.jpg", "a.png", "v_frame_3.jpg", "v_frame_3_0.jpg"}
    # Frames of a video have an additional number; a folder must not have the name of a crop.
    touch(tmp_path / "x", ["v.mp4", "v_frame_3.mp4", "b.png/c.jpg", "d/e.npy/f.jpg"])
    names, refused = found(tmp_path / "x")
    assert names == ["v.mp4", "v_frame_3.mp4"]
    assert set(refused) == {"b.png/c.jpg", "d/e.npy/f.jpg"}


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        find_sources(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nothing to read"):
        find_sources(str(tmp_path))
    touch(tmp_path, ["a.gif"])
    with pytest.raises(DataError, match=r"'a.gif': it is no image or video by its name"):
        find_sources(str(tmp_path))
    with pytest.raises(ConfigError, match="--root is for lists"):
        find_sources(str(tmp_path), root="/")


def test_images_of_a_tree(tmp_path: Path) -> None:
    touch(tmp_path, ["b.png", "sub/a.jpg", "v.mp4", "n.npy"])
    names, refused = find_images(str(tmp_path))
    assert names == ["b.png", "sub/a.jpg"]
    assert [refusal.name for refusal in refused] == ["n.npy", "v.mp4"]
    with pytest.raises(DataError, match="does not exist"):
        find_images(str(tmp_path / "images"))
    (tmp_path / "images").symlink_to("sub")
    with pytest.raises(DataError, match=r"/images is a link, and nothing is read .* through links"):
        find_images(str(tmp_path / "images"))
    with pytest.raises(DataError, match="has no PNG, JPEG, WebP, BMP or TIFF image"):
        (tmp_path / "empty").mkdir()
        find_images(str(tmp_path / "empty"))


def test_a_refusal_is_said_once(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg"])
    (tmp_path / "list.txt").write_text("a.jpg\nb.gif\nb.gif\n./b.gif\n")
    refusals = find_sources(str(tmp_path / "list.txt"))[1]
    assert refusals == [Refusal("b.gif", "it is no image or video by its name", ".gif")]


def test_hashes(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg"])
    assert hash_file(str(tmp_path / "a.jpg")).startswith("2d711642b726b044")
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        hash_file(str(tmp_path / "b.jpg"))
    with pytest.raises(ValueError, match=r"it has 1 bytes; such a file has at most 0"):
        hash_file(str(tmp_path / "a.jpg"), max_bytes=0)


def test_crops_that_would_share_a_map_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "a.png", "b.png"])
    names, refusals = find_images(str(tmp_path))
    assert names == ["b.png"] and [refusal.name for refusal in refusals] == ["a.jpg", "a.png"]
