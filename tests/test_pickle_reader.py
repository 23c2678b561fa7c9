"""Tests that pickle programs are read as data, and which programs are refused."""

import collections
import io
import struct
import time
import zipfile
from pickletools import genops

import numpy as np
import pytest
from golden_files import need

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
        ({"numel": 13, "shape": (13,)}, "makes no sense"),  # the storage is shorter than its number
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
LARGE_DICT = b"}(" + b"".join(b"M" + struct.pack("<H", k) + b"N" for k in range(20_000)) + b"uq\x00"
LONG_TUPLE = b"(" + b"N" * 60_000 + b"tq\x00"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        # A long text is made four times as long, again and again; the codec is slow on purpose.
        (b"c_codecs\nencode\nq\x00X\x20\x4e\x00\x00" + b"a" * 20_000
         + b"X\x06\x00\x00\x00utf-32\x86q\x01" + b"h\x00h\x01R" * MEMO_CALLS,
         "calls '_codecs encode' with other"),
        (b"c_codecs\nencode\nX\x08\x00\x00\x00abcdefghX\x08\x00\x00\x00punycode\x86R",
         "calls '_codecs encode' with other"),
        # These copy a long list.
        (b"ccollections\nOrderedDict\nq\x00](" + b"K\x01" * 1000 + b"e\x85q\x01" + b"h\x00h\x01R"
         * MEMO_CALLS, "calls 'collections OrderedDict' with other"),
        # All keys of a dict have the same hash.
        (b"}(" + b"".join(
            b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, 30_000)
        ) + b"u", "a whole number in it is beyond"),
        # These copy a large dict again and again, in every way.
        (LARGE_DICT + b"}" + b"h\x00b" * 20_000, "copies more than any checkpoint's does"),
        (LARGE_DICT + b"ccollections\nCounter\nq\x01h\x00\x85q\x02" + b"h\x01h\x02R" * 20_000,
         "copies more than any checkpoint's does"),
        (b"](" + b"N" * 60_000 + b"eq\x00\x85q\x02c__builtin__\nset\nq\x01"
         + b"h\x01h\x02R" * 20_000, "copies more than any checkpoint's does"),
        (b"cpathlib\nPosixPath\nq\x01X\x20\x4e\x00\x00" + b"a" * 20_000 + b"\x85q\x02"
         + b"h\x01h\x02R" * 20_000, "copies more than any checkpoint's does"),
        (b"ctorch\ndevice\nq\x01X\x20\x4e\x00\x00" + b"a" * 20_000 + b"\x85q\x02"
         + b"h\x01h\x02R" * 20_000, "copies more than any checkpoint's does"),
        (b"c_codecs\nencode\nq\x01X\x20\x4e\x00\x00" + b"a" * 20_000
         + b"X\x06\x00\x00\x00latin1\x86q\x02" + b"h\x01h\x02R" * 20_000,
         "copies more than any checkpoint's does"),
        # A pattern would copy the rest of these arguments.
        (LONG_TUPLE + b"cnumpy\ndtype\nh\x00R", "calls 'numpy dtype' with other"),
        # Two equal lists contain themselves again and again, and are compared.
        (b")q\x00" + b"h\x00h\x00\x86q\x00" * 40 + b")q\x01" + b"h\x01h\x01\x86q\x01" * 40
         + b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
         + text("0") + text("cpu") + b"K\x0ctQh\x00h\x01\x85K\x01\x85tR",
         "a shape or strides that no array has"),
        (b"]" * 101 + b"a" * 100, "nests containers more than 100 deep"),
        (b"]" * 20_000 + b"a" * 19_999, "nests containers more than 100 deep"),
        (b"]q\x00h\x00a", "a container in it contains itself"),
        # Containers and texts repeat: writing out a few bytes would never end.
        (b")q\x00" + b"h\x00h\x00\x86q\x00" * 60, "repeats its containers and texts"),
        (b"]q\x00" + b"](h\x00h\x00eq\x00" * 60, "repeats its containers and texts"),
        (b"}q\x00" + b"}(K\x00h\x00K\x01h\x00uq\x00" * 60, "repeats its containers and texts"),
        (b"(" + LARGE_DICT + b"h\x00" * 20_000 + b"t", "repeats its containers and texts"),
        (b"(" + text("a" * 20_000) + b"q\x00" + b"h\x00" * 100 + b"t", "repeats its cont"),
        (b"(" + b"}" + text("a" * 20_000) + b"Nsq\x00" + b"h\x00" * 100 + b"t",
         "repeats its containers and texts"),
        (b"(" + LARGE_DICT + b"h\x00" * 20 + b"t", None),
        (b"c" + b"a" * 200_000 + b"\nb\n", "names 'a{100}',"),
        (b"X\xa0\x86\x01\x00" + b"a" * 100_000 + b"q\x00h\x00\x93", "names 'a{100}',"),
        (b"cos\\sys\nb\n", "makes no sense"),
        (b"}(N)u", "a key in it is a NoneType"),
        (b"}]N", "exhausted"),
        (b"ctorch\nFloatStorage\n)R", "calls 'torch FloatStorage' with other"),
        (b"X\x01\x00\x00\x00/Q", "refers to something outside"),
        (b"Va\n", "instruction UNICODE"),
    ],
)  # fmt: skip
def test_programs_that_would_take_long_or_lie_are_refused(body, reason):
    started = time.process_time()
    program = b"\x80\x02" + body + (b"" if reason == "exhausted" else b".")
    if reason is None:
        read(program)
    else:
        with pytest.raises(DataError, match=reason) as caught:
            read(program)
        assert len(str(caught.value)) < 500
    assert time.process_time() - started < 5


