"""Reads packed sets: faces in the ArrayRecord files of a TFDS data set.

Data workers import this module, so it does not import TensorFlow. A record is a `tf.Example` with
image, parsing_map and, in some sets, name.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import UInt8

from fsvfm_jax.data.images import Face, decode_image, decode_map, resize_face
from fsvfm_jax.data.moments import Stats
from fsvfm_jax.data.parts import Parts
from fsvfm_jax.data.set_layout import Part, read_layout
from fsvfm_jax.data.set_manifest import SET_MANIFEST, Split, find_file, read_manifest
from fsvfm_jax.errors import DataError, in_one_line
from fsvfm_jax.regions import NUM_CLASSES

# Access is random, so nothing is read ahead, and the reader starts no threads of its own.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
READER_BUFFER = 32768  # bytes
# The limit holds per set; a process may usually have 1,024 files open.
MAX_OPEN_SHARDS = 64
MEND = (
    "copy the file anew from where it is whole, or remove it and give the pack command again;"
    " `python -m fsvfm_jax.prepare check` lists all that is damaged"
)


class Record(NamedTuple):
    """The stored bytes and the name of a face."""

    image: bytes
    parsing_map: bytes
    name: str


class FaceRecords:
    """Reads one split of a packed set.

    The constructor checks that the shards exist and have the right sizes, but does not read them.
    Each record has a checksum, which is compared when the record is read. A file is opened when it
    is needed, separately in every process that receives the object. Threads may share the object.

    Args:
        path: Folder of the set, with dataset_info.json.
        image_size: Side of every returned face in pixels.
        split: "train", "val", ..., or a part of one in the notation of TFDS, such as "train[:90%]".

    Raises:
        DataError: At construction, if the set is missing, is not such a set, or a file is missing
            or has a different size than when it was written; at reading, if a record is damaged.
    """

    def __init__(self, path: str, *, image_size: int, split: str = "train"):
        folder = Path(path)
        manifest = read_manifest(folder)
        layout = read_layout(folder)
        self._parts = layout.parts(split)
        self._shapes = layout.bare_shape("image"), layout.bare_shape("parsing_map")
        self._has_name = "name" in layout.features
        self._image_size = image_size
        self._split = manifest and manifest.get(split)
        sizes = _check_files(self._parts, manifest)
        self._fingerprint = _fingerprint(self._parts, sizes, manifest)
        self._places = Parts([part.count for part in self._parts])
        self._open = functools.lru_cache(MAX_OPEN_SHARDS)(self._open_shard)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Face:
        return self.read([index])[0]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = functools.lru_cache(MAX_OPEN_SHARDS)(self._open_shard)

    def read(self, indices: Sequence[int]) -> list[Face]:
        """Returns the faces in the order of the indices, with one read per shard."""
        pairs = map(self.decode, indices, self.records(indices))
        return [resize_face(*pair, image_size=self._image_size) for pair in pairs]

    def records(self, indices: Sequence[int]) -> list[Record]:
        """Returns the stored records of these faces, with one read per shard."""
        return self._places.read(indices, self._records_of_part)

    def decode(
        self, index: int, record: Record
    ) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """Returns a face's image and parsing map in their stored size.

        Args:
            index: Index of the face, for the error message.
            record: The stored record of the face.

        Raises:
            DataError: The image or the map cannot be decoded, or their sizes differ.
        """
        image_shape, map_shape = self._shapes
        try:
            if image_shape is None:
                image = decode_image(record.image)
            else:
                image = np.frombuffer(record.image, np.uint8).reshape(image_shape)
            if map_shape is None:
                parsing_map = decode_map(record.parsing_map)
            else:
                parsing_map = np.frombuffer(record.parsing_map, np.uint8).reshape(map_shape)
                if parsing_map.max(initial=0) >= NUM_CLASSES:
                    raise ValueError(f"its map holds class {parsing_map.max()}")
            if image.shape[:2] != parsing_map.shape:
                raise ValueError(
                    "{} x {} pixels, and a parsing map of {} x {}".format(
                        *image.shape[:2], *parsing_map.shape
                    )
                )
        except ValueError as error:
            raise DataError(f"{self.name(index)}: {error}; pack the set again") from error
        return image, parsing_map

    def decoded(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """Reads and decodes one face in its stored size."""
        return self.decode(index, self.records([index])[0])

    @property
    def shards(self) -> list[str]:
        """The files that contain the records."""
        return [part.file for part in self._parts]

    def name(self, index: int) -> str:
        """Returns the name that the face had when it was packed, and the place of its record."""
        part, within = self._places.locate(index)
        position = self._parts[part].first + within
        place = f"record {position} of {self._parts[part].file}"
        try:
            return f"{self.records([index])[0].name} ({place})" if self._has_name else place
        except DataError:  # The record is damaged.
            return place

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the shards' hashes; if no manifest exists, of names and sizes."""
        return self._fingerprint

    def stats(self) -> Stats | None:
        """Returns the exact mean and standard deviation of all pixels, which packing summed up.

        Returns None if they differ from those of the returned faces or are not known: without a
        manifest, for a part of a split, and if the stored faces have another size.
        """
        size = (self._image_size, self._image_size)
        if self._split is None or self._split.size != size:
            return None
        return self._split.stats()

    def _records_of_part(self, number: int, places: Sequence[int]) -> list[Record]:
        positions = [self._parts[number].first + place for place in places]
        found = zip(positions, self._read(number, positions), strict=True)
        return [self._parse(data, number, position) for position, data in found]

    def _open_shard(self, number: int) -> ArrayRecordReader:
        part = self._parts[number]
        file = Path(part.file)
        # The file may have been replaced since the constructor, and opening a pipe would wait.
        find_file(file.parent, file.name)
        try:
            reader = ArrayRecordReader(
                part.file, READER_OPTIONS, file_reader_buffer_size=READER_BUFFER
            )
            count = reader.num_records()
        except Exception as error:  # Damaged bytes make a reader raise almost anything.
            raise DataError(
                f"the shard {part.file} cannot be opened ({in_one_line(error)}); {MEND}"
            ) from error
        if count != part.stored:
            raise DataError(
                f"the shard {part.file} holds {count} records instead of {part.stored}; {MEND}"
            )
        return reader

    def _read(self, number: int, positions: Sequence[int]) -> list[bytes]:
        reader = self._open(number)
        try:
            return reader.read(positions)
        except Exception as error:
            if len(positions) > 1:  # Reading one by one finds the damaged record.
                return [self._read(number, [position])[0] for position in positions]
            raise DataError(
                f"record {positions[0]} of {self._parts[number].file} is damaged"
                f" ({in_one_line(error)}); {MEND}"
            ) from error

    def _parse(self, data: bytes, part: int, position: int) -> Record:
        # The import waits until here because it takes as long as starting Grain's workers.
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            features = tf_example_pb2.Example.FromString(data).features.feature
            image, parsing_map, *name = [
                features[key].bytes_list.value[0]
                for key in ("image", "parsing_map", "name")[: 3 if self._has_name else 2]
            ]
        except Exception as error:
            raise DataError(
                f"record {position} of {self._parts[part].file} is no tf.Example with image and"
                f" parsing_map ({in_one_line(error)}); pack the set again"
            ) from error
        return Record(image, parsing_map, name[0].decode(errors="replace") if name else "")


