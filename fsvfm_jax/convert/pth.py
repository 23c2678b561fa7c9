"""The reference's files, `.pth` and `.pth.tar`: read without trusting them, written as it reads.

Such a file is a zip archive of raw arrays and one pickle, a small program that says how they hang
together. Running a stranger's program is never needed: the few names that a checkpoint's pickle
calls are known, and whatever names another one is refused before PyTorch sees it.
"""

import argparse
import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from pickletools import genops
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fsvfm_jax.errors import ConfigError, DataError

# All that a checkpoint's pickle has to name: tensors, the reference's options, which are inert, and
# NumPy's single numbers (a threshold, an epoch's error), for which something inert stands in.
ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "argparse Namespace",
    "numpy.core.multiarray scalar",
    "numpy._core.multiarray scalar",
    "numpy dtype",
    "_codecs encode",
    *(
        f"torch {kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
    ),
}
# ViT-H with its optimizer: 0.25 MB of pickle and 2,200 arrays.
MAX_PICKLE_BYTES = 500_000
MAX_ENTRIES = 100_000
MAX_DIRECTORY_BYTES = 2**24
NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")
# Before it a file could write past the end of an array in spite of weights_only: CVE-2026-24747.
MIN_TORCH = (2, 10)
STATE_DICT_KEYS = ("model", "state_dict")


class Pth(NamedTuple):
    """A file's content.

    Attributes:
        state_dict: The network's arrays by the reference's names.
        extra: Everything else, such as `optimizer`, `epoch`, `args` (a dict) or `threshold`.
        sha256: Of the file.
    """

    state_dict: dict[str, np.ndarray]
    extra: dict[str, Any]
    sha256: str


def read(path: str | os.PathLike[str], *, sha256: str | None = None) -> Pth:
    """Reads a checkpoint as arrays and plain values; nothing in it is executed.

    Args:
        path: The file.
        sha256: What the file's hash must be, in hexadecimal; None for any.

    Raises:
        DataError: The file is missing, of another format or another hash, damaged, or names
            anything that a checkpoint need not.
        ConfigError: PyTorch is missing or too old.
    """
    path = Path(path)
    try:
        with _SmallReads(io.FileIO(path)) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 is not None and digest != sha256.lower():
                raise DataError(f"{path} has SHA-256 {digest}, not {sha256} as was asked for")
            _check_archive(path, file)
            content = _load(path, file.raw)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    key = next((key for key in STATE_DICT_KEYS if isinstance(content.get(key), dict)), None)
    state_dict = content if key is None else content[key]
    for name, array in state_dict.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise DataError(
                f"{path} holds no network: {name!r} of it is a {type(array).__name__}, not an"
                f" array. Its keys are {', '.join(map(repr, list(content)[:5]))}"
            )
    extra = {} if key is None else {k: value for k, value in content.items() if k != key}
    return Pth(state_dict, extra, digest)


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    *,
    key: str = "model",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a file that the reference loads, strict.

    Args:
        path: The file, replaced if it is there.
        state_dict: Arrays by the reference's names.
        key: What the reference calls it: "model", or "state_dict" for anti-spoofing.
        extra: More entries; arrays in it become tensors.

    Raises:
        ConfigError: PyTorch is missing or too old.
    """
    torch = _import_torch()

    def to_torch(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: to_torch(item) for name, item in value.items()}
        if isinstance(value, np.ndarray | np.generic):
            return torch.from_numpy(np.array(value))
        return value

    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    torch.save({key: to_torch(dict(state_dict))} | to_torch(dict(extra or {})), unfinished)
    unfinished.replace(path)


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuses all but an undamaged zip archive whose pickle names only what is `ALLOWED`."""
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise DataError(
            f"{path} is no zip archive, the one form of checkpoint that is read here: save it again"
            " with torch.save of PyTorch 1.6 or later, where you trust it"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            total = sum(entry.file_size for entry in entries)
            if len(pickles) != 1 or len(names) != len(entries) or len(entries) > MAX_ENTRIES:
                raise DataError(f"{path} is a zip archive but no checkpoint of PyTorch")
            # PyTorch does not compress: what unpacks to more than the file is made to fill memory.
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or (
                total > path.stat().st_size
            ):
                raise DataError(f"{path} is compressed or overlapping, as no checkpoint is")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise DataError(
                    f"{path} has a pickle of {pickles[0].file_size} bytes, where a checkpoint's has"
                    f" {MAX_PICKLE_BYTES} at most"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise DataError(f"{path} is damaged: the checksum of {damaged} in it is wrong")
            _check_pickle(path, archive.read(pickles[0]))
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path} is damaged, perhaps cut off: {error}") from error


class _SmallReads(io.BufferedReader):
    """A file for zipfile, which would take in a directory of any length before anyone can look."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory of {size} bytes is no checkpoint's")
        return super().read(size)


def _check_pickle(path: Path, program: bytes) -> None:
    """Reads the pickle's names without running it."""
    strings: list[str] = []
    for opcode, argument, _ in genops(program):
        if opcode.name == "GLOBAL" and argument in ALLOWED:
            continue
        # The other ways to name things; PyTorch writes none of them.
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            name = " ".join(strings[-2:]) if argument is None else str(argument)
            raise DataError(
                f"{path} names {name.replace(' ', '.')!r}, which a checkpoint has no need of: it is"
                " refused, and nothing in it was run"
            )
        if isinstance(argument, str):
            strings.append(argument)


def _load(path: Path, file: BinaryIO) -> dict[Any, Any]:
    torch = _import_torch()
    file.seek(0)
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *INERT]):
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise DataError(f"it holds a {type(content).__name__} and no network")
        return _to_numpy(content, torch, limit=path.stat().st_size, seen={})
    # A hostile file can make the loader fail in any way; each is a refusal.
    except Exception as error:
        reason = str(error).split("\n")[0] if isinstance(error, DataError) else type(error).__name__
        raise DataError(f"{path} cannot be loaded safely ({reason}): it is refused") from error


