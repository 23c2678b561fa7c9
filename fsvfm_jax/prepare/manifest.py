"""What became of every item: `manifest.jsonl`, and what makes a killed stage go on.

A stage appends the lines of each finished item to its journal, and at its end rewrites the manifest
sorted: killed or not, the bytes are the same. An item without lines is done again, and what it had
written is written again. Files get their name only when they are whole. Lines of items that other
machines did are kept in files of their own (`keep_lines`) until the journal has them.

A tree may come from anyone: nothing is written or removed through a link that leads out of it.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fsvfm_jax.errors import ConfigError, DataError, StorageError, reason_of
from fsvfm_jax.host.json_files import parse_json, read_json
from fsvfm_jax.host.plain_files import append_plain, open_plain
from fsvfm_jax.prepare.files import refuse_link

TREE_MANIFEST = "manifest.jsonl"
OPTIONS_FILE = "options.json"
UNFINISHED = ".unfinished"
MAX_LINES_BYTES = 2**36  # of a file of lines: some hundred million
MAX_LINE_BYTES = 2**24  # the longest is that of a video's frames in a journal

Line = dict[str, Any]


class Manifest:
    """The lines of one stage in a tree, and which of its items are done.

    To be used in a `with`; while it is open no other process works in the tree.

    Args:
        tree: The folder; made if missing.
        stage: Name of the stage, which every line of it has as its "stage".
        key: The entry of a line that names its item.
        options: What the stage's result depends on.

    Attributes:
        tree: The folder.
        stage: The stage's name.

    Raises:
        ConfigError: The tree was made with other options, or is being worked in.
        DataError: A file of it is damaged, or a folder in which stages write is a link.
        StorageError: It cannot be written.
    """

    def __init__(self, tree: Path, stage: str, *, key: str, options: Mapping[str, Any]):
        self.tree, self.stage = tree, stage
        self._key, self._options = key, options
        self._journal_file = tree / f".{stage}.jsonl"
        self._lines: dict[str, list[str]] = {}

    def __enter__(self) -> "Manifest":
        with contextlib.ExitStack() as undo, storage(self.tree):
            undo.enter_context(alone_in(self.tree, doing="prepares"))
            for name in ("images", "parsing_maps", UNFINISHED, f".{self.stage}"):
                refuse_link(self.tree / name)
            _check_options(self.tree, self.stage, self._options)
            shutil.rmtree(self.tree / UNFINISHED, ignore_errors=True)
            (self.tree / UNFINISHED).mkdir(exist_ok=True)  # Others may be at work still.
            _keep_options(self.tree, self.stage, self._options)
            for item, lines in itertools.groupby(self._own_lines(), lambda line: line[self._key]):
                of_item = list(lines)
                # What was refused is tried again: it may have been mended.
                if all(line["outcome"] not in ("refused", "skipped") for line in of_item):
                    self._lines[item] = [json.dumps(line) for line in of_item]
            size = 0
            for entry, lines in self._journal_lines(self._journal_file):
                self._take([{"stage": self.stage, **line} for line in lines])
                size += len(entry)
            self._journal = append_plain(self._journal_file)
            undo.callback(self._close_journal)
            self._journal.truncate(size)
            self.collect()
            self._leave = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave.close()

    def __contains__(self, item: str) -> bool:
        return item in self._lines

    def add(self, lines: list[Line]) -> None:
        """Says what became of an item, whose files are written."""
        lines = [{"stage": self.stage, **line} for line in lines]
        with storage(self.tree):
            self._journal.write(json.dumps(lines).encode() + b"\n")
            self._journal.flush()
        self._take(lines)

    def collect(self) -> None:
        """Adds what was kept by `keep_lines`, but for items that are done already."""
        for file in sorted((self.tree / f".{self.stage}").glob("*.jsonl")):
            for _, lines in self._journal_lines(file):
                if lines[0][self._key] not in self:
                    self.add(lines)
            with storage(self.tree):
                file.unlink()

    def finish(self) -> dict[str, int]:
        """Rewrites the manifest and returns how many of its lines have which outcome."""
        others: dict[str, list[str]] = {}
        for line in read_lines(self.tree):
            if line["stage"] != self.stage:
                others.setdefault(line["stage"], []).append(json.dumps(line))
        own = [line for item in sorted(self._lines) for line in self._lines[item]]
        stages = others | {self.stage: own}
        text = "".join(f"{line}\n" for stage in sorted(stages) for line in stages[stage])
        write_file(self.tree, TREE_MANIFEST, text.encode())
        with storage(self.tree):
            self._journal_file.unlink()
            shutil.rmtree(self.tree / UNFINISHED, ignore_errors=True)
            shutil.rmtree(self.tree / f".{self.stage}", ignore_errors=True)
        return dict(Counter(json.loads(line)["outcome"] for line in own))

    def _close_journal(self) -> None:
        with contextlib.suppress(OSError):  # On a full disk `add` has said so already.
            self._journal.close()

    def _own_lines(self) -> Iterator[Line]:
        for line in read_lines(self.tree):
            if line["stage"] == self.stage:
                yield _check_line(line, self.tree / TREE_MANIFEST, "outcome", self._key)

    def _journal_lines(self, file: Path) -> Iterator[tuple[bytes, list[Line]]]:
        """Yields the entries of a journal, each with the lines of an item that it holds."""
        for entry, lines in _entries(file, list[Line], may_be_torn=True):
            if not lines:
                raise DataError(f"{file} is damaged: an entry has no line; remove it")
            yield entry, [_check_line(line, file, "outcome", self._key) for line in lines]

    def _take(self, lines: list[Line]) -> None:
        self._lines[lines[0][self._key]] = [json.dumps(line) for line in lines]


def keep_lines(tree: Path, stage: str, of_items: list[list[Line]]) -> None:
    """Keeps the lines of items, whose files are written, for the process that has the manifest."""
    text = "".join(json.dumps(lines) + "\n" for lines in of_items).encode()
    # Items done twice, as a pipeline may have them, are kept once.
    write_file(tree, f".{stage}/{hashlib.sha256(text).hexdigest()}.jsonl", text)


def read_lines(tree: Path) -> Iterator[Line]:
    """Yields the lines of a tree's manifest; none if there is no manifest."""
    file = tree / TREE_MANIFEST
    for _, line in _entries(file, Line):
        yield _check_line(line, file, "stage")


