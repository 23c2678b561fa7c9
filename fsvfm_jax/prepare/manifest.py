"""Records the outcome of every item in `manifest.jsonl`, so that a killed stage can continue.

A stage appends the lines of each finished item to its journal, and rewrites the sorted manifest at
its end, with the same bytes whether the stage was killed or not. An item without lines is done
again, and its files are written again. A file gets its name only when it is complete. Lines from
other machines are kept in separate files (`keep_lines`) until they are in the journal.

A tree may come from anyone: nothing is written or removed through a link that leads out of it.
"""

import contextlib
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
from fsvfm_jax.host.locks import alone_in
from fsvfm_jax.host.plain_files import append_plain, open_plain
from fsvfm_jax.prepare.files import refuse_link

TREE_MANIFEST = "manifest.jsonl"
OPTIONS_FILE = "options.json"
UNFINISHED = ".unfinished"
MAX_LINES_BYTES = 2**36  # a file of about a hundred million lines
MAX_LINE_BYTES = 2**24  # The longest line is that of a video's frames in a journal.

Line = dict[str, Any]


class Manifest:
    """The lines of one stage in a tree, and the items that are done.

    Use it in a `with` statement; no other process can work in the tree until it ends.

    Args:
        tree: The folder, created if missing.
        stage: Name of the stage, the value of "stage" in each of its lines.
        key: Key of a line that names the line's item.
        options: Options that determine the stage's result.

    Attributes:
        tree: The folder.
        stage: Name of the stage.

    Raises:
        ConfigError: The tree was made with other options, or another process works in it.
        DataError: A file of the manifest is damaged, or a folder in which stages write is a link.
        StorageError: The tree cannot be written.
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
            # The folder may exist again already, because other machines may still work.
            (self.tree / UNFINISHED).mkdir(exist_ok=True)
            _keep_options(self.tree, self.stage, self._options)
            for item, lines in itertools.groupby(self._own_lines(), lambda line: line[self._key]):
                of_item = list(lines)
                # A refused item is tried again, because its file may have been repaired.
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
        """Adds the lines of an item after its files were written."""
        lines = [{"stage": self.stage, **line} for line in lines]
        with storage(self.tree):
            self._journal.write(json.dumps(lines).encode() + b"\n")
            self._journal.flush()
        self._take(lines)

    def collect(self) -> None:
        """Adds the lines that `keep_lines` has kept, without those of items that are done."""
        for file in sorted((self.tree / f".{self.stage}").glob("*.jsonl")):
            for _, lines in self._journal_lines(file):
                if lines[0][self._key] not in self:
                    self.add(lines)
            with storage(self.tree):
                file.unlink()

    def finish(self) -> dict[str, int]:
        """Rewrites the manifest and returns the number of its lines by outcome."""
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
        with contextlib.suppress(OSError):  # On a full disk `add` has raised the error already.
            self._journal.close()

    def _own_lines(self) -> Iterator[Line]:
        for line in read_lines(self.tree):
            if line["stage"] == self.stage:
                yield _check_line(line, self.tree / TREE_MANIFEST, "outcome", self._key)

    def _journal_lines(self, file: Path) -> Iterator[tuple[bytes, list[Line]]]:
        """Yields the entries of a journal, each with the lines of its item."""
        for entry, lines in _entries(file, list[Line], may_be_torn=True):
            if not lines:
                raise DataError(f"{file} is damaged: an entry has no line; remove it")
            yield entry, [_check_line(line, file, "outcome", self._key) for line in lines]

    def _take(self, lines: list[Line]) -> None:
        self._lines[lines[0][self._key]] = [json.dumps(line) for line in lines]


def keep_lines(tree: Path, stage: str, of_items: list[list[Line]]) -> None:
    """Keeps the lines of items whose files are written, for the process that has the manifest.

    Args:
        tree: The tree.
        stage: Name of the stage.
        of_items: Lines of each item.
    """
    text = "".join(json.dumps(lines) + "\n" for lines in of_items).encode()
    # A pipeline may do items twice; the name by hash makes them one file.
    write_file(tree, f".{stage}/{hashlib.sha256(text).hexdigest()}.jsonl", text)


def read_lines(tree: Path) -> Iterator[Line]:
    """Yields the lines of a tree's manifest, or nothing if there is no manifest."""
    file = tree / TREE_MANIFEST
    for _, line in _entries(file, Line):
        yield _check_line(line, file, "stage")


@contextlib.contextmanager
def new_files(tree: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Yields a function that writes files of a tree, so that all of them become complete, or none.

    Args:
        tree: The tree. The yielded function takes the path of a file in it, and the content.

    Raises:
        DataError: A link in the tree leads the files out of it.
        StorageError: The files cannot be written.
    """
    # The name is random, because threads and containers may share numbers, and hosts names.
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
    """Writes one file of a tree, completely or not at all; see `new_files`."""
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
def storage(place: Path) -> Iterator[None]:
    """Turns an OSError within the `with` statement into a StorageError that names the place.

    Args:
        place: The folder or file that is written.

    Raises:
        StorageError: The system refuses to write.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{place} cannot be written ({reason_of(error)}); make room or choose another folder,"
            " and give the command again: it goes on where it stopped"
        ) from error


def kept_options(tree: Path) -> dict[str, dict[str, Any]]:
    """Returns the options that determined each stage's result in a tree, by the stage's name.

    Raises:
        DataError: The file of the options is damaged.
    """
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
    """Yields the lines of a file, each with its JSON value, or nothing if there is no file.

    Args:
        file: The file.
        schema: Type of the value of every line.
        may_be_torn: Whether to ignore half a line at the end, which a killed run leaves.
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
    """Returns the line if it has a string for each name; raises DataError otherwise."""
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
