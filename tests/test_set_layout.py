"""Tests that TFDS's files of a set are read as data, and that no code of a set runs."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import face_trees
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.set_layout import FEATURE_CLASSES, read_layout
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.pack import pack

SIZE = face_trees.SIZE
PROJECT = Path(__file__).parent.parent
# The module records that it was imported, and its class is a usable feature.
MODULE = """
import pathlib
pathlib.Path({marker!r}).touch()
from tensorflow_datasets.core.features.text_feature import Text
class Feature(Text):
    pass
"""


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Packs a set of two shards without a manifest, which would detect any change."""
    tree = face_trees.write_tree(tmp_path / "tree", 5)
    pack(str(tree), str(tmp_path / "set"), shard_records=3)
    (tmp_path / "set" / "manifest.json").unlink()
    return tmp_path / "set"


def change(file: Path, at: Callable[[dict], Any], **values: Any) -> None:
    """Sets values in a part of a JSON file."""
    content = json.loads(file.read_text())
    at(content).update(values)
    file.write_text(json.dumps(content))


def features(content: dict) -> dict:
    """Returns the features of the top level."""
    return content["featuresDict"]["features"]


def test_the_classes_allowed_are_those_of_tfds() -> None:
    names = ["FeaturesDict", "Image", "Tensor", "Scalar", "Text", "ClassLabel", "BBoxFeature"]
    classes = [getattr(tfds.features, name) for name in (*names, "LabeledImage", "Sequence")]
    assert list(FEATURE_CLASSES) == [f"{one.__module__}.{one.__name__}" for one in classes]


def test_the_layout_is_what_tfds_reads(packed: Path) -> None:
    info = tfds.builder_from_directory(packed).info
    layout = read_layout(packed)
    for split in ("train", "train[1:4]", "train[:50%]", "all", "train[:2]+train[4:]"):
        theirs = info.splits[split].file_instructions
        assert layout.parts(split) == [
            (str(x.filename), x.skip, x.take, x.examples_in_shard) for x in theirs
        ]
    assert list(layout.splits) == list(info.splits)
    assert sorted(layout.features) == sorted(info.features)


def extra(name: str) -> dict:
    """Returns a feature of a class."""
    return {"pythonClassName": name, "text": {}}