@contextlib.contextmanager
def new_files(tree: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A `with` that gives a function to write files of a tree: all of them whole, or none.

    Raises:
        DataError: A link in the tree leads them out of it.
        StorageError: They cannot be written.
    """
    # Threads, processes and containers may have one number, and hosts one name.
    folder = tree / UNFINISHED / uuid.uuid4().hex
    _refuse_way_out(tree, folder)
    names: list[str] = []

    def write(name: str, data: bytes) -> None:
        with storage(tree):
            folder.mkdir(exist_ok=True)
            (folder / str(len(names))).write_bytes(data)
        names.append(name)

    try:
        yield write
        for name in names:
            _refuse_way_out(tree, tree / name)
        with storage(tree):
            for number, name in enumerate(names):
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / str(number)).replace(tree / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_file(tree: Path, name: str, data: bytes) -> None:
    """Writes one file of a tree, whole or not at all; see `new_files`."""
    with new_files(tree) as write:
        write(name, data)


def _refuse_way_out(tree: Path, file: Path) -> None:
    """Raises DataError if links lead a file of a tree, which need not exist, out of the tree."""
    if not Path(os.path.realpath(file.parent)).is_relative_to(os.path.realpath(tree)):
        raise DataError(
            f"{file.parent} is a link out of {tree}, or is in one, and nothing is written through"
            " it; put the folder itself in the link's place, or remove the link"
        )


@contextlib.contextmanager
def alone_in(folder: Path, *, doing: str) -> Iterator[None]:
    """A `with` in which no other process works in the folder, which is made if missing.

    Raises:
        ConfigError: One does; `doing` is the verb for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(
            f"another process {doing} {folder}; wait for it, or name another folder"
        ) from error
    finally:
        os.close(opened)


@contextlib.contextmanager
def storage(place: Path) -> Iterator[None]:
    """A `with` in which what the system refuses is a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written ({reason_of(error)}); make room or choose another folder,"
            " and give the command again: it goes on where it stopped"
        ) from error


def kept_options(tree: Path) -> dict[str, dict[str, Any]]:
    """Returns what each stage's result in a tree depends on, by the stage's name."""
    file = tree / OPTIONS_FILE
    if not os.path.lexists(file):
        return {}
    try:
        return read_json(file, dict[str, dict[str, Any]])
    except (OSError, ValueError) as error:
        raise _damaged(file, "", error) from error


def _check_options(tree: Path, stage: str, options: Mapping[str, Any]) -> None:
    before = kept_options(tree).get(stage, options)
    changed = [
        f"{name} was {before.get(name)} and is {options.get(name)}"
        for name in sorted({*before, *options})
        if before.get(name) != options.get(name)
    ]
    if changed:
        raise ConfigError(
            f"{tree} was made by {stage} with other options: {', '.join(changed)}; give the same"
            " again, or name another folder"
        )


def _keep_options(tree: Path, stage: str, options: Mapping[str, Any]) -> None:
    text = json.dumps({**kept_options(tree), stage: dict(options)}, indent=1, sort_keys=True)
    write_file(tree, OPTIONS_FILE, text.encode() + b"\n")


def _entries(file: Path, schema: Any, *, may_be_torn: bool = False) -> Iterator[tuple[bytes, Any]]:
    """Yields the lines of a file, each with the JSON in it; none if there is no file.

    Args:
        file: The file.
        schema: What every line holds.
        may_be_torn: Whether half a line at the end is passed over, as a killed run leaves it.
    """
    if not os.path.lexists(file):
        return
    number = 0
    try:
        with open_plain(file, max_bytes=MAX_LINES_BYTES, follow_links=False) as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES:
                    raise ValueError(f"it has over {MAX_LINE_BYTES} bytes")
                if may_be_torn and not line.endswith(b"\n"):
                    return
                yield line, parse_json(line, schema)
    except (OSError, ValueError) as error:
        raise _damaged(file, f" in line {number}", error) from error


def _check_line(line: Line, file: Path, *names: str) -> Line:
    """Returns the line if it has a text of each name."""
    for name in names:
        if not isinstance(line.get(name), str):
            raise DataError(
                f"{file} is damaged: a line has no {name!r}; remove the file to do all its items"
                " again"
            )
    return line


def _damaged(file: Path, where: str, error: OSError | ValueError) -> DataError:
    reason = reason_of(error)
    return DataError(f"{file} is damaged{where} ({reason}); remove it to do all its items again")
