"""Programs of pickles as descriptions of data: what they may say, and what they may not."""

import struct
import time

import numpy as np
import pytest

from fsvfm_jax.convert.pickle_reader import read_pickle
from fsvfm_jax.errors import DataError

STORED = np.arange(12, dtype=np.float32)


def read(program):
    storage = {"0": STORED.tobytes()}
    return read_pickle(program, read_storage=storage.__getitem__, max_array_bytes=1000)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(*, offset=0, shape=(3,), strides=(1,), numel=12, storage="Float", key="0"):
    """_rebuild_tensor_v2(('storage', torch.FloatStorage, key, 'cpu', numel), offset, ...)"""

    def integers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", x) for x in values) + b"t"

    where = (
        b"(" + text("storage") + f"ctorch\n{storage}Storage\n".encode() + text(key) + text("cpu")
    )
    where += b"J" + struct.pack("<i", numel) + b"tQ"
    arguments = where + b"J" + struct.pack("<i", offset) + integers(shape) + integers(strides)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + hooks + b"tR."


def number(dtype, content):
    """scalar(dtype(...), encode(...))"""
    named = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n("
    encoded = b"c_codecs\nencode\n(" + text(content) + text("latin1") + b"tR"
    return b"\x80\x02" + named + text(dtype) + b"\x89\x88tR" + encoded + b"tR."


def test_arrays_are_views_of_their_storages():
    np.testing.assert_array_equal(read(tensor()), STORED[:3])
    transposed = read(tensor(offset=4, shape=(4, 2), strides=(1, 4)))
    np.testing.assert_array_equal(transposed, STORED[4:].reshape(2, 4).T)
    assert read(tensor(shape=(0, 3), strides=(3, 1))).shape == (0, 3)
    assert read(tensor(shape=(), strides=())) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": (13,)}, "ends at 12, its storage at 12"),
        ({"offset": 10}, "ends at 12, its storage at 12"),
        ({"strides": (6,)}, "ends at 12, its storage at 12"),
        ({"offset": -1}, "has shape"),
        ({"shape": (-3,)}, "has shape"),
        ({"strides": (-1,)}, "has shape"),
        ({"strides": (1, 1)}, "has shape"),
        ({"shape": (300,), "strides": (0,)}, "larger than the file"),
        ({"numel": 13, "shape": (13,)}, "makes no sense"),  # the storage is shorter than told
        ({"key": "1"}, "makes no sense"),
        ({"key": "../0"}, "refers to something outside"),
        ({"storage": "Quantized"}, "names 'torch.QuantizedStorage'"),
    ],
)
def test_arrays_that_are_not_in_their_storages_are_refused(changes, reason):
    with pytest.raises(DataError, match=reason):
        read(tensor(**changes))


def test_numbers_of_numpy_are_read():
    assert read(number("i4", "\x05\x00\x00\x00")) == 5


@pytest.mark.parametrize(
    ("dtype", "content", "reason"),
    [
        ("O8", "12345678", "calls 'numpy dtype' with other"),
        ("V8", "12345678", "calls 'numpy dtype' with other"),
        ("f8", "1234567", "ValueError"),
        ("f4", "12345678", "ValueError"),
        ("f8", "1234567812345678", "ValueError"),
    ],
)
def test_numbers_that_numpy_would_trust_are_refused(dtype, content, reason):
    with pytest.raises(DataError, match=reason):
        read(number(dtype, content))


MEMO_CALLS = 30_000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        # A long text made four times as long, again and again; a codec that is slow on purpose.
        (b"c_codecs\nencode\nq\x00X\x20\x4e\x00\x00" + b"a" * 20_000
         + b"X\x06\x00\x00\x00utf-32\x86q\x01" + b"h\x00h\x01R" * MEMO_CALLS,
         "calls '_codecs encode' with other"),
        (b"c_codecs\nencode\nX\x08\x00\x00\x00abcdefghX\x08\x00\x00\x00punycode\x86R",
         "calls '_codecs encode' with other"),
        # Copies of a long list.
        (b"ccollections\nOrderedDict\nq\x00](" + b"K\x01" * 1000 + b"e\x85q\x01" + b"h\x00h\x01R"
         * MEMO_CALLS, "calls 'collections OrderedDict' with other"),
        # Keys of a dict that all have the same hash.
        (b"}(" + b"".join(
            b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, 30_000)
        ) + b"u", "a whole number in it is beyond"),
        (b"}(N)u", "a key in it is a NoneType"),
        (b"}]N", "exhausted"),
        (b"ctorch\nFloatStorage\n)R", "calls 'torch FloatStorage' with other"),
        (b"X\x01\x00\x00\x00/Q", "refers to something outside"),
        (b"Va\n", "instruction UNICODE"),
    ],
)  # fmt: skip
def test_programs_that_would_take_long_or_lie_are_refused(body, reason):
    started = time.process_time()
    with pytest.raises(DataError, match=reason):
        read(b"\x80\x02" + body + (b"" if reason == "exhausted" else b"."))
    assert time.process_time() - started < 5
