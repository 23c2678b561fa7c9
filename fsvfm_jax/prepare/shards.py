"""Writes the files of a packed set: shards of records, and the files by which TFDS reads it."""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from fsvfm_jax.data.set_manifest import TFDS_FILES, Shard, Split
from fsvfm_jax.errors import StorageError
from fsvfm_jax.host.hashing import sha256_of

NAME = "faces"
VERSION = "1.0.0"
# Groups of one record allow random access, and images are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"


def shard_name(split: str, index: int, count: int) -> str:
    """Returns the name of a shard in TFDS's form."""
    return f"{NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_shard(file: Path, records: Iterable[bytes]) -> Shard:
    """Writes a shard, which is complete and on the disk before it gets its name.

    Args:
        file: Path of the shard.
        records: Records, each the bytes of a `tf.Example`.

    Returns:
        The manifest's entry of the shard.

    Raises:
        StorageError: The shard cannot be written.
    """
    # Two machines of a pipeline may write the same shard at the same time.
    unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex}.unfinished")
    count = 0
    try:
        with _written(file):
            writer = ArrayRecordWriter(str(unfinished), WRITER_OPTIONS)
        try:
            for record in records:
                count += 1
                with _written(file):
                    writer.write(record)
                    if not writer.ok():
                        writer.close()  # This raises the error.
        finally:
            with _written(file):
                writer.close()
        with _written(file):
            whole = ArrayRecordReader(str(unfinished)).num_records()
            if whole != count:
                raise RuntimeError(f"{whole} of {count} records were written")
            with unfinished.open("rb") as opened:
                os.fsync(opened.fileno())
                sha256 = sha256_of(opened)
            size = unfinished.stat().st_size
            unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return Shard(file.name, count, size, sha256)


@contextlib.contextmanager
def _written(file: Path) -> Iterator[None]:
    # An ArrayRecordWriter raises a RuntimeError that contains the system's message.
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"the shard {file} cannot be written ({error}); make room or choose another folder, and"
            " give the command again: it goes on from here"
        ) from error


def tfds_files(splits: Mapping[str, Split], scratch: Path) -> dict[str, bytes]:
    """Returns the content of the files by which TFDS reads a set, by name.

    Args:
        splits: The splits by name, all with the same encoding.
        scratch: A folder for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return _tfds_files(splits, Path(folder))


def _tfds_files(splits: Mapping[str, Split], folder: Path) -> dict[str, bytes]:
    import tensorflow_datasets as tfds

    identity = tfds.core.dataset_info.DatasetIdentity(
        name=NAME, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=_features(splits.values()),
        description="Faces, with the LaPa class (0 to 10) of every pixel.",
    )
    info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        dataset_name=NAME,
        filetype_suffix="array_record",
    )
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard.count for shard in split.shards],
            num_bytes=sum(shard.bytes for shard in split.shards),
            filename_template=template,
        )
        for name, split in sorted(splits.items())
    ]
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)
    return {name: (folder / name).read_bytes() for name in TFDS_FILES}


def _features(splits: Iterable[Split]) -> Any:
    import tensorflow_datasets as tfds

    (encoding,) = {split.encoding for split in splits}
    sizes = {split.size for split in splits}
    height, width = (sizes.pop() if len(sizes) == 1 else None) or (None, None)
    image_shape, map_shape = (height, width, 3), (height, width, 1)
    if encoding == "raw":
        bare = {"dtype": np.uint8, "encoding": tfds.features.Encoding.BYTES}
        image = tfds.features.Tensor(shape=image_shape, **bare)
        parsing_map = tfds.features.Tensor(shape=map_shape, **bare)
    else:
        image_format = "jpeg" if encoding == "jpeg" else None
        image = tfds.features.Image(shape=image_shape, encoding_format=image_format)
        parsing_map = tfds.features.Image(shape=map_shape, encoding_format="png")
    fields = {"image": image, "parsing_map": parsing_map, "name": tfds.features.Text()}
    return tfds.features.FeaturesDict(fields)