class _Dtype:
    """Stands in for NumPy's, which would take a stranger's state without looking."""

    def __init__(self, code: str, *_: Any):
        if code not in NUMBERS:
            raise DataError(f"a number in it has the dtype {code!r:.20}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise DataError("a number in it has another byte order")


def _scalar(dtype: _Dtype, content: bytes) -> float | int | bool:
    (number,) = np.frombuffer(content, dtype.code)
    return number.item()


INERT = (
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
)


def _to_numpy(value: Any, torch: ModuleType, *, limit: int, seen: dict[int, Any]) -> Any:
    """Tensors to NumPy and options to a dict, at any depth; bfloat16, exactly, to float32.

    What occurs many times is done once: lists of lists of the same list could go on for ever.
    """
    if id(value) in seen:
        return seen[id(value)]
    convert = partial(_to_numpy, torch=torch, limit=limit, seen=seen)
    result = value
    if isinstance(value, torch.Tensor):
        if value.numel() * value.element_size() > limit:
            raise DataError("an array in it is larger than the file")
        result = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif isinstance(value, argparse.Namespace):
        result = convert(vars(value))
    elif isinstance(value, dict):
        result = {name: convert(item) for name, item in value.items()}
    elif isinstance(value, list | tuple):
        result = [convert(item) for item in value]
    seen[id(value)] = result
    return result


def _import_torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            "files of PyTorch need PyTorch: pip install '.[convert]' in the project's folder"
        ) from error
    version = tuple(int(number) for number in torch.__version__.split(".")[:2])
    if version < MIN_TORCH:
        raise ConfigError(
            f"PyTorch {torch.__version__} is too old to load a file safely:"
            " pip install '.[convert]' brings 2.10 or later"
        )
    return torch