OPCODES = [
    *(b"N", b"\x88", b"K\x01", b"K\x00", b"M\xff\x00", b"J\xff\xff\xff\xff", b"G" + bytes(8)),
    *(b"]", b"}", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"\x8f"),
    *(b"\x90", b"\x91", b"Q", b"R", b"\x81", b"b", b"\x93", b"\x94", b"2", b"0"),
    *(b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"\x8a\x09" + b"\x7f" * 9, b"C\x04" + bytes(4)),
    *map(text, ("0", "cpu", "storage", "latin1", "f4", "<", "numpy", "dtype", "b", "\u20ac")),
    *(
        f"c{name}\n".replace(" ", "\n").encode()
        for name in (
            *("torch FloatStorage", "torch BFloat16Storage", "torch.storage UntypedStorage"),
            *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
            *("torch._utils _rebuild_parameter", "collections OrderedDict", "argparse Namespace"),
            *("collections defaultdict", "collections Counter", "__builtin__ set", "torch device"),
            *("__builtin__ list", "torch Size", "torch float32", "pathlib PosixPath"),
            *("pathlib WindowsPath", "numpy dtype", "numpy ndarray", "_codecs encode"),
            *("numpy.core.multiarray scalar", "numpy.core.multiarray _reconstruct"),
            *("numpy.random._pickle __generator_ctor", "datetime datetime", "os system"),
        )
    ),
    tensor()[2:-1],
    number("f4", "abcd")[2:-1],
]


def programs_of_torch():
    """Returns pickles of checkpoints as PyTorch writes them, with old and new protocols."""
    torch = need("torch")
    content = {
        "model": collections.OrderedDict(x=torch.ones(3), y=torch.nn.Parameter(torch.ones(2, 2))),
        "rng": np.random.RandomState(0).get_state(),
        "more": [torch.device("cpu"), torch.Size([1]), {1, 2}, b"abc", np.float32(1)],
    }
    for protocol in (2, 4):
        file = io.BytesIO()
        torch.save(content, file, pickle_protocol=protocol)
        with zipfile.ZipFile(file) as archive:
            yield archive.read("archive/data.pkl")


def fuzz(count, seed):
    """Checks that the only error is DataError, and that no program of 100 bytes takes long."""
    rng = np.random.default_rng(seed)
    real = list(programs_of_torch())
    pieces = [[program[a:b] for a, b in _spans(program)] for program in real]
    outcomes = collections.Counter()
    for number in range(count):
        if number % 3 == 0:
            body = b"".join(OPCODES[k] for k in rng.integers(len(OPCODES), size=rng.integers(60)))
            program = b"\x80\x02" + body + b"."
        elif number % 3 == 1:
            program = bytearray(real[rng.integers(2)])
            for position in rng.integers(len(program), size=rng.integers(1, 4)):
                program[position] = rng.integers(256)
        else:  # instructions are left out, repeated or moved
            mixed = list(pieces[rng.integers(2)])
            for _ in range(rng.integers(1, 4)):
                source, target = rng.integers(len(mixed) - 1, size=2)
                mixed[target : target + rng.integers(2)] = [mixed[source]] * rng.integers(3)
            program = b"".join(mixed)
        started = time.process_time()
        try:
            read(bytes(program))
            outcomes["read"] += 1
        except DataError as error:
            assert len(str(error)) < 500
            outcomes["refused"] += 1
        assert time.process_time() - started < 5
    return outcomes


def _spans(program):
    starts = [position for _, _, position in genops(program)]
    return zip(starts, [*starts[1:], len(program)], strict=True)


def test_random_and_mutated_programs_end_in_one_error_or_none():
    outcomes = fuzz(300, seed=0)
    assert outcomes["read"] >= 5 and outcomes["refused"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_many_random_and_mutated_programs_end_in_one_error_or_none(seed):
    assert fuzz(20_000, seed).total() == 20_000
