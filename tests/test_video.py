"""Tests that frames are evenly spaced from the first to the last, of complete videos only."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import need
from video_files import CODECS, write_video

from fsvfm_jax.prepare import video
from fsvfm_jax.prepare.video import (
    check_seconds,
    count_frames,
    map_spaced_frames,
    read_frames,
    spaced_indices,
)

av = need("av", "prepare")


def cut_without_encoding(source: Path, target: Path, *, seconds: float) -> None:
    """Removes the beginning as `ffmpeg -ss SECONDS -c copy` does.

    The frames from the key frame before the cut are stored, but an edit list leaves them out.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is None:  # the last packet is empty
                continue
            shift = round(seconds / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            new.mux(packet)


def grey(frame: np.ndarray) -> int:
    return int(frame[40, 40, 0])


def check_frames(file: Path, count: int, *, first: int = 0) -> None:
    """Checks the number of frames and their grey levels, which begin with that of frame `first`."""
    assert count_frames(str(file)) == count
    indices = [0, count // 2, count - 1]
    frames = dict(read_frames(str(file), indices))
    assert list(frames) == indices
    for index, frame in frames.items():
        assert frame.shape == (64, 64, 3)
        assert abs(grey(frame) - 2 * (first + index)) < 8
        assert frame[3, 3, 2] > 150 > frame[3, 3, 0]  # blue


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_are_those_asked_for(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"v.{suffix}", 100)
    check_frames(tmp_path / f"v.{suffix}", 100)


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libsvtav1"])
def test_codecs_of_today(tmp_path: Path, codec: str) -> None:
    write_video(tmp_path / "v.mkv", 20, codec=codec)
    check_frames(tmp_path / "v.mkv", 20)


def test_indices_are_evenly_spaced_from_first_to_last() -> None:
    for count in (32, 33, 100, 1001):
        indices = spaced_indices(count, 32)
        assert len(set(indices)) == 32
        assert (indices[0], indices[-1]) == (0, count - 1)
        assert np.ptp(np.diff(indices)) <= 1
    assert spaced_indices(5, 32) == spaced_indices(5, None) == [0, 1, 2, 3, 4]
    assert spaced_indices(9, 1) == [0]


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_a_video_that_was_trimmed_without_encoding_is_whole(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"v.{suffix}", 100, codec="libx264")
    cut_without_encoding(tmp_path / f"v.{suffix}", tmp_path / f"cut.{suffix}", seconds=1.52)
    with av.open(str(tmp_path / f"cut.{suffix}")) as container:
        assert container.streams.video[0].frames == 100  # it stores more frames than a player shows
    check_frames(tmp_path / f"cut.{suffix}", 62, first=38)


@pytest.mark.parametrize("suffix", CODECS)
def test_spaced_frames_are_found_by_decoding_once(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / f"v.{suffix}", 50)
    check_spaced_frames(tmp_path / f"v.{suffix}", 50, monkeypatch)


def test_a_trimmed_video_is_decoded_again_for_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", 100)
    cut_without_encoding(tmp_path / "v.mp4", tmp_path / "cut.mp4", seconds=1.52)
    check_spaced_frames(tmp_path / "cut.mp4", 2 * 62, monkeypatch)


def check_spaced_frames(file: Path, decoded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks the frames against `read_frames`, and the number of frames that are decoded."""
    indices = spaced_indices(count_frames(str(file)), 7)
    expected = dict(read_frames(str(file), indices))
    seen, frames = [], video._frames

    def count(*opened: Any) -> Any:
        for frame in frames(*opened):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "_frames", count)
    found = map_spaced_frames(str(file), 7, lambda index, seconds, pixels: (index, seconds, pixels))
    assert [index for index, _, _ in found] == indices and len(seen) == decoded
    first = found[0][1]
    for index, seconds, pixels in found:
        np.testing.assert_array_equal(pixels, expected[index])
        assert seconds - first == pytest.approx(index / 25, abs=0.002)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_video_of_variable_rate_is_whole(tmp_path: Path, suffix: str) -> None:
    gaps = np.random.default_rng(0).integers(5, 300, 100)
    write_video(tmp_path / f"v.{suffix}", 100, times=np.cumsum(gaps).tolist())
    check_frames(tmp_path / f"v.{suffix}", 100)


def test_a_recording_whose_size_was_never_written_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "v.webm", 50, live="1")
    check_frames(tmp_path / "v.webm", 50)


def test_quicktime_without_ftyp(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mov", 50)
    content = (tmp_path / "v.mov").read_bytes()
    length = int.from_bytes(content[:4], "big")
    assert content[4:8] == b"ftyp"
    # The offsets in the index stay correct.
    (tmp_path / "v.mov").write_bytes(length.to_bytes(4, "big") + b"wide" + bytes(length - 8))
    with (tmp_path / "v.mov").open("ab") as file:
        file.write(content[length:])
    check_frames(tmp_path / "v.mov", 50)


def test_a_video_that_was_filmed_sideways_is_upright(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 5)
    content = (tmp_path / "v.mp4").read_bytes()
    one, upright = 0x10000, content.find(b"tkhd") + 44
    matrices = [(one, 0, 0, one), (0, one, -one, 0), (-one, 0, 0, -one), (0, -one, one, 0)]
    corners = [(3, 3), (3, 60), (60, 60), (60, 3)]  # the place of the image's blue corner
    for (a, b, c, d), (row, column) in zip(matrices, corners, strict=True):
        matrix = np.array([a, b, 0, c, d, 0, 0, 0, 0x40000000], ">i4").tobytes()
        turned = content[:upright] + matrix + content[upright + 36 :]
        (tmp_path / "t.mp4").write_bytes(turned)
        ((_, frame),) = read_frames(str(tmp_path / "t.mp4"), [0])
        assert frame[row, column, 2] > 150 > frame[row, column, 0], (row, column)


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mkv", 5, metadata={"title": "Xtitle"})
    content = (tmp_path / "v.mkv").read_bytes()
    (tmp_path / "v.mkv").write_bytes(content.replace(b"Xtitle", b"\xfftitle"))
    assert count_frames(str(tmp_path / "v.mkv")) == 5


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm", "mov"])
def test_a_video_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"v.{suffix}"
    write_video(file, 100)
    content = file.read_bytes()
    for tenths in range(10):
        file.write_bytes(content[: len(content) * tenths // 10])
        with pytest.raises(ValueError):
            count_frames(str(file))


def test_a_video_with_its_index_first_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    write_video(file, 100, movflags="faststart")
    content = file.read_bytes()
    for hundredths in range(100):
        file.write_bytes(content[: len(content) * hundredths // 100])
        with pytest.raises(ValueError):
            count_frames(str(file))


@pytest.mark.parametrize("suffix", ["avi", "mkv", "webm"])
def test_a_video_without_its_last_byte_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"v.{suffix}"
    write_video(file, 10)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"cut off: it has {len(content) - 1} of {len(content)}"):
        count_frames(str(file))


def test_a_codec_that_is_not_known_is_said_to_be_so(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 5)
    content = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(content.replace(b"avc1", b"zzzz"))
    with pytest.raises(ValueError, match="has a codec that FFmpeg does not know"):
        count_frames(str(tmp_path / "v.mp4"))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="it has no stream of video"):
        count_frames(str(tmp_path / "v.mp4"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nv.avi\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile v.avi\n",
        b"[playlist]\nFile1=v.avi\nNumberOfEntries=1\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>",
        b"http://127.0.0.1/v.mp4\n",
        b"GIF89a" + bytes(100),
        b"\0\0\0\x1cftypisom" + bytes(100),
        b"\x1aE\xdf\xa3" + bytes(100),
        b"\x1aE\xdf\xa3\x18\x53\x80\x67",
        b"\x1aE\xdf\xa3\x18\x53\x80\x67\0",
        b"RIFF\0\0\0\0AVI " + b"#EXTM3U\nv.avi\n",
    ],
)
@pytest.mark.parametrize("name", ["p.mp4", "p.avi"])
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    write_video(tmp_path / "v.avi", 10)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"it is no MP4|it cannot be decoded|no stream of video"):
        count_frames(str(tmp_path / name))


def test_a_video_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests a QuickTime file whose index refers to frames in another file."""
    write_video(tmp_path / "v.mov", 10)
    content = (tmp_path / "v.mov").read_bytes()
    alias = b"file:///" + str(tmp_path / "secret.mov").encode()[1:] + b"\0"
    own = b"\0\0\0\x0curl \0\0\0\x01"
    assert own in content
    other = (len(alias) + 12).to_bytes(4, "big") + b"url \0\0\0\0" + alias
    (tmp_path / "v.mov").write_bytes(content.replace(own, other))
    (tmp_path / "secret.mov").write_bytes(content)
    opened = []
    real = video.open_plain

    def record(path: str, *, max_bytes: int) -> Any:
        opened.append(path)
        return real(path, max_bytes=max_bytes)

    monkeypatch.setattr(video, "open_plain", record)
    os.utime(tmp_path / "secret.mov", ns=(0, 0))
    with pytest.raises(ValueError):
        count_frames(str(tmp_path / "v.mov"))
    assert set(opened) == {str(tmp_path / "v.mov")}


def test_damaged_videos_are_read_or_refused(tmp_path: Path) -> None:
    chosen = random.Random(0)
    for suffix in ("mp4", "mov", "mkv", "webm", "avi"):
        write_video(tmp_path / f"v.{suffix}", 10)
        content = (tmp_path / f"v.{suffix}").read_bytes()
        for _ in range(20):
            damaged = bytearray(content)
            reach = chosen.choice((64, 600, len(content)))
            for _ in range(chosen.choice((1, 10, 100))):
                damaged[chosen.randrange(min(reach, len(content)))] = chosen.randrange(256)
            (tmp_path / "d.bin").write_bytes(damaged)
            try:
                count = count_frames(str(tmp_path / "d.bin"))
                assert all(
                    x.dtype == np.uint8 for _, x in read_frames(str(tmp_path / "d.bin"), [0])
                )
                assert count > 0
            except ValueError as error:
                assert "\n" not in str(error)


def test_large_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.avi", 3)
    monkeypatch.setattr(video, "MAX_SIDE", 63)
    with pytest.raises(ValueError, match="its frames have 64 x 64 pixels"):
        count_frames(str(tmp_path / "v.avi"))


def test_too_many_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.avi", 6)
    monkeypatch.setattr(video, "MAX_FRAMES", 5)
    with pytest.raises(ValueError, match="it has over 5 frames"):
        count_frames(str(tmp_path / "v.avi"))


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.avi", 6)
    monkeypatch.setattr(video, "MAX_VIDEO_PIXELS", 5 * 64 * 64)
    with pytest.raises(ValueError, match="its frames have over 20,480 pixels together"):
        count_frames(str(tmp_path / "v.avi"))


def test_a_frame_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "v.avi", 3)
    with pytest.raises(ValueError, match="frame 7 cannot be decoded"):
        list(read_frames(str(tmp_path / "v.avi"), [1, 7]))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        count_frames(str(tmp_path / "v.avi"))


def test_a_pipe_and_a_file_beyond_all_size_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="it is a named pipe"):
        count_frames(str(tmp_path / "pipe.mp4"))
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(video.MAX_VIDEO_BYTES + 1)
    with pytest.raises(ValueError, match="it has 68,719,476,737 bytes"):
        count_frames(str(tmp_path / "large.mp4"))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_long_video_is_refused_by_the_times_of_its_frames(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    write_video(file, 3, times=(0, 40, 10 * 3_600_000))
    with pytest.raises(ValueError, match="it is longer than 60 s"):
        check_seconds(str(file), 60)
    check_seconds(str(file), 36_000)
