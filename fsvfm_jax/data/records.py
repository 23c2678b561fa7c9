"""Packed sets: faces in the ArrayRecord files of a TFDS data set. Data workers import it.

No TensorFlow. A record is a `tf.Example` with image, parsing_map and, if the set has it, name.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import UInt8

from fsvfm_jax.data.images import decode_image, decode_map
from fsvfm_jax.data.moments import Stats, stats_of_sums
from fsvfm_jax.data.parts import Parts
from fsvfm_jax.data.set_manifest import MANIFEST_FILE, TFDS_FILES, Split, read_manifest
from fsvfm_jax.data.transforms import Face, resize_face
from fsvfm_jax.errors import DataError, in_one_line, nearest
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


class Part(NamedTuple):
    """The records of a shard that belong to the split."""

    file: str
    first: int
    count: int
    stored: int  # in the whole shard


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
        layout = _read_layout(folder, split)
        self._parts, self._shapes, self._has_name = layout
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
        return stats_of_sums(self._split.power_sums)

    def _records_of_part(self, number: int, places: Sequence[int]) -> list[Record]:
        positions = [self._parts[number].first + place for place in places]
        found = zip(positions, self._read(number, positions), strict=True)
        return [self._parse(data, number, position) for position, data in found]

    def _open_shard(self, number: int) -> ArrayRecordReader:
        part = self._parts[number]
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


def _read_layout(
    folder: Path, split: str
) -> tuple[list[Part], tuple[tuple[int, ...] | None, tuple[int, ...] | None], bool]:
    """Returns the parts, the shapes of image and map where they are stored bare, and if named."""
    if not (folder / TFDS_FILES[-1]).exists():
        unfinished = any(folder.glob(".unfinished*"))
        raise DataError(
            f"{folder} is not packed to its end: give the pack command again"
            if unfinished
            else f"{folder} is no packed set, for it has no {TFDS_FILES[-1]}; name a folder that"
            " `python -m fsvfm_jax.prepare pack` made, or the folder of a version of a TFDS data"
            " set"
        )
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(folder).info
        splits, features = info.splits, info.features
        is_array_record = info.file_format is tfds.core.FileFormat.ARRAY_RECORD
    except Exception as error:  # Damaged bytes make it raise almost anything.
        raise DataError(
            f"{' or '.join(TFDS_FILES)} in {folder} cannot be read ({in_one_line(error)});"
            " copy them anew from where they are whole, or pack the set again"
        ) from error
    if not is_array_record:
        raise DataError(f"{folder} is stored as {info.file_format}; have TFDS write array_record")
    try:
        instructions = splits[split].file_instructions
    except Exception as error:
        raise DataError(
            f"{folder} has no split {split!r} ({in_one_line(error)}); {nearest(split, splits)}"
        ) from error
    parts = [Part(str(x.filename), x.skip, x.take, x.examples_in_shard) for x in instructions]
    if not parts:
        raise DataError(f"{split!r} of {folder} holds no record")
    shapes = (_bare_shape(folder, features, "image"), _bare_shape(folder, features, "parsing_map"))
    return parts, shapes, "name" in features


def _bare_shape(folder: Path, features: Any, name: str) -> tuple[int, ...] | None:
    """None for an encoded image; the shape where the pixels themselves are stored."""
    import tensorflow_datasets as tfds

    if name not in features:
        raise DataError(f"{folder} has no feature {name}; its features are {', '.join(features)}")
    feature = features[name]
    if isinstance(feature, tfds.features.Image):
        return None
    try:
        height, width, channels = feature.shape
        is_bytes = feature._encoding is tfds.features.Encoding.BYTES
        if feature.np_dtype != np.uint8 or not is_bytes or not (height and width):
            raise ValueError("not of that type")
    except Exception as error:
        raise DataError(
            f"the feature {name} of {folder} is {feature}; it must be an Image, or a Tensor of"
            " uint8 with a fixed shape and encoding='bytes'"
        ) from error
    return (height, width, channels) if name == "image" else (height, width)


def _check_files(parts: list[Part], manifest: dict[str, Split] | None) -> list[int]:
    """Returns the sizes of the shards, which are as they should be."""
    known = {shard.file: shard for of in (manifest or {}).values() for shard in of.shards}
    sizes = []
    for part in parts:
        file = Path(part.file)
        if not file.is_file():
            raise DataError(f"the shard {file} is missing; {MEND}")
        sizes.append(file.stat().st_size)
        if manifest is None:
            continue
        shard = known.get(file.name)
        if shard is None or shard.count != part.stored:
            raise DataError(f"{file} is not as {MANIFEST_FILE} beside it says; {MEND}")
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
