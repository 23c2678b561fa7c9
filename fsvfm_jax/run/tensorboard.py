"""Writes TensorBoard's event files; only this module uses their format.

`tensorboardX.SummaryWriter` writes in a thread of its own, and waits for it forever if the thread
died because the disk was full. This module writes the same events at once and raises errors to the
caller.
"""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def _without(*modules: str) -> Iterator[None]:
    """Makes imports of modules fail in the `with` block, except of those that are loaded."""
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# tensorboardX imports these if they are installed. It takes seconds, and nothing here needs them.
with _without("torch", "boto3", "google.cloud.storage"):
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

_SECONDS_BETWEEN_FLUSHES = 10
_RGB = 3


class Events:
    """One event file, which must be closed at the end.

    Args:
        folder: Folder of the file; made if it is missing.
        start_step: Number of updates already done. TensorBoard hides the values of later steps in
            the folder's other files.

    Raises:
        OSError: The file cannot be written; all methods raise it too.
    """

    def __init__(self, folder: Path, *, start_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The suffix separates two runs that start within the second in the file's name.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{start_step}"
        self._writer = RecordWriter(str(folder / name))
        self._flushed_at = time.monotonic()
        self._write(0, file_version="brain.Event:2")
        self._write(start_step + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers by their names.

        Args:
            step: Number of updates done.
            values: The numbers.
        """
        pairs = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step, summary=Summary(value=pairs))
        if time.monotonic() - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def image(self, step: int, tag: str, png: bytes, *, size: tuple[int, int]) -> None:
        """Adds a picture.

        Args:
            step: Number of updates done.
            tag: Name of the picture.
            png: A PNG file in colour.
            size: Height and width in pixels.
        """
        height, width = size
        image = Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=png)
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=image)]))

    def flush(self) -> None:
        """Writes the added values to the disk."""
        self._writer.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Writes the added values to the disk and closes the file."""
        self._writer.close()

    def _write(self, step: int, **content: SessionLog | Summary | str) -> None:
        event = Event(wall_time=time.time(), step=step, **content)
        self._writer.write(event.SerializeToString())
