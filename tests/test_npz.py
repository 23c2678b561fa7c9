"""Tests archives of NumPy: what is read, and what is refused before it takes memory."""

import io
import os
import resource
import time
import zipfile

import numpy as np
import pytest

from fsvfm_jax.convert.npz import load_npz
from fsvfm_jax.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"


def npy(header, data=b"", version=b"\x01\x00"):
    """Returns a .npy file with this header, whatever the header contains."""
    text = header.encode().ljust(118 - 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def write(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def refused(path, match):
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=match) as caught:
        load_npz(path)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10**6  # kB
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numbers_are_read(path, save):
    arrays = {
        "a/b": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "half": np.ones(3, np.float16),
        "big": np.arange(3, dtype=">f4"),
        "flag": np.array(True),
        "empty": np.zeros((0, 3)),
    }
    save(path, **arrays)
    found = load_npz(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{"x": 1}], dtype=object), "holds Python objects, which are not read"),
        (np.array(["text"]), "has dtype <U4, and is no array of numbers"),
        (np.ones(2, np.complex64), "has dtype complex64"),
        (np.zeros(2, [("a", "f4"), ("b", object)]), "holds Python objects"),
        (np.zeros(2, [("a", "f4")]), r"has dtype \[\('a', '<f4'\)\], and is no arr"),
        (np.zeros(2, "V3"), r"has dtype \|V3, and is no array of numbers"),
    ],
)
def test_what_is_no_number_is_named(path, array, reason):
    np.savez(path, a=array)
    refused(path, f"'a.npy' in it {reason}")


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(FLOATS % "(10000000000,)", bytes(8)), "another size than its header says"),
        (npy(FLOATS % "(1,)", bytes(8)), "another size than its header says"),
        (npy(FLOATS % "(-2,)", bytes(8)), "has a shape that no array has"),
        (npy(FLOATS % "(0, 2**70)", b""), "damaged"),
        (npy(FLOATS % f"(0, {2**70})", b""), "has a shape that no array has"),
        (npy(FLOATS % f"(0, {2**63})", b""), "has a shape that no array has"),
        (npy(FLOATS % "(2, True)", bytes(8)), "has a shape that no array has"),
        (npy(FLOATS % "(True, 2)", bytes(8)), "has a shape that no array has"),
        (npy(FLOATS % "(-1, -2)", bytes(8)), "has a shape that no array has"),
        (npy(FLOATS % f"({'1, ' * 8}2)", bytes(8)), "has a shape that no array has"),
        (npy(FLOATS % "(9" + "9" * 30 + ",)", bytes(8)), "another size|damaged"),
        (npy(FLOATS % "__import__('os')", bytes(8)), "damaged"),
        (npy("[" * 50, bytes(8)), "has a header that NumPy cannot read"),
        (npy("-" * 9000 + "1", bytes(8)), "cannot read"),
        (npy("(" * 9000, bytes(8)), "cannot read"),
        (npy("{1: 2}", bytes(8)), "damaged"),
        (npy("{[]: 2}", bytes(8)), "cannot read|damaged"),
        (npy("1", bytes(8)), "damaged"),
        (npy(FLOATS % "(2,)", bytes(8), version=b"\x03\x00"), r"header of version \(3, 0\)"),
        (b"", "damaged"),
        (b"text", "damaged"),
    ],
)
def test_headers_that_lie_are_refused(path, content, reason):
    write(path, {"a.npy": content})
    refused(path, reason)


def test_bombs_are_refused(path):
    write(path, {"a.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    refused(path, "unpacks to more than 4 times its size")
    write(path, {"a.npy": npy(FLOATS % "(2,)", bytes(8))}, zipfile.ZIP_LZMA)
    refused(path, "unpacks to more|compressed in a way")
    write(path, {"a.npy": np.random.default_rng(0).bytes(10**5)}, zipfile.ZIP_BZIP2)
    refused(path, "compressed in a way that NumPy does not use")


def test_other_files_are_refused(path):
    refused(path, "No such file")
    path.write_bytes(b"")
    refused(path, "is empty, and no .npz archive")
    path.write_bytes(b"\x93NUMPY" + bytes(1000))
    refused(path, "of no format known here")
    write(path, {"data.pkl": b"N."})
    refused(path, "'data.pkl' in it is no array of NumPy")
    refused(path.parent, "a folder, not a plain file")
    os.mkfifo(path.with_name("pipe"))
    refused(path.with_name("pipe"), "a named pipe")
    with path.open("wb") as file:
        file.truncate(50 * 10**9)
    refused(path, "50,000,000,000 bytes")


@pytest.mark.parametrize("seed", range(4))
def test_mutated_archives_are_refused_or_read(path, seed):
    """Changes any bytes; the only error is DataError."""
    file = io.BytesIO()
    np.savez(file, a=np.arange(6, dtype=np.float32), b=np.ones((2, 2)))
    original, rng = file.getvalue(), np.random.default_rng(seed)
    outcomes = {True: 0, False: 0}
    for _ in range(100):
        damaged = bytearray(original)
        for position in rng.integers(0, len(original), rng.integers(1, 5)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_npz(path)
            outcomes[True] += 1
        except DataError:
            outcomes[False] += 1
    assert outcomes[False] > 30
