"""Reads `features.json` and `dataset_info.json`, which describe a packed set.

This module reads both files as data and does not pass them to TFDS, because TFDS imports the module
that a `pythonClassName` names, so that a set could run code of its own. Such a set is refused,
since other programs open it with TFDS. The only part of TFDS used here is the arithmetic of splits,
with values that were checked before. Data workers import this module.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from fsvfm_jax.data.set_manifest import TFDS_FILES, find_file
from fsvfm_jax.errors import DataError, in_one_line, nearest, reason_of
from fsvfm_jax.host.json_files import MAX_JSON_BYTES, parse_json
from fsvfm_jax.host.plain_files import read_plain

FILE_FORMAT = "array_record"
_WANTED = (
    "name a folder that `python -m fsvfm_jax.prepare pack` made, or the folder of a version of a"
    " TFDS data set"
)
_PACKAGE = "tensorflow_datasets.core.features."
_DICT, _IMAGE, _TENSOR, _LABELED_IMAGE = (
    _PACKAGE + name
    for name in (
        "features_dict.FeaturesDict",
        "image_feature.Image",
        "tensor_feature.Tensor",
        "labeled_image.LabeledImage",
    )
)
# The classes that `prepare pack` writes, and those that people add to a face.
FEATURE_CLASSES = (
    _DICT,
    _IMAGE,
    _TENSOR,
    _PACKAGE + "scalar.Scalar",
    _PACKAGE + "text_feature.Text",
    _PACKAGE + "class_label_feature.ClassLabel",
    _PACKAGE + "bounding_boxes.BBoxFeature",
    _LABELED_IMAGE,
    _PACKAGE + "sequence_feature.Sequence",
)
# Protocol buffers in JSON have two spellings of each key; TFDS before version 4.3 used a third.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")

# Protocol buffers in JSON write 64-bit integers as strings.
_Count = (
    Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    | Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,12}\Z")]
)
# The length of a side in pixels; -1 is any length.
_Side = (
    Annotated[int, msgspec.Meta(ge=-1, le=2**20)]
    | Annotated[str, msgspec.Meta(pattern=r"\A(-1|[0-9]{1,6})\Z")]
)
_FEW = msgspec.Meta(max_length=100)  # splits, or features


class _Shape(msgspec.Struct):
    dimensions: list[_Side] = []


class _Tensor(msgspec.Struct):
    dtype: str = ""
    encoding: str = ""
    shape: _Shape = msgspec.field(default_factory=_Shape)


class _Feature(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The fields of TFDS's `Feature`, without those of classes that are not in FEATURE_CLASSES.

    `jsonFeature` is left out, too: TFDS reads features of any class from its text.
    """

    python_class_name: str
    description: str = ""
    value_range: str = ""
    features_dict: "_FeaturesDict | None" = None
    sequence: "_Sequence | None" = None
    tensor: _Tensor = msgspec.field(default_factory=_Tensor)
    # These fields cannot contain a feature, and their values are not needed here.
    image: dict = {}
    class_label: dict = {}
    bounding_box: dict = {}
    text: dict = {}


class _FeaturesDict(msgspec.Struct, forbid_unknown_fields=True):
    features: Annotated[dict[Annotated[str, msgspec.Meta(max_length=100)], _Feature], _FEW] = {}


class _Sequence(msgspec.Struct, forbid_unknown_fields=True):
    feature: _Feature
    length: int | str = -1


class _Features(_Feature, rename="camel", forbid_unknown_fields=True, kw_only=True):
    features_dict: _FeaturesDict


class _Split(msgspec.Struct, rename="camel"):
    name: Annotated[str, msgspec.Meta(pattern=r"\A[\w-]+\Z", max_length=100)]
    shard_lengths: list[_Count] = []
    filepath_template: Annotated[
        str,
        msgspec.Meta(
            pattern=r"\A([\w.-]|\{(DATASET|SPLIT|FILEFORMAT|SHARD_X_OF_Y|SHARD_INDEX|NUM_SHARDS)\})"
            r"*\Z",
            max_length=200,
        ),
    ] = ""


class _Info(msgspec.Struct, rename="camel"):
    name: Annotated[str, msgspec.Meta(pattern=r"\A\w[\w.-]*\Z", max_length=100)]
    splits: Annotated[list[_Split], _FEW]
    file_format: str = "tfrecord"  # the default of TFDS


class Part(NamedTuple):
    """The records of a shard that belong to a split.

    Attributes:
        file: Path of the shard.
        first: Index of the first record.
        count: Number of records.
        stored: Number of records in the whole shard.
    """

    file: str
    first: int
    count: int
    stored: int


