"""Spreads work over processes, any of which may die of its input or with its parent."""

import itertools
import multiprocessing
import resource
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, TypeVar

from fsvfm_jax.data.segments import name_semaphores, remove_orphans
from fsvfm_jax.errors import DataError
from fsvfm_jax.host.processes import end_with_parent
from fsvfm_jax.host.streams import drop_what_cannot_be_written

T = TypeVar("T")
A = TypeVar("A")
U = TypeVar("U")

SECONDS = 5  # CPU time for one picture; a picture of 48 megapixels takes about 2 seconds
MEMORY_BYTES = 512 * 2**20  # for one picture, in addition to a worker's memory at its start
DIED = f"reading it took over {SECONDS} s or too much memory, or ended the process"
AHEAD = 2  # items that each process has at a time
Work = Callable[[Any], Any]  # returns the result for an item; either may be a list

_work: Work | Exception | None = None  # the work of this process, if it is a worker


def spread(
    items: Iterable[T],
    make: Callable[[A], Work],
    arguments: Sequence[A],
    *,
    idle_seconds: float | None = None,
) -> Iterator[tuple[T, Any] | None]:
    """Yields every item with its result, in the order in which they finish.

    The processes are started by `spawn` and end with their parent. The result is None for an item
    during which a process dies, which takes over SECONDS between two calls of `tick`, or which
    raises MemoryError. The other items that a dead process had are done again.

    Args:
        items: Picklable items.
        make: Called once in each process with its argument; returns the function that does an item.
        arguments: One for each process, such as its device.
        idle_seconds: If given, None is yielded whenever no item finishes for so long.

    Raises:
        Exception: Any other exception of `make` or of the work.
    """
    items = iter(items)
    alone: list[T] = []  # items during which some process may have died
    while True:
        with _pool(make, arguments) as pool:
            ahead = AHEAD * len(arguments)
            alone += yield from _through(pool, items, ahead=ahead, idle_seconds=idle_seconds)
        if not alone:
            return
        while alone:
            item = alone.pop()
            with _pool(make, arguments[:1]) as pool:
                one = iter([item])
                if (yield from _through(pool, one, ahead=1, idle_seconds=idle_seconds)):
                    yield item, None


def in_order(work: Callable[[T], U], items: Iterable[T], *, workers: int) -> Iterator[U]:
    """Yields work(item) for every item in turn.

    Args:
        work: Returns anything except None; picklable.
        items: Picklable items.
        workers: Number of processes, at least 1; with 1 this process does the work.

    Raises:
        DataError: A process dies during an item, even when it has only this item.
    """
    if workers == 1:
        yield from map(work, items)
        return
    done: dict[int, U] = {}
    following = 0
    for (place, item), result in spread(enumerate(items), _of_numbered, [work] * workers):
        if result is None:
            raise DataError(
                f"a process ended while it worked on {str(item)[:200]}: a file may be damaged, or"
                " memory short; see to it and give the command again, with fewer --processes"
            )
        done[place] = result
        while following in done:
            yield done.pop(following)
            following += 1


class Worker:
    """A process that does one item at a time; one that an item ends is replaced.

    Args:
        make: Called once in the process with `argument`; returns the function that does an item.
        argument: The argument of `make`.
    """

    def __init__(self, make: Callable[[A], Work], argument: A):
        self._made_by = make, argument
        self._start()

    def do(self, item: Any, *, seconds: float | int) -> Any:
        """Returns the result for an item, or None if the process ends during the item.

        Args:
            item: A picklable item.
            seconds: The longest time that it may take.

        Raises:
            TimeoutError: The item took longer.
        """
        try:
            self._pipe.send(item)
            if self._pipe.poll(seconds):
                return self._pipe.recv()
        except (EOFError, OSError):
            self._replace()
            return None
        self._replace()
        raise TimeoutError

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, *self._made_by)
        self._process = context.Process(target=_do_from_pipe, args=arguments, daemon=True)
        self._process.start()
        other.close()  # Only the process has it now, so its end is noticed.

    def _replace(self) -> None:
        self.close()
        self._start()


def start_limits() -> None:
    """Limits the memory of this process from now on, and its time for each item.

    The process ends when an item takes too long.
    """
    status = Path("/proc/self/status")
    if status.exists():  # Other systems do not count the memory that this limits.
        data = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
        most = int(data.split()[1]) * 1024 + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # The default action of SIGPROF ends the process, even in the middle of a decoder.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)


def tick() -> None:
    """Restarts the time limit of this process, if it has one, because the work makes progress."""
    if signal.getitimer(signal.ITIMER_PROF)[0]:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)


def _of_numbered(work: Work) -> Work:
    return lambda numbered: work(numbered[1])


def _through(
    pool: ProcessPoolExecutor, items: Iterator[T], *, ahead: int, idle_seconds: float | None
) -> Generator[tuple[T, Any] | None, None, list[T]]:
    """Yields items with results as they finish; returns the items lost when a process died."""
    futures: dict[Future, T] = {}
    lost: list[T] = []
    while not lost:
        for item in itertools.islice(items, ahead - len(futures)):
            try:
                futures[pool.submit(_do, item)] = item
            except BrokenProcessPool:
                lost.append(item)
        if not futures:
            break
        finished = wait(futures, timeout=idle_seconds, return_when=FIRST_COMPLETED).done
        if not finished:
            yield None
        for future in finished:
            item = futures.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                lost.append(item)
            elif isinstance(future.exception(), MemoryError):
                yield item, None  # A process has no memory left even to send the result.
            else:
                yield item, future.result()
    return lost + list(futures.values())


def _pool(make: Callable[[A], Work], arguments: Sequence[A]) -> ProcessPoolExecutor:
    remove_orphans()
    name_semaphores()
    context = multiprocessing.get_context("spawn")
    # The queue has room for few bytes until it is read, so it holds indices and not arguments.
    places = context.SimpleQueue()
    for place in range(len(arguments)):
        places.put(place)
    return ProcessPoolExecutor(
        len(arguments),
        mp_context=context,
        initializer=_start,
        initargs=(make, arguments, places),
    )


def _start(make: Callable[[A], Work], arguments: Sequence[A], places: "SimpleQueue[int]") -> None:
    global _work
    _become_worker()
    try:
        _work = make(arguments[places.get()])
    except Exception as error:  # The error of an initializer would not reach the parent.
        _work = error


def _become_worker() -> None:
    # Ctrl-C reaches every process of the group, and the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_what_cannot_be_written()
    end_with_parent()


def _do_from_pipe(pipe: Connection, make: Callable[[A], Work], argument: A) -> None:
    """Does the items that come through a pipe, and sends their results back."""
    _become_worker()
    work = make(argument)
    while True:
        item = pipe.recv()
        tick()
        pipe.send(work(item))


def _do(item: Any) -> Any:
    if isinstance(_work, Exception):
        raise _work
    tick()
    return _work(item)
