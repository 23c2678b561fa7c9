"""Tests that files that do not match their header are refused quickly, with the reason."""

import json
import os
import resource
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsvfm_jax.convert.safetensors import load_safetensors, read_header, save_safetensors
from fsvfm_jax.convert.source_files import file_sha256
from fsvfm_jax.errors import DataError, StorageError

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float32),
    "half": np.ones(5, np.float16),
    "scalar": np.array(3, np.int64),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def write(path: Path, header: object, data: bytes = b"", *, announced: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if announced is None else announced
    path.write_bytes(length.to_bytes(8, "little") + text + data)


def entry(shape: object = (2,), offsets: object = (0, 8), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_what_is_saved_is_loaded(path):
    transposed = {"t": ARRAYS["a"].T}  # its layout in memory does not match its shape
    save_safetensors(path, ARRAYS | transposed, metadata={"format": "pt"})
    loaded = load_safetensors(path)
    assert loaded.keys() == ARRAYS.keys() | {"t"}
    for name, array in (ARRAYS | transposed).items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    assert read_header(path)["__metadata__"] == {"format": "pt"}


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_safetensors(tmp_path / name, ARRAYS, metadata={"format": "pt"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


EIGHT = bytes(8)
HOSTILE = {
    "empty": (b"", b"", 0, "announce a header of 0 bytes"),
    "longer than the file": ({"a": entry()}, EIGHT, 10**6, "the file has"),
    "of 2**63 bytes": ({"a": entry()}, EIGHT, 2**63, "announce a header of 9223372036854775808"),
    "of 10 MB": (b"[" * 10**7, b"", None, "a header may have 1048576"),
    "deeply nested": (b"[" * 10**6, b"", None, "cannot be read as safetensors"),
    "objects deeply nested": (b'{"a":' * 10**5, b"", None, "cannot be read as safetensors"),
    "many empty lists": (b"[" + b"[]," * 3 * 10**5 + b"[]]", b"", None, "no table of arrays"),
    "no JSON": (b"\x80\x04cos\nsystem\n", b"", None, "cannot be read as safetensors"),
    "no text": (b"\xff" * 20, b"", None, "cannot be read as safetensors"),
    "no table": (b"[1, 2]", b"", None, "no table of arrays"),
    "a name twice": (b'{"a": 1, "a": 2}', b"", None, "the key 'a' occurs twice"),
    "overlapping": ({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12), None, "'b' begins"),
    "the same bytes twice": ({"a": entry(), "b": entry()}, EIGHT, None, "'b' begins at byte 0"),
    "with a hole": ({"a": entry(offsets=[8, 16])}, bytes(16), None, "begins at byte 8"),
    "beyond the file": ({"a": entry([2000], [0, 8000])}, EIGHT, None, "take 8000 bytes"),
    "bytes nobody owns": ({"a": entry()}, bytes(9), None, "take 8 bytes, the file has 9"),
    "backwards": ({"a": entry(offsets=[8, 0])}, EIGHT, None, "describes array 'a'"),
    "of negative size": ({"a": entry([-2], [0, 8])}, EIGHT, None, "describes array 'a'"),
    "of another size": ({"a": entry([3])}, EIGHT, None, "describes array 'a'"),
    "astronomically large": ({"a": entry([2**62] * 8)}, EIGHT, None, "describes array 'a'"),
    "of thousands of dimensions": ({"a": entry([10**9] * 10**4)}, EIGHT, None, "describes array"),
    "with a number of 10,000 digits": (
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,8]}}',
        EIGHT,
        None,
        "cannot be read as safetensors",
    ),
    "with a fraction": ({"a": entry([2.0])}, EIGHT, None, "describes array 'a'"),
    "with a truth value": ({"a": entry([True, 2])}, EIGHT, None, "describes array 'a'"),
    "of an unknown dtype": ({"a": entry(dtype="O")}, EIGHT, None, "describes array 'a'"),
    "of no dtype": ({"a": entry(dtype=["F32"])}, EIGHT, None, "describes array 'a'"),
    "of a dtype of 8 bits": (
        {"a": entry([8], dtype="F8_E4M3")},
        EIGHT,
        None,
        r"describes array 'a' as of dtype 'F8_E4M3', which is not read here: .* F32",
    ),
    "empty and astronomically large": (
        {"a": entry([0, 2**62, 2**62], [0, 0])},
        b"",
        None,
        "too big",
    ),
    "with constants of JavaScript": (b'{"a": NaN, "b": -Infinity}', b"", None, "describes array"),
    "with metadata that is a number": ({"__metadata__": 7}, b"", None, "__metadata__ is no table"),
    "with metadata of lists": ({"__metadata__": {"a": []}}, b"", None, "__metadata__ is no table"),
    "with a metadata name twice": (
        b'{"__metadata__": {"a": "b", "a": "c"}}',
        b"",
        None,
        "the key 'a' occurs twice",
    ),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, EIGHT, None, "describes array"),
    "not described": ({"a": 7}, EIGHT, None, "describes array 'a'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused(path, name):
    header, data, announced, message = HOSTILE[name]
    write(path, header, data, announced=announced)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(DataError, match=message) as error:
        load_safetensors(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # kB
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_a_missing_short_or_other_file_is_refused(path):
    with pytest.raises(DataError, match="No such file"):
        load_safetensors(path)
    for content in (b"", b"\x10", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=str(path)):
            load_safetensors(path)


@settings(max_examples=60)
@given(length=st.integers(0, 400))
def test_a_truncated_file_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "x"
    save_safetensors(path, ARRAYS, metadata={})
    whole = path.read_bytes()
    path.write_bytes(whole[: min(length, len(whole) - 1)])
    with pytest.raises(DataError):
        load_safetensors(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="missing"):
        save_safetensors(tmp_path / "missing" / "x", ARRAYS, metadata={})


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a named pipe, not a plain file"),
        (os.mkdir, "it is a folder, not a plain file"),
        (make_socket, "it is a socket, not a plain file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a plain file"),
        (lambda path: path.touch() or os.truncate(path, 50 * 10**9), "it has 50,000,000,000 bytes"),
    ],
)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, make, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The path of a socket must be short.
    path = Path("x")
    make(path)
    for read in (load_safetensors, read_header, file_sha256):
        with pytest.raises(DataError, match=rf"^x cannot be read \({reason}"):
            read(path)


def test_a_hash_is_looked_at_after_the_header(path):
    save_safetensors(path, ARRAYS, metadata={})
    assert load_safetensors(path, sha256=file_sha256(path)).keys() == ARRAYS.keys()
    with pytest.raises(DataError, match="its SHA-256 is not that"):
        load_safetensors(path, sha256="0" * 64)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="no whole safetensors file"):
        load_safetensors(path, sha256="0" * 64)


