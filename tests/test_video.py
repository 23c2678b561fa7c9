"""Frames are evenly spaced from first to last, of whole videos only."""

from pathlib import Path

import numpy as np
import pytest
from golden_files import need

from fsvfm_jax.prepare import video
from fsvfm_jax.prepare.video import count_frames, read_frames, spaced_indices

cv2 = need("cv2", "prepare")
FORMATS = {"mp4": "mp4v", "mov": "mp4v", "mkv": "mp4v", "avi": "MJPG", "webm": "VP80"}


def write_video(file: Path, count: int, *, size: int = 64) -> None:
    """Writes frames whose grey level is twice their number."""
    code = cv2.VideoWriter.fourcc(*FORMATS[file.suffix[1:]])
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    writer = cv2.VideoWriter(str(file), code, 25, (size, size))
    assert writer.isOpened()
    for index in range(count):
        frame = np.full((size, size, 3), 2 * index, np.uint8)
        frame[:8, :8] = (255, 0, 0)  # blue, in OpenCV's order
        writer.write(frame)
    writer.release()


@pytest.mark.parametrize("suffix", FORMATS)
def test_frames_are_those_asked_for(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"v.{suffix}"
    write_video(file, 100)
    assert count_frames(str(file)) == 100
    frames = dict(read_frames(str(file), [0, 50, 99]))
    assert list(frames) == [0, 50, 99]
    for index, frame in frames.items():
        assert frame.shape == (64, 64, 3)
        assert abs(int(frame[40, 40, 0]) - 2 * index) < 8
        assert frame[3, 3, 2] > 150 > frame[3, 3, 0]  # blue, in ours


def test_indices_are_evenly_spaced_from_first_to_last() -> None:
    for count in (32, 33, 100, 1001):
        indices = spaced_indices(count, 32)
        assert len(set(indices)) == 32
        assert (indices[0], indices[-1]) == (0, count - 1)
        assert np.ptp(np.diff(indices)) <= 1
    assert spaced_indices(5, 32) == spaced_indices(5, None) == [0, 1, 2, 3, 4]
    assert spaced_indices(9, 1) == [0]


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "webm"])
def test_a_video_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"v.{suffix}"
    write_video(file, 100)
    content = file.read_bytes()
    for tenths in range(10):
        file.write_bytes(content[: len(content) * tenths // 10])
        with pytest.raises(ValueError):
            count_frames(str(file))


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
        b"RIFF\0\0\0\0AVI " + b"#EXTM3U\nv.avi\n",
    ],
)
@pytest.mark.parametrize("name", ["p.mp4", "p.avi"])
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    write_video(tmp_path / "v.avi", 10)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"it is no MP4|it cannot be opened"):
        count_frames(str(tmp_path / name))


def test_large_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.avi", 3)
    monkeypatch.setattr(video, "MAX_SIDE", 63)
    with pytest.raises(ValueError, match="its frames have 64 x 64 pixels"):
        count_frames(str(tmp_path / "v.avi"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        count_frames(str(tmp_path / "v.avi"))