def _check_files(parts: list[Part], manifest: dict[str, Split] | None) -> list[int]:
    """Returns the sizes of the shards in bytes after checking them against the manifest."""
    known = {shard.file: shard for of in (manifest or {}).values() for shard in of.shards}
    sizes = []
    for part in parts:
        file = Path(part.file)
        if not os.path.exists(file):  # A name that is too long is missing, too.
            raise DataError(f"the shard {file} is missing; {MEND}")
        sizes.append(find_file(file.parent, file.name).stat().st_size)
        if manifest is None:
            continue
        shard = known.get(file.name)
        if shard is None or shard.count != part.stored:
            raise DataError(f"{file} is not as {SET_MANIFEST} beside it says; {MEND}")
        if shard.bytes != sizes[-1]:
            raise DataError(
                f"the shard {file} has {sizes[-1]} bytes instead of {shard.bytes}; {MEND}"
            )
    return sizes


def _fingerprint(parts: list[Part], sizes: list[int], manifest: dict[str, Split] | None) -> str:
    known = {shard.file: shard for of in (manifest or {}).values() for shard in of.shards}
    digest = hashlib.sha256()
    for part, size in zip(parts, sizes, strict=True):
        name = Path(part.file).name
        content = known[name].sha256 if name in known else f"{name} {size}"
        digest.update(f"{content} {part.first} {part.count}\n".encode())
    return digest.hexdigest()
