"""Evaluates the names and calls in a checkpoint's pickle without importing or calling anything."""

import math
import re
from collections.abc import Callable
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
# PyTorch uses this name for the few dtypes that have no storage class, such as float8.
TENSOR_WITHOUT_CLASS = "torch._utils _rebuild_tensor_v3"
UNTYPED_STORAGE = "torch.storage UntypedStorage"
PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
EMPTY_DICTS = ("collections OrderedDict", "argparse Namespace")
DEFAULT_DICT = "collections defaultdict"
COUNTER = "collections Counter"
SETS = tuple(f"{module} {kind}" for module in ("__builtin__", "builtins")
             for kind in ("set", "frozenset"))  # fmt: skip
# The default factory of a defaultdict; it is never called.
TYPES = tuple(f"{module} {kind}" for module in ("__builtin__", "builtins")
              for kind in ("list", "dict", "int", "float", "str", "bool", "tuple"))  # fmt: skip
DEVICE = "torch device"
SIZE = "torch Size"
PATHS = {
    f"{module} {kind}": "\\" if "Windows" in kind else "/"
    for module in ("pathlib", "pathlib._local")
    for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
}
# A single NumPy number, such as a threshold: scalar(dtype(code), bytes).
SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")
# A NumPy array, such as the state of a random generator.
RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NDARRAY = "numpy ndarray"
DTYPE = "numpy dtype"
ENCODE = "_codecs encode"  # Old pickles write bytes with it.
NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")
ALLOWED = {
    *(*STORAGES, TENSOR, TENSOR_WITHOUT_CLASS, UNTYPED_STORAGE, *PARAMETERS, *EMPTY_DICTS),
    *(DEFAULT_DICT, COUNTER, *SETS, *TYPES, DEVICE, SIZE, *PATHS),
    *(*SCALARS, *RECONSTRUCT, NDARRAY, DTYPE, ENCODE),
}
TORCH_DTYPE = re.compile(r"torch (b?float|u?int|complex|bool|q)[a-z0-9_]{0,16}")
# Objects that become a `Placeholder`: a generator of random numbers, a date.
OPAQUE = re.compile(r"numpy\.random\.\w+ \w+|datetime (datetime|date|timedelta|timezone)")
NOT_READ = {
    "torch._utils _rebuild_qtensor": "a quantised array",
    "torch._utils _rebuild_sparse_tensor": "a sparse array",
    "torch._utils _rebuild_meta_tensor_no_storage": "an array without its values",
    "torch ComplexFloatStorage": "an array of complex numbers",
    "torch ComplexDoubleStorage": "an array of complex numbers",
}
# Modules with the classes of networks, which `torch.save(network)` names.
NETWORK_CLASSES = ("torch.nn.modules.", "torch.nn.parallel.", "timm.models.", "transformers.models")
MAX_ARGUMENTS = 16
MAX_DIMENSIONS = 8
MAX_NAME = 100
# Limit of elements and bytes that calls copy; a large checkpoint copies about 10,000.
MAX_WORK = 1_000_000


class Name(NamedTuple):
    """A name of `ALLOWED` that the program uses."""

    name: str


class Placeholder(NamedTuple):
    """Replaces an object that is not read, such as a random generator."""

    name: str


class Storage(NamedTuple):
    """A flat array in an entry of the archive; an array without a dtype is refused."""

    dtype: np.dtype | None
    key: str
    size: int


class Unfilled:
    """A NumPy array between its call and its BUILD instruction.

    Attributes:
        memo_keys: Keys of the memo that refer to the array.
    """

    def __init__(self) -> None:
        self.memo_keys: list[int] = []


