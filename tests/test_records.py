"""Tests that packed sets are read completely, in order, and that damage is reported."""

import io
import pickle
import random
import shutil
import threading
from pathlib import Path

import face_trees
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from fsvfm_jax.data.records import FaceRecords
from fsvfm_jax.data.sources import FaceFolder
from fsvfm_jax.data.stats import compute_stats
from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.encode import make_record
from fsvfm_jax.prepare.pack import pack

SIZE = face_trees.SIZE
COUNT = 23


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return face_trees.write_tree(tmp_path_factory.mktemp("tree"), COUNT)


@pytest.fixture(scope="module")
def packed(tree: Path) -> Path:
    """Packs a set of three shards."""
    pack(str(tree), str(tree / "set"), shard_records=9)
    return tree / "set"


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """Returns a copy of the set, which a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "set"))


def shard(folder: Path, index: int) -> Path:
    return folder / f"faces-train.array_record-{index:05d}-of-00003"


@pytest.mark.parametrize("encoding", ["jpeg", "original", "raw"])
def test_faces_are_those_of_the_tree(tree: Path, tmp_path: Path, encoding: str) -> None:
    target = str(tmp_path)
    pack(str(tree), target, encoding=encoding, image_size=SIZE, shard_records=9)
    source, folders = (
        FaceRecords(target, image_size=SIZE),
        FaceFolder(str(tree), image_size=SIZE),
    )
    assert len(source) == len(folders) == COUNT
    for index in range(COUNT):
        ours, theirs = source[index], folders[index]
        np.testing.assert_array_equal(ours["parsing_map"], theirs["parsing_map"])
        far = np.abs(ours["image"].astype(int) - theirs["image"])
        assert far.mean() < (4 if encoding == "jpeg" else 1e-9)
        stem = Path(folders.name(index)).relative_to(tree / "images").with_suffix("")
        assert source.name(index).startswith(f"{stem} (record {index % 9} of ")


def test_batches_are_single_faces_in_the_order_asked_for(packed: Path) -> None:
    source = FaceRecords(str(packed), image_size=SIZE)
    indices = [5, 22, 0, 9, 8, 9, 17, -1]
    for index, face in zip(indices, source.read(indices), strict=True):
        np.testing.assert_array_equal(face["image"], source[index]["image"])
        np.testing.assert_array_equal(face["parsing_map"], source[index]["parsing_map"])
    assert source.read([]) == []
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            source[index]


def test_tfds_reads_the_same(packed: Path) -> None:
    source = FaceRecords(str(packed), image_size=SIZE)
    theirs = tfds.builder_from_directory(packed).as_data_source("train")
    assert len(theirs) == COUNT
    for index in (0, 11, 22):
        np.testing.assert_array_equal(
            theirs[index]["parsing_map"][..., 0], source[index]["parsing_map"]
        )
        # Another JPEG decoder may round differently.
        far = np.abs(theirs[index]["image"].astype(int) - source[index]["image"])
        assert far.max() <= 2
        assert source.name(index).startswith(theirs[index]["name"].decode())


def test_a_part_of_a_split_is_read(packed: Path) -> None:
    source = FaceRecords(str(packed), image_size=SIZE)
    part = FaceRecords(str(packed), image_size=SIZE, split="train[7:12]")
    assert len(part) == 5
    for index in range(5):
        np.testing.assert_array_equal(part[index]["image"], source[7 + index]["image"])
        assert part.name(index) == source.name(7 + index)
    assert part.fingerprint() != source.fingerprint()
    assert part.stats() is None


def test_statistics_are_those_of_all_pixels(packed: Path) -> None:
    source = FaceRecords(str(packed), image_size=SIZE)
    assert source.stats() == compute_stats(source)
    assert FaceRecords(str(packed), image_size=24).stats() is None


def test_faces_come_in_the_size_wanted(packed: Path) -> None:
    face = FaceRecords(str(packed), image_size=24)[0]
    assert face["image"].shape == (24, 24, 3)
    assert face["parsing_map"].shape == (24, 24)


def test_workers_get_a_copy_that_opens_its_own_files(packed: Path) -> None:
    source = FaceRecords(str(packed), image_size=SIZE)
    source[0]
    sent = pickle.loads(pickle.dumps(source))
    assert sent.fingerprint() == source.fingerprint()
    np.testing.assert_array_equal(sent[12]["image"], source[12]["image"])


def test_threads_share_a_source(packed: Path) -> None:
    source = FaceRecords(str(packed), image_size=SIZE)
    expected = source.read(range(COUNT))
    wrong = []

    def read() -> None:
        for index in range(COUNT):
            if not np.array_equal(source[index]["image"], expected[index]["image"]):
                wrong.append(index)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_fingerprint_hangs_on_content_alone(packed: Path, copy: Path, tree: Path) -> None:
    fingerprint = FaceRecords(str(packed), image_size=SIZE).fingerprint()
    assert FaceRecords(str(copy), image_size=24).fingerprint() == fingerprint
    other = copy.parent / "other"
    pack(str(tree), str(other), encoding="original", shard_records=9)
    assert FaceRecords(str(other), image_size=SIZE).fingerprint() != fingerprint


def test_a_set_without_manifest_is_read(copy: Path) -> None:
    named = FaceRecords(str(copy), image_size=SIZE)
    (copy / "manifest.json").unlink()
    source = FaceRecords(str(copy), image_size=SIZE)
    np.testing.assert_array_equal(source[20]["image"], named[20]["image"])
    assert source.stats() is None
    assert source.fingerprint() != named.fingerprint()


@pytest.mark.parametrize(
    "map_feature",
    [
        tfds.features.Image(shape=(None, None, 1)),
        tfds.features.LabeledImage(labels=11, shape=(None, None, 1)),
    ],
    ids=["Image", "LabeledImage"],
)
def test_a_set_that_tfds_wrote_is_read(
    tmp_path: Path, map_feature: tfds.features.FeatureConnector
) -> None:
    class Faces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "parsing_map": map_feature,
                "label": tfds.features.ClassLabel(num_classes=2),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: object) -> dict:
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(5):
                image, parsing_map = face_trees.render_face(index, image_size=SIZE)
                yield (
                    index,
                    {"image": png(image), "parsing_map": png(parsing_map), "label": index % 2},
                )

    def png(array: np.ndarray) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        file.seek(0)
        return file

    builder = Faces(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = FaceRecords(str(builder.data_path), image_size=SIZE)
    assert len(source) == 5
    found = {source[index]["image"].tobytes() for index in range(5)}
    assert found == {face_trees.render_face(i, image_size=SIZE)[0].tobytes() for i in range(5)}
    found = {source[index]["parsing_map"].tobytes() for index in range(5)}
    assert found == {face_trees.render_face(i, image_size=SIZE)[1].tobytes() for i in range(5)}
    assert "record 0 of" in source.name(0)


def read_damaged(folder: Path, expected: list) -> str | None:
    """Reads all faces; returns the error message, or None if all faces are correct."""
    try:
        source = FaceRecords(str(folder), image_size=SIZE)
        faces = source.read(range(len(source)))
    except DataError as error:
        return str(error)
    assert len(faces) == len(expected)
    for face, right in zip(faces, expected, strict=True):
        np.testing.assert_array_equal(face["image"], right["image"])
        np.testing.assert_array_equal(face["parsing_map"], right["parsing_map"])
    return None


def test_no_flipped_bit_gives_a_wrong_face(packed: Path, copy: Path) -> None:
    expected = FaceRecords(str(packed), image_size=SIZE).read(range(COUNT))
    rng = random.Random(0)
    files = [shard(copy, index) for index in range(3)]
    refused = 0
    for _ in range(120):
        file = rng.choice(files)
        data = file.read_bytes()
        # A small shard consists mostly of padding.
        places = [place for place, byte in enumerate(data) if byte or rng.random() < 0.01]
        bit = 8 * rng.choice(places) + rng.randrange(8)
        face_trees.flip_bit(file, bit)
        said = read_damaged(copy, expected)
        file.write_bytes(data)
        if said is not None:
            refused += 1
            assert file.name in said, (said, bit)
    assert refused > 100


def test_a_damaged_record_is_named_and_the_others_are_read(copy: Path) -> None:
    source = FaceRecords(str(copy), image_size=SIZE)
    data = shard(copy, 1).read_bytes()
    place = data.index(source.records([13])[0].image[-200:])
    face_trees.flip_bit(shard(copy, 1), 8 * place)
    with pytest.raises(DataError, match=r"record 4 of .*00001-of-00003 is damaged \(.+\); copy"):
        FaceRecords(str(copy), image_size=SIZE).read(range(COUNT))
    others = [index for index in range(COUNT) if index != 13]
    assert len(FaceRecords(str(copy), image_size=SIZE).read(others)) == COUNT - 1


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_truncated_shard_is_refused(
    packed: Path, copy: Path, keep: float, has_manifest: bool
) -> None:
    if not has_manifest:
        (copy / "manifest.json").unlink()
    file = shard(copy, 1)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    said = read_damaged(copy, FaceRecords(str(packed), image_size=SIZE).read(range(COUNT)))
    assert said is not None
    assert file.name in said
    assert ("bytes instead of" in said) == has_manifest


def test_a_block_of_zeros_is_refused(packed: Path, copy: Path) -> None:
    expected = FaceRecords(str(packed), image_size=SIZE).read(range(COUNT))
    data = shard(copy, 2).read_bytes()
    for start in range(0, len(data.rstrip(b"\0")), 4096):
        block = data[start : start + 4096]
        if not block.strip(b"\0"):
            continue
        shard(copy, 2).write_bytes(data[:start] + bytes(len(block)) + data[start + 4096 :])
        said = read_damaged(copy, expected)
        assert said is not None, start
        assert shard(copy, 2).name in said


def test_a_missing_shard_is_refused_at_once(copy: Path) -> None:
    shard(copy, 1).unlink()
    with pytest.raises(DataError, match=r"00001-of-00003 is missing; copy"):
        FaceRecords(str(copy), image_size=SIZE)


def test_another_shard_of_the_same_size_is_refused(packed: Path, copy: Path) -> None:
    """Swaps names without a manifest, so that only the numbers of records reveal it."""
    (copy / "manifest.json").unlink()
    shutil.copy(shard(packed, 0), shard(copy, 2))
    with pytest.raises(DataError, match="00002-of-00003 holds 9 records instead of 5"):
        FaceRecords(str(copy), image_size=SIZE).read(range(COUNT))


@pytest.mark.parametrize("name", ["manifest.json", "features.json", "dataset_info.json"])
def test_damaged_metadata_is_refused(packed: Path, copy: Path, name: str) -> None:
    expected = FaceRecords(str(packed), image_size=SIZE).read(range(COUNT))
    stats = FaceRecords(str(packed), image_size=SIZE).stats()
    data = (copy / name).read_bytes()
    rng = random.Random(1)
    for _ in range(40):
        face_trees.flip_bit(copy / name, rng.randrange(8 * len(data)))
        said = read_damaged(copy, expected)
        if said is None:
            assert FaceRecords(str(copy), image_size=SIZE).stats() == stats
            assert name == "manifest.json"  # a blank between the manifest's values
        else:
            assert name in said
        (copy / name).write_bytes(data)
    for content in (b"", data[: len(data) // 2], b"[]", b"\0" * len(data)):
        (copy / name).write_bytes(content)
        assert name in (read_damaged(copy, expected) or "")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_metadata_without_manifest_may_be_anything(copy: Path, name: str) -> None:
    (copy / "manifest.json").unlink()
    data = (copy / name).read_bytes()
    for content in (b"", data[: len(data) // 2], b"[]", b"\0" * len(data)):
        (copy / name).write_bytes(content)
        with pytest.raises(DataError, match=str(copy)):
            FaceRecords(str(copy), image_size=SIZE)


def write_records(folder: Path, *records: bytes) -> None:
    """Writes other records into the first shard, and removes the manifest."""
    (folder / "manifest.json").unlink()
    writer = ArrayRecordWriter(str(shard(folder, 0)), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def grey_png(height: int, *, value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, SIZE), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def damaged_records() -> dict[str, tuple[bytes, str]]:
    """Returns records that are not faces, each with its error message."""
    good = grey_png(SIZE)
    return {
        "no example": (b"\xff\xff", "is no tf.Example with image and parsing_map"),
        "empty": (b"", "is no tf.Example with image and parsing_map"),
        "text": (make_record(b"text", good, name="x"), "cannot identify"),
        "no map": (make_record(good, b"", name="x"), "cannot identify"),
        "half": (make_record(good[: len(good) // 2], good, name="x"), "x .record 2 of"),
        "sizes": (
            make_record(good, grey_png(20), name="x"),
            "32 x 32 pixels, and a parsing map of 20 x",
        ),
        "class": (make_record(good, grey_png(SIZE, value=11), name="x"), "class 11"),
    }


@pytest.mark.parametrize(("record", "message"), damaged_records().values(), ids=damaged_records())
def test_a_record_that_is_no_face_is_refused(copy: Path, record: bytes, message: str) -> None:
    face = make_record(grey_png(SIZE), grey_png(SIZE), name="good")
    write_records(copy, *[face] * 2, record, *[face] * 6)
    with pytest.raises(DataError, match=message) as raised:
        FaceRecords(str(copy), image_size=SIZE).read(range(9))
    assert f"record 2 of {shard(copy, 0)}" in str(raised.value)


@pytest.mark.parametrize(
    ("split", "message"),
    [("test", "has no split 'test'"), ("trian", "did you mean 'train'"), ("train[", "no split")],
)
def test_an_unknown_split_is_refused(packed: Path, split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FaceRecords(str(packed), image_size=SIZE, split=split)


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no packed set, for it has no dataset_info\.json"):
        FaceRecords(str(tmp_path), image_size=SIZE)
    with pytest.raises(DataError, match="/nowhere does not exist; name a folder that"):
        FaceRecords(str(tmp_path / "nowhere"), image_size=SIZE)
    (tmp_path / ".unfinished-train").mkdir()
    with pytest.raises(DataError, match="is not packed to its end: give the pack command again"):
        FaceRecords(str(tmp_path), image_size=SIZE)


@pytest.mark.parametrize("change", ["no image", "text", "float", "tfrecord"])
def test_other_sets_are_refused(copy: Path, change: str) -> None:
    (copy / "manifest.json").unlink()
    text = (copy / "features.json").read_text()
    info = copy / "dataset_info.json"
    if change == "no image":
        (copy / "features.json").write_text(text.replace('"parsing_map"', '"mask"'))
    if change == "text":
        image = tfds.features.Text()
    if change == "float":
        image = tfds.features.Tensor(shape=(SIZE, SIZE, 3), dtype=np.float32)
    if change in ("text", "float"):
        features = tfds.features.FeaturesDict(
            {"image": image, "parsing_map": tfds.features.Image(shape=(None, None, 1))}
        )
        features.save_metadata(copy, feature_name=None)
        (copy / "features.json").unlink(missing_ok=True)
        features.save_config(copy)
    if change == "tfrecord":
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=r"has no feature|it must be an Image|is stored as"):
        FaceRecords(str(copy), image_size=SIZE)