PLACES = {
    "top": lambda content: content.update(pythonClassName="evil.Feature"),
    "image": lambda content: features(content)["image"].update(pythonClassName="evil.Feature"),
    "other": lambda content: features(content).update(extra=extra("evil.Feature")),
    "other spelling": lambda content: features(content).update(
        extra={"python_class_name": "evil.Feature", "text": {}}
    ),
    "before version 4.3": lambda content: content.update(type="evil.Feature", content={}),
    "deep": lambda content: features(content).update(extra=in_sequence(extra("evil.Feature"))),
    "module of TFDS": lambda content: features(content).update(
        extra=extra("tensorflow_datasets.scripts.cli.main.Feature")
    ),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_other_classes_are_refused_at_every_depth(
    packed: Path, place: Callable[[dict], Any]
) -> None:
    content = json.loads((packed / "features.json").read_text())
    place(content)
    (packed / "features.json").write_text(json.dumps(content))
    name = r"'(evil|tensorflow_datasets\.scripts\.cli\.main)\.Feature'"
    with pytest.raises(DataError, match=rf"names the class {name}, .* write the set without that"):
        read_layout(packed)


def in_text(key: str, module: str) -> dict:
    """Returns a Sequence whose feature is JSON in a text."""
    inner = {"feature": {"type": f"{module}.Feature", "content": {}}, "length": 3}
    return {"pythonClassName": FEATURE_CLASSES[-1], key: {"json": json.dumps(inner)}}


def in_older_text(module: str) -> dict:
    """Returns features as TFDS wrote them before version 4.3, with a protocol buffer as text."""
    inner = json.dumps({"features": {"x": extra(f"{module}.Feature")}})
    names = {"type": FEATURE_CLASSES[0], "proto_cls": "tensorflow_datasets.FeaturesDict"}
    return {**names, "content": inner}


def in_sequence(feature: dict) -> dict:
    """Returns a Sequence of a feature."""
    return {"pythonClassName": FEATURE_CLASSES[-1], "sequence": {"feature": feature}}


# Changes of `features.json` by place; each takes the name of a module.
HIDDEN = {
    "jsonFeature": (features, lambda module: {"extra": in_text("jsonFeature", module)}),
    "json_feature": (features, lambda module: {"extra": in_text("json_feature", module)}),
    "deep": (features, lambda module: {"extra": in_sequence(in_text("jsonFeature", module))}),
    "proto_cls": (lambda content: content, in_older_text),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_classes_in_texts_are_refused(
    packed: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests texts that TFDS parses as JSON, whose class it then imports."""
    marker, module = packed.parent / "ran", f"evil_{list(HIDDEN).index(place)}"
    (packed / f"{module}.py").write_text(MODULE.format(marker=str(marker)))
    at, changes = HIDDEN[place]
    change(packed / "features.json", at, **changes(module))
    with pytest.raises(DataError, match=r"features\.json cannot be read \(.* unknown field `"):
        read_layout(packed)
    assert not marker.exists()
    monkeypatch.syspath_prepend(packed)
    with contextlib.suppress(Exception):  # A Sequence of evil.Feature may be refused in the end.
        tfds.builder_from_directory(packed)
    assert marker.exists()  # The attack works with TFDS.


def test_features_of_all_classes_allowed_are_read(packed: Path) -> None:
    named = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "parsing_map": tfds.features.LabeledImage(labels=11, encoding_format="png"),
            "box": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["real", "fake"]),
            "name": tfds.features.Text(doc="a name"),
            "score": tfds.features.Scalar(np.float32, doc=tfds.features.Documentation("x", "0-1")),
            "points": tfds.features.Sequence(
                {"xy": tfds.features.Tensor(shape=(2,), dtype=np.float32)}
            ),
            "five": tfds.features.Sequence(tfds.features.Text(), length=5),
            "more": {"type": tfds.features.Tensor(shape=(None, 3), dtype=np.uint8)},
        }
    )
    named.save_config(packed)
    layout = read_layout(packed)
    assert set(layout.features) == set(named)
    assert layout.bare_shape("parsing_map") is None and layout.bare_shape("image") is None


COMMANDS = {
    "check": ["fsvfm_jax.prepare", "check", "SET"],
    "train": [
        "fsvfm_jax.main",
        f"--config={PROJECT}/configs/vit_s.py:smoke",
        "--config.data.source=tfds",
        "--config.data.paths=('SET',)",
        "--workdir=RUN",
        "--check",
    ],
    "masks": ["fsvfm_jax.visualize", "masks", "--output", "RUN.png", "SET"],
}


@pytest.mark.e2e
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_module_beside_the_shards_never_runs(packed: Path, command: list[str]) -> None:
    """Puts it where Python would find it: the set's folder is current and on the search path."""
    folder, marker = packed.parent, packed.parent / "ran"
    for place in (folder, packed):
        (place / "evil.py").write_text(MODULE.format(marker=str(marker)))
    change(packed / "features.json", features, name=extra("evil.Feature"))
    change(packed / "dataset_info.json", lambda info: info, moduleName="evil")
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{packed}"}
    arguments = [
        str(packed) if one == "SET" else one.replace("SET", str(packed)) for one in command
    ]
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert not marker.exists()
    assert done.returncode in (65, 78), done.stderr
    assert "Traceback" not in done.stderr
    # The attack works: TFDS itself imports the module.
    if command is COMMANDS["check"]:
        code = f"import tensorflow_datasets as tfds; tfds.builder_from_directory({str(packed)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)
        assert marker.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{SPLIT}" * 50,
        "../{SPLIT}",
        "/etc/passwd",
        "{SPLIT}/x",
        "{SPLIT.__class__}",
        "{SPLIT:>99999999999}",
        "{0}",
    ],
)
def test_a_template_gives_names_of_files_alone(packed: Path, template: str) -> None:
    split = {"filepathTemplate": template}
    change(packed / "dataset_info.json", lambda info: info["splits"][0], **split)
    with pytest.raises(DataError, match=r"dataset_info\.json cannot be read \(Expected `str`"):
        FaceRecords(str(packed), image_size=SIZE)


@pytest.mark.parametrize("name", ["../faces", "/faces", "..", "a/b", ""])
@pytest.mark.parametrize("place", ["set", "split"])
def test_names_cannot_lead_out_of_the_set(packed: Path, name: str, place: str) -> None:
    at = (lambda info: info) if place == "set" else (lambda info: info["splits"][0])
    change(packed / "dataset_info.json", at, name=name)
    with pytest.raises(DataError, match=r"dataset_info\.json cannot be read \(Expected `str`"):
        FaceRecords(str(packed), image_size=SIZE)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link out"])
def test_shards_that_are_not_plain_are_refused_at_once(packed: Path, kind: str) -> None:
    file = packed / "faces-train.array_record-00001-of-00002"
    source = FaceRecords(str(packed), image_size=SIZE)
    file.replace(packed.parent / "elsewhere")
    {
        "pipe": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "folder": lambda: file.mkdir(),
        "link out": lambda: file.symlink_to(packed.parent / "elsewhere"),
    }[kind]()
    reason = "is a link out of the set" if kind == "link out" else "is no plain file"
    with pytest.raises(DataError, match=f"{file} {reason}"):
        FaceRecords(str(packed), image_size=SIZE)
    with pytest.raises(
        DataError, match=f"{file} {reason}"
    ):  # The file has changed since it was checked.
        source[4]


def test_a_set_in_the_hub_s_cache_is_copied_as_the_message_says(packed: Path) -> None:
    """Tests the hub's cache, where every file is a link to a file that is named by its hash."""
    cache = packed.parent / "the cache"
    cache.mkdir()
    packed.rename(cache / "blobs")
    snapshot = cache / "snapshots" / "1a2b"
    snapshot.mkdir(parents=True)
    for file in (cache / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    with pytest.raises(DataError, match="is a link out of the set, and files elsewhere") as caught:
        FaceRecords(str(snapshot), image_size=SIZE)
    command = re.search(r"cp -rL .* COPY", str(caught.value))
    subprocess.run(shlex.split(command[0]), cwd=packed.parent, check=True)
    assert len(FaceRecords(str(packed.parent / "COPY"), image_size=SIZE)) == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = ["featuresDict", "features", "image", "dtype", "shape", "dimensions", "pythonClassName"]
KEYS += ["name", "splits", "fileFormat", "shardLengths", "filepathTemplate"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["features.json", "dataset_info.json"]), st.sampled_from(KEYS), JSON)
def test_any_other_shape_is_one_sentence(packed: Path, name: str, key: str, value: object) -> None:
    def put(inside: object) -> None:
        for one in inside if isinstance(inside, list) else ():
            put(one)
        for one in inside if isinstance(inside, dict) else ():
            inside[one] = value if one == key else inside[one]
            put(inside[one])

    before = (packed / name).read_text()
    content = json.loads(before)
    put(content)
    (packed / name).write_text(json.dumps(content))
    try:
        FaceRecords(str(packed), image_size=SIZE).read([0])
    except DataError as error:
        assert "\n" not in str(error)
    finally:
        (packed / name).write_text(before)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a":' * 10**5, b"9" * 5000, b"\xff", b"null"])
def test_what_is_no_json_is_refused(packed: Path, name: str, content: bytes) -> None:
    (packed / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        FaceRecords(str(packed), image_size=SIZE)


def test_a_side_is_no_longer_than_it_can_be(packed: Path) -> None:
    shape = {"pythonClassName": FEATURE_CLASSES[2]}
    for side in (10**30, "9" * 30, -2, 2**40, 1.5, None, "0x10"):
        tensor = {"dtype": "uint8", "encoding": "bytes", "shape": {"dimensions": [side, 8, 3]}}
        change(packed / "features.json", features, image={**shape, "tensor": tensor})
        with pytest.raises(DataError, match=r"features\.json cannot be read"):
            FaceRecords(str(packed), image_size=SIZE)


def test_a_name_that_no_file_can_have_is_a_missing_shard(packed: Path) -> None:
    change(packed / "dataset_info.json", lambda info: info, name="a" * 100)
    split = {"filepathTemplate": "{DATASET}{DATASET}{DATASET}{SHARD_X_OF_Y}"}
    change(packed / "dataset_info.json", lambda info: info["splits"][0], **split)
    with pytest.raises(DataError, match="is missing; copy"):
        FaceRecords(str(packed), image_size=SIZE)


def test_a_count_of_records_is_no_larger_than_it_can_be(packed: Path) -> None:
    for length in (-1, "-1", 10**30, "9" * 30, 2.5, "1e3"):
        split = {"shardLengths": [length]}
        change(packed / "dataset_info.json", lambda info: info["splits"][0], **split)
        with pytest.raises(DataError, match=r"dataset_info\.json cannot be read"):
            FaceRecords(str(packed), image_size=SIZE)