class Calls:
    """Computes plain values for the program's calls, and counts the copied elements and bytes.

    Args:
        read_storage: Returns the bytes of the storage with a key.
        max_array_bytes: Limit of the bytes of all arrays together.
    """

    def __init__(self, read_storage: Callable[[str], bytes], max_array_bytes: int):
        self._read_storage = read_storage
        self._storages: dict[str, bytes] = {}
        self._bytes_left = max_array_bytes
        self._work_left = MAX_WORK

    def call(self, called: Any, arguments: Any) -> Any:
        """Returns the value of a call; raises DataError for a call that no checkpoint makes."""
        name = called.name if isinstance(called, Name | Placeholder) else type(called).__name__
        # The number of arguments is limited, because a pattern with `*_` copies the rest.
        fits = type(arguments) is tuple and len(arguments) <= MAX_ARGUMENTS
        if isinstance(called, Placeholder):
            return called
        if isinstance(called, Name) and fits:
            match name, arguments:
                case _, () if name in EMPTY_DICTS:
                    return {}
                case _, () | (None | Name(),) if name == DEFAULT_DICT:
                    return {}
                case _, (dict(items),) if name == COUNTER:
                    self.spend(len(items))
                    return dict(items)
                case _, (list(items),) if name in SETS:
                    self.spend(len(items))
                    return list(items)
                case _, (np.ndarray() as array, *_) if name in PARAMETERS:
                    return array
                case _, (str(kind),) | (str(kind), int()) if name == DEVICE:
                    self.spend(len(kind))
                    return ":".join(map(str, arguments))
                case _, (tuple(sizes),) if name == SIZE:
                    return sizes
                case _, parts if name in PATHS and all(type(part) is str for part in parts):
                    self.spend(sum(map(len, parts)))
                    return _join(parts, PATHS[name])
                case _, _ if name in (TENSOR, TENSOR_WITHOUT_CLASS, *SCALARS, *RECONSTRUCT, DTYPE):
                    if (value := self._array_or_number(name, arguments)) is not None:
                        return value
                case _, (str(text), "latin1") if name == ENCODE:
                    self.spend(len(text))
                    return text.encode("latin1")
        raise DataError(
            f"it calls {name[:MAX_NAME]!r} with other arguments than a checkpoint does, and nothing"
            " in it was run"
        )

    def build(self, target: Any, state: Any) -> Any:
        """Returns `target` with a state applied: options get their values.

        PyTorch's metadata of an ordered dict is ignored.
        """
        if isinstance(target, Placeholder):
            return target
        if isinstance(target, dict) and isinstance(state, dict):
            if "_metadata" not in state:
                self.spend(len(state))
                target.update(state)
            return target
        if type(state) is tuple and len(state) <= MAX_ARGUMENTS:
            match target, state:
                case np.dtype(), (int(), "<" | "|", *_):
                    return target
                case Unfilled(), (int(), tuple(shape), np.dtype() as dtype, order, bytes(content)):
                    self._spend_bytes(len(content))
                    _check_measures(0, shape, ())
                    array = np.frombuffer(content, dtype)
                    return array.reshape(shape, order="F" if order else "C")
        raise DataError(f"it sets the state of a {type(target).__name__}")

    def spend(self, work: int) -> None:
        """Counts copied elements or bytes; raises DataError beyond `MAX_WORK`."""
        self._work_left -= work
        if self._work_left < 0:
            raise DataError("its pickle copies more than any checkpoint's does")

    def _spend_bytes(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise DataError("its arrays are larger than the file")

    def _array_or_number(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Returns the value of a call, or None if a checkpoint does not use such arguments."""
        match name, arguments:
            case _, (Storage() as storage, offset, tuple(shape), tuple(strides), *rest):
                if storage.dtype is None:
                    names = [x for x in rest if type(x) is str]
                    raise DataError(
                        f"it holds an array of {', '.join(names)[:MAX_NAME] or 'no known dtype'},"
                        " which is not read: save the weights in float32, float16 or bfloat16"
                    )
                return self._array(storage, offset, shape, strides)
            case _, (Name("numpy ndarray"), (0,), bytes()) if name in RECONSTRUCT:
                return Unfilled()
            case _, (str(code), *_) if name == DTYPE:
                if code.startswith("O"):
                    raise DataError(
                        "it holds a NumPy array of objects (it calls 'numpy dtype' with other"
                        " arguments than a checkpoint does), and nothing in it was run"
                    )
                return np.dtype(f"<{code}") if code in NUMBERS else None
            case _, (np.dtype() as dtype, bytes(content)) if name in SCALARS:
                (number,) = np.frombuffer(content, dtype)
                return number.item()
        return None

    def _array(
        self, storage: Storage, offset: Any, shape: tuple[Any, ...], strides: tuple[Any, ...]
    ) -> np.ndarray:
        _check_measures(offset, shape, strides)
        if len(shape) != len(strides):
            raise DataError(f"an array in it has shape {shape} and strides {strides}")
        size = math.prod(shape)
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # bfloat16 becomes float32, which takes 4 bytes.
        narrow = storage.dtype == ml_dtypes.bfloat16
        self._spend_bytes(size * (4 if narrow else storage.dtype.itemsize))
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
        return array.astype(np.float32) if narrow else array


def named(argument: str) -> Name | Placeholder | str:
    """Returns what a name, "module attribute", stands for; a dtype becomes its name as text.

    Raises:
        DataError: No checkpoint needs this name.
    """
    if argument in ALLOWED:
        return Name(argument)
    shown = argument[:MAX_NAME].replace(" ", ".")
    if TORCH_DTYPE.fullmatch(argument):
        return shown
    if OPAQUE.fullmatch(argument):
        return Placeholder(shown)
    reason = "which a checkpoint has no need of"
    if argument in NOT_READ:
        reason = f"which makes {NOT_READ[argument]}"
    elif argument.startswith(NETWORK_CLASSES):
        reason = "a class of a whole network that was pickled (save its state_dict() instead)"
    raise DataError(f"it names {shown!r}, {reason}: it is refused, and nothing in it was run")


STORAGE_KEY = re.compile(r"\d{1,7}")


def stored(description: Any) -> Storage:
    """Returns the storage that the program refers to.

    Raises:
        DataError: The program refers to another object outside of the pickle.
    """
    match description:
        case ("storage", Name(name), str(key), str(), int(size)) if (
            name in (*STORAGES, UNTYPED_STORAGE) and STORAGE_KEY.fullmatch(key) and size >= 0
        ):
            return Storage(STORAGES.get(name), key, size)
    raise DataError("it refers to something outside of itself that is no storage of an array")


def _join(parts: tuple[str, ...], separator: str) -> str:
    """Joins the parts of a path; the first part may be a root."""
    root = "".join(parts[:1]) if parts and parts[0].endswith(separator) else ""
    return root + separator.join(parts[1:] if root else parts)


def _check_measures(offset: Any, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> None:
    """Raises DataError unless all values are natural numbers, and at most `MAX_DIMENSIONS`."""
    few = max(len(shape), len(strides)) <= MAX_DIMENSIONS
    if not few or not all(type(number) is int for number in (offset, *shape, *strides)):
        raise DataError("an array in it has a shape or strides that no array has")
    if min((offset, *shape, *strides)) < 0:
        raise DataError(f"an array in it has shape {shape} and strides {strides}")
