"""TensorBoard's event files; the only file that knows its format.

`tensorboardX.SummaryWriter` writes in a thread of its own, and waits for it for ever once the disk
is full and the thread is dead. Here the same events are written at once, and an error is the
caller's.
"""

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

_SECONDS_BETWEEN_FLUSHES = 10
_RGB = 3


class Events:
    """One event file, to be closed in the end.

    Args:
        folder: Where; made if missing.
        start_step: Updates already done: what another file of the folder says of later steps is
            hidden.

    Raises:
        OSError: Of this and all methods: it cannot be written.
    """

    def __init__(self, folder: Path, *, start_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix keeps apart two runs that start within the one second in the file's name.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{start_step}"
        self._writer = RecordWriter(str(folder / name))
        self._flushed_at = time.monotonic()
        self._write(0, file_version="brain.Event:2")
        self._write(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers by name."""
        pairs = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=Summary(value=pairs))
        if time.monotonic() - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def image(self, step: int, tag: str, png: bytes, *, size: tuple[int, int]) -> None:
        """Takes a picture: a PNG file in colour, its height and width."""
        height, width = size
        image = Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=png)
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def flush(self) -> None:
        """Hands what was taken to the disk."""
        self._writer.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """The same, once and for all."""
        self._writer.close()

    def _write(self, step: int, **content: SessionLog | Summary | str) -> None:
        event = Event(wall_time=time.time(), step=step, **content)
        self._writer.write(event.SerializeToString())
