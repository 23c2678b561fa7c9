"""Reads the pickle in a PyTorch file as a description of arrays and plain values.

A pickle is a program for a small stack machine that may call anything. A checkpoint's pickle calls
about twenty functions, none of which needs Python's unpickler. This module implements the machine,
and `pickle_calls.py` only those functions, so nothing in a file can run. The cost of an instruction
is proportional to its bytes, or its copies are counted.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pickletools import genops
from typing import Any, NamedTuple

from fsvfm_jax.convert.pickle_calls import Calls, Unfilled, named, stored
from fsvfm_jax.errors import DataError

# Larger whole numbers have the same hashes as smaller ones in Python, which makes dicts slow.
MAX_INTEGER_KEY = 2**61 - 2
# The containers of a checkpoint are nested about 10 deep.
MAX_DEPTH = 100
# Limit of values and characters in the result, written out; ViT-H with its optimizer has 110,000.
MAX_TREE = 1_000_000

# The errors that a wrong stack or a wrong name in a program can cause.
NONSENSE = (
    *(IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError),
    DeprecationWarning,
)

VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINSTRING"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
}
MARK = object()
CONTAINERS = (dict, list, tuple)


def read_pickle(
    program: bytes, *, read_storage: Callable[[str], bytes], max_array_bytes: int
) -> Any:
    """Returns the content of a pickle: dicts, lists, tuples, plain values and NumPy arrays.

    Options become dicts, sets become lists, paths and devices become text, and bfloat16 becomes
    float32 without loss.

    Args:
        program: The pickle.
        read_storage: Returns the bytes of the storage with a key.
        max_array_bytes: Limit of the bytes of all arrays together.

    Raises:
        DataError: The program uses names or instructions that no checkpoint needs, copies, nests or
            repeats more than any checkpoint does, or its arrays do not fit their storages.
    """
    machine = _Machine(Calls(read_storage, max_array_bytes))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # for escapes in names
            for opcode, argument, _ in genops(program):
                if opcode.name != "STOP":  # the last instruction
                    machine.run(opcode.name, argument)
        content = machine.stack.pop()
    except NONSENSE as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise DataError(f"its pickle makes no sense ({reason})") from error
    _check_tree(content)
    return content


class _Machine:
    """Stack and memo of a pickle; `run` executes one instruction."""

    def __init__(self, calls: Calls):
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._calls = calls

    def run(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "GLOBAL":
                stack.append(named(argument))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(named(f"{module} {attribute}"))
            case "MARK":
                stack.append(MARK)
            case "BINPUT" | "LONG_BINPUT":
                self._put(argument)
            case "MEMOIZE":
                self._put(len(self._memo))
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case _ if opcode in VALUES:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(reversed([stack.pop() for _ in range(int(opcode[-1]))])))
            case "TUPLE":
                stack.append(tuple(self._from_mark()))
            case "FROZENSET":
                stack.append(self._from_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = self._from_mark()
                _set_items(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "APPENDS" | "ADDITEMS":
                items = self._from_mark()
                _list(stack[-1]).extend(items)
            case "BINPERSID":
                stack.append(stored(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self._calls.call(called, arguments))
            case "BUILD":
                state = stack.pop()
                self._build(state)
            case _:
                raise DataError(
                    f"its pickle has the instruction {opcode}, as no checkpoint's has: it is"
                    " refused, and nothing in it was run"
                )

    def _put(self, key: int) -> None:
        value = self._memo[key] = self.stack[-1]
        if isinstance(value, Unfilled):
            value.memo_keys.append(key)

    def _build(self, state: Any) -> None:
        target = self.stack[-1]
        built = self.stack[-1] = self._calls.build(target, state)
        if isinstance(target, Unfilled):
            self._memo.update(dict.fromkeys(target.memo_keys, built))

    def _from_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise DataError("it sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):
            raise DataError(f"a key in it is a {type(key).__name__}")
        if isinstance(key, int) and abs(key) > MAX_INTEGER_KEY:
            raise DataError(f"a whole number in it is beyond {MAX_INTEGER_KEY}")
        target[key] = value


def _list(target: Any) -> list[Any]:
    if not isinstance(target, list):
        raise DataError("it appends to what is no list")
    return target


class _Tree(NamedTuple):
    """Levels of containers in a value, and the size of the value written out as a tree."""

    height: int
    size: int


def _check_tree(content: Any) -> None:
    """Raises DataError if containers nest too deeply, contain themselves or repeat too often.

    A program of a few bytes can make a container whose items are the same container twice, and so
    on: code that writes out or compares such a value would never end. Each container is visited
    once, however often it is contained; `trees` maps the containers on the path from `content` to
    the current container to None.
    """
    trees: dict[int, _Tree | None] = {}
    waiting = [content]
    while waiting:
        container = waiting[-1]
        if trees.get(id(container)):
            waiting.pop()
            continue
        inner = [x for x in _items(container) if isinstance(x, CONTAINERS)]
        if id(container) not in trees:
            trees[id(container)] = None
            if any(id(x) in trees and trees[id(x)] is None for x in inner):
                raise DataError("its pickle makes no sense: a container in it contains itself")
            waiting += [x for x in inner if id(x) not in trees]
            continue
        below = [trees[id(x)] for x in inner]
        tree = trees[id(container)] = _Tree(
            1 + max((x.height for x in below), default=0),
            1 + sum(x.size for x in below) + sum(map(_leaf_size, _leaves(container))),
        )
        if tree.height > MAX_DEPTH:
            raise DataError(f"its pickle nests containers more than {MAX_DEPTH} deep")
        if tree.size > MAX_TREE:
            raise DataError(
                f"its pickle repeats its containers and texts to more than {MAX_TREE} values and"
                " characters"
            )


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list | tuple) else ()


def _leaves(container: Any) -> Iterator[Any]:
    if isinstance(container, dict):
        yield from container
    yield from (x for x in _items(container) if not isinstance(x, CONTAINERS))


def _leaf_size(leaf: Any) -> int:
    return max(1, len(leaf)) if isinstance(leaf, str | bytes) else 1