def loaded_or_refused(path):
    """Returns arrays that use the file's bytes, or checks that the error is a short sentence."""
    try:
        arrays = load_safetensors(path)
    except DataError as error:
        assert len(str(error)) < 1000
        return
    assert sum(array.nbytes for array in arrays.values()) <= 2 * path.stat().st_size


def changed(draw, content):
    """Returns the bytes with a few of them changed, removed or repeated."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content) - 1))
        what = draw(st.sampled_from(["set", "cut", "repeat"]))
        if what == "set":
            content[place] = draw(st.integers(0, 255))
        elif what == "cut":
            del content[place : place + draw(st.integers(1, 20))]
        else:
            content[place:place] = content[place : place + draw(st.integers(1, 20))]
        if not content:
            break
    return bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "x"
    save_safetensors(path, ARRAYS, metadata={"format": "pt"})
    return path.read_bytes()


def fuzz_bytes(whole, folder, data):
    path = folder / "x"
    path.write_bytes(changed(data.draw, whole))
    loaded_or_refused(path)


SIZES = st.integers(-1, 9) | st.sampled_from([2**31, 2**63, 2**64, 10**30, True, 2.0, None, "1"])
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "BOOL", "U8", "F8_E5M2", "O", None, 7, []]),
        "shape": st.lists(SIZES, max_size=4) | SIZES,
        "data_offsets": st.lists(SIZES, max_size=3) | SIZES,
        "more": SIZES,
    },
)
HEADER = st.dictionaries(
    st.sampled_from(["a", "b", "", "\0", "__metadata__"]), ENTRY | SIZES, max_size=4
)


def fuzz_header(folder, data):
    path = folder / "x"
    write(path, data.draw(HEADER), data.draw(st.binary(max_size=40)))
    loaded_or_refused(path)


@given(data=st.data())
def test_changed_files_load_or_are_refused(whole, tmp_path_factory, data):
    fuzz_bytes(whole, tmp_path_factory.getbasetemp(), data)


@given(data=st.data())
def test_made_up_headers_load_or_are_refused(tmp_path_factory, data):
    fuzz_header(tmp_path_factory.getbasetemp(), data)


@pytest.mark.slow
@settings(max_examples=3000)
@given(data=st.data())
def test_many_changed_files_load_or_are_refused(whole, tmp_path_factory, data):
    fuzz_bytes(whole, tmp_path_factory.getbasetemp(), data)
    fuzz_header(tmp_path_factory.getbasetemp(), data)
