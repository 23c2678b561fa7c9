"""The pickle in a PyTorch file, read as a description of arrays and plain values.

A pickle is a program for a small stack machine that may call anything. A checkpoint's calls half a
dozen things, none of which needs Python's unpickler: here is that machine with these few and no
others, so that nothing a file says can run, and each of its instructions costs as much as its own
bytes do.
"""

import math
import re
from collections.abc import Callable
from pickletools import genops
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fsvfm_jax.errors import DataError

STORAGES = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
TENSOR = "torch._utils _rebuild_tensor_v2"
ORDERED_DICT = "collections OrderedDict"
OPTIONS = "argparse Namespace"
# A single number of NumPy's, such as a threshold: scalar(dtype(code), encode(bytes as text)).
SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")
DTYPE = "numpy dtype"
ENCODE = "_codecs encode"
NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")
ALLOWED = {*STORAGES, TENSOR, ORDERED_DICT, OPTIONS, *SCALARS, DTYPE, ENCODE}
# From here on Python's whole numbers have hashes in common, which makes a dict of them slow.
MAX_INTEGER = 2**61 - 2
STORAGE_KEY = re.compile(r"\d{1,7}")

MARK = object()


class Name(NamedTuple):
    """Something of `ALLOWED` that the program has named."""

    name: str


class Storage(NamedTuple):
    """A flat array in an entry of the archive."""

    dtype: np.dtype
    key: str
    size: int


def read_pickle(
    program: bytes, *, read_storage: Callable[[str], bytes], max_array_bytes: int
) -> Any:
    """What the program describes: dicts, lists, tuples, plain values and NumPy arrays.

    Options become dicts, bfloat16 becomes float32, exactly.

    Args:
        program: The pickle.
        read_storage: The bytes of the storage with this key.
        max_array_bytes: What all arrays together may take.

    Raises:
        DataError: The program names or does anything that a checkpoint's need not, or its arrays
            are not in their storages.
    """
    machine = _Machine(read_storage, max_array_bytes)
    try:
        for opcode, argument, _ in genops(program):
            if opcode.name != "STOP":  # the last
                machine.run(opcode.name, argument)
        return machine.stack.pop()
    # What a wrong program makes of the stack can go wrong in any of these ways.
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"its pickle makes no sense ({type(error).__name__}: {error})") from error


class _Machine:
    """Stack and memo of a pickle; `run` does one instruction."""

    def __init__(self, read_storage: Callable[[str], bytes], max_array_bytes: int):
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._read_storage = read_storage
        self._storages: dict[str, bytes] = {}
        self._bytes_left = max_array_bytes

    def run(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO":
                pass
            case "GLOBAL":
                stack.append(_name(argument))
            case "MARK":
                stack.append(MARK)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                if abs(argument) > MAX_INTEGER:
                    raise DataError(f"a whole number in it is beyond {MAX_INTEGER}")
                stack.append(argument)
            case "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list}.get(opcode, tuple)())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(reversed([stack.pop() for _ in range(int(opcode[-1]))])))
            case "TUPLE":
                stack.append(tuple(self._from_mark()))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = self._from_mark()
                _set_items(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "APPENDS":
                items = self._from_mark()
                _list(stack[-1]).extend(items)
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._call(called, arguments))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case _:
                raise DataError(
                    f"its pickle has the instruction {opcode}, as no checkpoint's has: it is"
                    " refused, and nothing in it was run"
                )

    def _from_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def _call(self, called: Any, arguments: Any) -> Any:
        match called, arguments:
            case Name(name), () if name in (ORDERED_DICT, OPTIONS):
                return {}
            case Name(name), (Storage() as storage, offset, tuple(shape), tuple(strides), *_) if (
                name == TENSOR
            ):
                return self._array(storage, offset, shape, strides)
            case Name(name), (str(code), *_) if name == DTYPE and code in NUMBERS:
                return np.dtype(f"<{code}")
            case Name(name), (str(text), "latin1") if name == ENCODE and len(text) <= 8:
                return text.encode("latin1")
            case Name(name), (np.dtype() as dtype, bytes(content)) if name in SCALARS:
                (number,) = np.frombuffer(content, dtype)
                return number.item()
        what = called.name if isinstance(called, Name) else type(called).__name__
        raise DataError(f"it calls {what!r} with other arguments than a checkpoint does")

    def _array(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> np.ndarray:
        if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0 or len(shape) > 8:
            raise DataError(f"an array in it has shape {shape} and strides {strides}")
        size = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # Of bfloat16 both halves of its float32.
        self._bytes_left -= size * max(storage.dtype.itemsize, 4)
        if self._bytes_left < 0:
            raise DataError("its arrays are larger than the file")
        if size and last >= storage.size:
            raise DataError(f"an array in it ends at {last}, its storage at {storage.size}")
        if storage.key not in self._storages:
            self._storages[storage.key] = self._read_storage(storage.key)
        flat = np.frombuffer(self._storages[storage.key], storage.dtype, count=storage.size)
        if not size:
            return np.zeros(shape, storage.dtype)
        steps = [stride * storage.dtype.itemsize for stride in strides]
        array = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
        array = np.ascontiguousarray(array).reshape(shape)
        return array.astype(np.float32) if storage.dtype == ml_dtypes.bfloat16 else array


def _name(argument: str) -> Name:
    if argument not in ALLOWED:
        raise DataError(
            f"it names {argument.replace(' ', '.')!r}, which a checkpoint has no need of: it is"
            " refused, and nothing in it was run"
        )
    return Name(argument)


def _storage(description: Any) -> Storage:
    match description:
        case ("storage", Name(name), str(key), str(), int(size)) if (
            name in STORAGES and STORAGE_KEY.fullmatch(key) and size >= 0
        ):
            return Storage(STORAGES[name], key, size)
    raise DataError("it refers to something outside of itself that is no storage of an array")


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise DataError("it sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):
            raise DataError(f"a key in it is a {type(key).__name__}")
        target[key] = value


def _list(target: Any) -> list[Any]:
    if not isinstance(target, list):
        raise DataError("it appends to what is no list")
    return target


def _build(target: Any, state: Any) -> None:
    """Options get their values; what PyTorch notes beside an ordered dict is left out."""
    match target, state:
        case np.dtype(), (int(), "<" | "|", *_):
            return
        case dict(), dict():
            if "_metadata" not in state:
                target.update(state)
            return
    raise DataError(f"it sets the state of a {type(target).__name__}")
