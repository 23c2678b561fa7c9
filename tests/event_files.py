"""TensorBoard's event files, read without TensorBoard."""

import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto import event_pb2


def read_events(workdir: Path) -> Iterator[event_pb2.Event]:
    """Reads all event files: records of length (8 bytes), checksum (4), event, checksum (4)."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