class SetLayout(NamedTuple):
    """How the records of a set are stored.

    Attributes:
        folder: Folder of the set.
        splits: The splits by name.
        name: Name of the data set in TFDS.
        features: The features of a record by name.
    """

    folder: Path
    splits: dict[str, _Split]
    name: str
    features: dict[str, _Feature]

    def parts(self, split: str) -> list[Part]:
        """Returns where the records of a split, or of a part of one, are stored.

        Args:
            split: A split in the notation of TFDS, such as "train[:90%]".

        Raises:
            DataError: There is no such split, or it has no record.
        """
        from tensorflow_datasets.core import naming, splits  # Importing TFDS takes a second.

        try:
            infos = [
                splits.SplitInfo(
                    name=one.name,
                    shard_lengths=[int(length) for length in one.shard_lengths],
                    num_bytes=0,
                    filename_template=naming.ShardedFileTemplate(
                        data_dir=self.folder,
                        template=one.filepath_template,
                        dataset_name=self.name,
                        split=one.name,
                        filetype_suffix=FILE_FORMAT,
                    ),
                )
                for one in self.splits.values()
            ]
            found = splits.SplitDict(infos)[split].file_instructions
        except Exception as error:  # The notation of splits has many ways to be wrong.
            raise DataError(
                f"{self.folder} has no split {split!r} ({in_one_line(error)});"
                f" {nearest(split, self.splits)}"
            ) from error
        if not found:
            raise DataError(f"{split!r} of {self.folder} holds no record")
        return [Part(str(x.filename), x.skip, x.take, x.examples_in_shard) for x in found]

    def bare_shape(self, name: str) -> tuple[int, ...] | None:
        """Returns the shape of a feature stored as raw pixels, or None for an encoded image.

        Args:
            name: Name of the feature: "image", or one with a single channel such as "parsing_map".

        Raises:
            DataError: There is no such feature, or it is stored in another way.
        """
        if name not in self.features:
            raise DataError(
                f"{self.folder} has no feature {name}; its features are {', '.join(self.features)}"
            )
        feature = self.features[name]
        if feature.python_class_name in (_IMAGE, _LABELED_IMAGE):
            return None
        shape = tuple(int(length) for length in feature.tensor.shape.dimensions)
        is_bytes = feature.tensor.dtype == "uint8" and feature.tensor.encoding == "bytes"
        if feature.python_class_name != _TENSOR or not is_bytes or not _is_fixed(shape, name):
            raise DataError(
                f"the feature {name} of {self.folder} is {feature.python_class_name} of"
                f" {feature.tensor.dtype or 'no dtype'} {list(shape)}; it must be an Image, a"
                " LabeledImage, or a Tensor of uint8 with a fixed shape and encoding='bytes'"
            )
        return shape if name == "image" else shape[:2]


def read_layout(folder: Path) -> SetLayout:
    """Returns how the records of a set are stored.

    Raises:
        DataError: The folder is not a packed set, one of TFDS_FILES cannot be read, or a feature
            has a class that is not in FEATURE_CLASSES.
    """
    if not folder.exists():
        raise DataError(f"{folder} does not exist; {_WANTED}")
    if not (folder / TFDS_FILES[-1]).exists():
        unfinished = any(folder.glob(".unfinished*"))
        raise DataError(
            f"{folder} is not packed to its end: give the pack command again"
            if unfinished
            else f"{folder} is no packed set, for it has no {TFDS_FILES[-1]}; {_WANTED}"
        )
    features = _read(folder, TFDS_FILES[0], _Features)
    info = _read(folder, TFDS_FILES[1], _Info)
    if info.file_format != FILE_FORMAT:
        raise DataError(f"{folder} is stored as {info.file_format}; have TFDS write {FILE_FORMAT}")
    splits = {split.name: split for split in info.splits}
    return SetLayout(folder, splits, info.name, features.features_dict.features)


def _read(folder: Path, name: str, schema: Any) -> Any:
    file = find_file(folder, name)
    try:
        text = read_plain(file, max_bytes=MAX_JSON_BYTES)
        everything = parse_json(text, Any)
        if schema is _Features:
            _check_classes(file, everything)
        return parse_json(text, schema)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise DataError(
            f"{file} cannot be read ({reason}); copy it anew from where it is whole, or pack the"
            " set again"
        ) from error


def _check_classes(file: Path, everything: Any) -> None:
    """Raises DataError if a feature at any depth has a class that is not known to be harmless."""
    waiting = [everything]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for key in _CLASS_KEYS:
                name = value.get(key)
                if isinstance(name, str) and name not in FEATURE_CLASSES:
                    raise DataError(
                        f"{file} names the class {name[:100]!r}, and a set may use only TFDS's own"
                        f" {_short_names()}, since a program that opens the set by TFDS runs the"
                        " code of any other; write the set without that feature"
                    )


def _short_names() -> str:
    return ", ".join(name.rpartition(".")[2] for name in FEATURE_CLASSES)


def _is_fixed(shape: tuple[int, ...], name: str) -> bool:
    channels = 3 if name == "image" else 1
    return len(shape) == 3 and shape[2] == channels and min(shape) > 0
