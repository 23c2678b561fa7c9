"""Packed sets: faces in the ArrayRecord files of a TFDS data set. Data workers import it.

No TensorFlow. A record is a `tf.Example` with image, parsing_map and, if the set has it, name.
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

# Random access: nothing is read ahead, and the threads are the caller's.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
READER_BUFFER = 32768  # bytes
# Of each set; a process may usually have 1,024 files open.
MAX_OPEN_SHARDS = 64
MEND = (
    "copy the file anew from where it is whole, or remove it and give the pack command again;"
    " `python -m fsvfm_jax.prepare check` lists all that is damaged"
)


class Record(NamedTuple):
    """What is stored of a face."""

    image: bytes
    parsing_map: bytes
    name: str


class FaceRecords:
    """One split of a packed set.

    At construction the shards' presence and sizes are looked at, not their content: each record has
    a checksum, which is compared when it is read. Files are opened when they are needed, and anew
    in every process an object is sent to. Threads may share an object.

    Args:
        path: The set's folder, with dataset_info.json.
        image_size: Side of every face returned, in pixels.
        split: "train", "val", ..., or a part of one as TFDS writes it, such as "train[:90%]".

    Raises:
        DataError: At construction, if the set is not there, is no such set, or a file is missing or
            of another size than it was written with; at reading, if a record is damaged.
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
        """Returns the faces in the order asked for, with one read per shard."""
        pairs = map(self.decode, indices, self.records(indices))
        return [resize_face(*pair, image_size=self._image_size) for pair in pairs]

    def records(self, indices: Sequence[int]) -> list[Record]:
        """Returns what is stored of these faces, with one read per shard."""
        return self._places.read(indices, self._records_of_part)

    def decode(
        self, index: int, record: Record
    ) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """Returns a face's image and parsing map in the size they are stored in.

        Raises:
            DataError: They cannot be decoded, or their sizes differ.
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
        """Reads and decodes one face, in the size it is stored in."""
        return self.decode(index, self.records([index])[0])

    @property
    def shards(self) -> list[str]:
        """The files that hold its records."""
        return [part.file for part in self._parts]

    def name(self, index: int) -> str:
        """What it was called when it was packed, and which record it is."""
        part, within = self._places.locate(index)
        position = self._parts[part].first + within
        place = f"record {position} of {self._parts[part].file}"
        try:
            return f"{self.records([index])[0].name} ({place})" if self._has_name else place
        except DataError:  # It is damaged.
            return place

    def fingerprint(self) -> str:
        """SHA-256 of the shards' hashes; without a manifest, of their names and sizes."""
        return self._fingerprint

    def stats(self) -> Stats | None:
        """Mean and standard deviation of all pixels, exact, as they were summed when packing.

        None where they are not those of the faces returned: there is no manifest, the split is a
        part of one, or the faces are stored in another size.
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
        find_file(file.parent, file.name)  # It may be another since, and opening a pipe waits.
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
            if len(positions) > 1:  # Which one?
                return [self._read(number, [position])[0] for position in positions]
            raise DataError(
                f"record {positions[0]} of {self._parts[number].file} is damaged"
                f" ({in_one_line(error)}); {MEND}"
            ) from error

    def _parse(self, data: bytes, part: int, position: int) -> Record:
        # Not before it is needed: this takes as long as Grain's workers do to start.
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
    """Returns the sizes of the shards, which are as they should be."""
    known = {shard.file: shard for of in (manifest or {}).values() for shard in of.shards}
    sizes = []
    for part in parts:
        file = Path(part.file)
        if not os.path.exists(file):  # nor if its name is too long
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
